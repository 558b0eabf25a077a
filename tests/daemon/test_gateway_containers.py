"""Containers that a client of the gateway asks for, and the processes in them."""

import os
import shutil
import signal
import threading
import time
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import grpc
import pytest

from kedge.containers.streams import Streams
from kedge.daemon.buildkit.containers import Container, Running, Settings
from kedge.daemon.buildkit.processes import Conversation
from kedge.daemon.wire import gateway, llb
from kedge.model import ops
from kedge.model.errors import Cancelled
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import Copy, File, MakeDir, MakeFile, Source
from kedge.sandbox.fake import FakeExecutor
from kedge.sandbox.process import HostPath, MountPoint
from tests.daemon.driver import PATIENCE, Driver, Processes

pytestmark = pytest.mark.namespace


@pytest.fixture
def driver(connect, tmp_path):
    program = shutil.which("busybox")
    if not program:
        pytest.skip("busybox is not installed (apt-get install busybox-static)")
    shutil.copy(program, tmp_path / "busybox")
    client = connect(directories={"tools": tmp_path}, lent={"s": b"the secret"})
    return Driver(client)


@pytest.fixture
def root(driver):
    """The reference of a file system with a shell and a user."""
    make = File(
        (
            Copy("/busybox", "/bin/sh", -1, 0, -1, create_dest_path=True),
            MakeDir("/etc", 0o755, False, 1, -1),
            MakeFile("/etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:7:8::/home/app:/bin/sh\n", 0o644, 2, -1),
            MakeDir("/tmp", 0o1777, False, 3, 0),
        )
    )
    return driver.solve(Edge(Vertex(make, (Edge(Vertex(Source("local://tools"))),)))).ref.id


def shell(text):
    return ("/bin/sh", "-c", text)


def children(pid):
    """The processes that a process started and that live."""
    found = []
    for entry in os.listdir("/proc"):
        with suppress(OSError, IndexError), open(f"/proc/{entry}/stat") as file:
            if file.read().rpartition(")")[2].split()[1] == str(pid):
                found.append(entry)
    return found


def test_all_steps_of_a_build_have_one_helper(driver, service):
    for number in range(3):
        step = ops.Exec(shell(f"echo {number}"), (ops.Mount("/", input=0, output=0),), cwd="/")
        tools = Edge(Vertex(Source("local://tools")))
        copied = Vertex(File((Copy("/busybox", "/bin/sh", -1, 0, 0, create_dest_path=True),)), (tools,))
        driver.solve(Edge(Vertex(step, (Edge(copied),))))
    assert len(children(service.process.pid)) == 1
    driver.end()


def test_a_process_says_what_it_did_in_order(driver, root):
    processes = Processes(driver)
    id = processes.start(driver.container(root), *shell("echo out; echo err >&2; exit 3"), fds=(1, 2))
    exit = processes.wait(id)
    assert exit.Code == 3
    assert exit.Error.message == "exit code: 3"
    assert (processes.output[id, 1], processes.output[id, 2]) == (b"out\n", b"err\n")
    kinds = [kind for _, kind in processes.told]
    assert kinds[0] == "Started"
    assert kinds[-4:] == ["Exit", "File", "File", "Done"]
    processes.end()
    assert processes.failure is None


def test_processes_of_a_container_share_its_files_and_end_with_its_first(driver, root):
    processes, container = Processes(driver), driver.container(root)
    first = processes.start(container, *shell("cat"))
    assert processes.run(container, *shell("echo kept > /tmp/x")) == (0, b"")
    assert processes.run(container, *shell("cat /tmp/x")) == (0, b"kept\n")
    second = processes.start(container, *shell("echo here; sleep 1000"))
    processes.wait_for_output(second, b"here")
    processes.give(first, b"the end", end=True)
    assert processes.wait(first).Code == 0
    assert processes.output[first, 1] == b"the end"
    assert processes.wait(second).Code == 128 + signal.SIGKILL
    assert "has ended" in processes.wait(processes.start(container, *shell("true"))).Error.message
    other = driver.container(root)
    assert processes.run(other, *shell("cat /tmp/x"))[0] == 1  # what one wrote, no other sees


def test_a_terminal_has_its_size_and_echoes(driver, root):
    processes = Processes(driver)
    id = processes.start(driver.container(root), *shell("read x; stty size; echo $TERM"), fds=(0, 1), Tty=True)
    processes.wait_for(id, "Started")
    processes.send(id, Resize=gateway.ResizeMessage(Rows=41, Cols=83))
    processes.give(id, b"go\n")
    assert processes.wait(id).Code == 0
    assert processes.output[id, 1].split() == [b"go", b"41", b"83", b"xterm"]


def test_signals_reach_the_process_they_are_for(driver, root):
    processes, container = Processes(driver), driver.container(root)
    first = processes.start(container, *shell("cat"))
    second = processes.start(container, *shell("trap 'exit 9' HUP; echo set; while :; do sleep 0.1; done"))
    processes.wait_for_output(second, b"set")
    processes.send(second, Signal=gateway.SignalMessage(Name="HUP"))
    assert processes.wait(second).Code == 9
    processes.send(first, Signal=gateway.SignalMessage(Name="KILL"))
    assert processes.wait(first).Code == 128 + signal.SIGKILL


def test_environment_user_and_secrets_are_what_was_asked_for(driver, root):
    processes = Processes(driver)
    secret = llb.SecretEnv(ID="s", name="S")
    meta = {"env": ["A=1"], "user": "app", "cwd": "/work"}
    code, said = processes.run(
        driver.container(root, hostname="there", extraHosts=[llb.HostIP(Host="far", IP="10.1.2.3")]),
        *shell('echo $A $S $HOME; id -u; pwd; hostname; grep -c far /etc/hosts; echo "$PATH"'),
        meta=meta,
        secretenv=[secret],
    )
    assert code == 0, said
    lines = said.decode().splitlines()
    assert lines[:5] == ["1 the secret /home/app", "7", "/work", "there", "1"]
    assert lines[5].startswith("/usr/local/sbin:")
    missing = processes.start(driver.container(root), *shell("true"), secretenv=[llb.SecretEnv(ID="none", name="S")])
    assert processes.wait(missing).Error.message.startswith("secret none: not found")


def test_every_kind_of_mount_is_there_and_can_be_looked_into(driver, root):
    data = driver.solve(Edge(Vertex(File((MakeFile("/f", b"mounted", 0o644, -1, 0),))))).ref.id
    cache = llb.CacheOpt(ID="c", sharing=llb.SHARED)
    container = driver.container(
        root,
        llb.Mount(dest="/data", resultID=data, readonly=True),
        llb.Mount(dest="/rw", resultID=data),
        llb.Mount(dest="/cache", mountType=llb.CACHE, cacheOpt=cache),
        llb.Mount(dest="/mem", mountType=llb.TMPFS),
        llb.Mount(dest="/s", mountType=llb.SECRET, secretOpt=llb.SecretOpt(ID="s", mode=0o400)),
        llb.Mount(dest="/none", mountType=llb.SECRET, secretOpt=llb.SecretOpt(ID="none", optional=True)),
    )
    processes = Processes(driver)
    text = "cat /data/f /rw/f /s; echo new > /rw/f; echo kept > /cache/f; echo x > /mem/f; echo no > /data/f"
    code, said = processes.run(container, *shell(text))
    assert code == 1
    assert said.startswith(b"mountedmountedthe secret")
    assert b"Read-only" in said

    def read(index, path):
        request = gateway.ReadFileRequest(Ref=container, MountIndex=index, FilePath=path)
        return driver.call("ReadFileContainer", request).Data

    assert [read(1, "/f"), read(2, "/f"), read(3, "/f")] == [b"mounted", b"new\n", b"kept\n"]
    told = driver.call("StatFileContainer", gateway.StatFileRequest(Ref=container, MountIndex=2, Path="/f"))
    assert told.stat.size == 4
    listed = driver.call("ReadDirContainer", gateway.ReadDirRequest(Ref=container, MountIndex=0, DirPath="/"))
    assert {"bin", "etc", "tmp"} <= {one.path for one in listed.entries}
    for index, path in ((2, "/../../../../etc/passwd"), (9, "/f"), (-1, "/f"), (5, "/"), (2, "/f\0")):
        with pytest.raises(grpc.RpcError):
            read(index, path)
    assert read(0, "/../../etc/passwd").startswith(b"root:x:0:0::/root")  # the root's own: a path stops at it


def test_a_step_that_mounts_one_locked_cache_twice_does_not_wait_for_itself(driver, root):
    locked = ops.CacheOptions("twice", "locked")
    mounts = (
        ops.Mount("/", 0, 0),
        ops.Mount("/a", -1, -1, kind="cache", cache=locked),
        ops.Mount("/b", -1, -1, kind="cache", cache=locked),
    )
    step = ops.Exec(shell("echo same > /a/f; cat /b/f > /tmp/seen"), mounts)
    make = File((Copy("/busybox", "/bin/sh", -1, 0, -1, create_dest_path=True), MakeDir("/tmp", 0o1777, False, 1, 0)))
    base = Edge(Vertex(make, (Edge(Vertex(Source("local://tools"))),)))
    ref = driver.solve(Edge(Vertex(step, (base,)))).ref.id
    read = driver.call("ReadFile", gateway.ReadFileRequest(Ref=ref, FilePath="/tmp/seen"))
    assert read.Data == b"same\n"


def test_privileges_that_the_build_has_not_are_refused(driver, root):
    processes = Processes(driver)
    insecure = processes.start(driver.container(root), *shell("true"), Security=llb.INSECURE)
    assert "security.insecure is not allowed" in processes.wait(insecure).Error.message
    host = processes.start(driver.container(root, Network=llb.HOST), *shell("true"))
    assert "network.host is not allowed" in processes.wait(host).Error.message
    assert processes.wait(host).Code == 255
    odd = processes.start(driver.container(root), *shell("true"), Security=77)
    assert "invalid security mode" in processes.wait(odd).Error.message


def test_a_released_container_runs_nothing_more(driver, root):
    processes, container = Processes(driver), driver.container(root)
    first = processes.start(container, *shell("echo here; sleep 1000"))
    processes.wait_for_output(first, b"here")
    with pytest.raises(grpc.RpcError) as caught:
        driver.call("ReleaseContainer", gateway.ReleaseContainerRequest(ContainerID=container))
    assert caught.value.details() == "context canceled"
    assert processes.wait(first).Error.message == "context canceled"
    with pytest.raises(grpc.RpcError):
        driver.call("ReleaseContainer", gateway.ReleaseContainerRequest(ContainerID=container))
    processes.start(container, *shell("true"))
    assert processes.wait_for_failure().code() == grpc.StatusCode.NOT_FOUND


def test_what_a_client_leaves_behind_ends_with_it(driver, root, service):
    mark = f"{time.time_ns()}"
    processes, container = Processes(driver), driver.container(root)
    id = processes.start(container, *shell(f"echo {mark}; while :; do sleep 1; done"))
    processes.wait_for_output(id, mark.encode())
    assert running(mark)
    driver.client.close()
    end = time.monotonic() + 60
    while running(mark):
        assert time.monotonic() < end, "the process outlives its client"
        time.sleep(0.1)


def test_processes_whose_client_leaves_while_they_start_all_end(driver, root):
    marks = [f"mark-{number}-{time.time_ns()}" for number in range(20)]
    for number, mark in enumerate(marks):
        processes = Processes(driver)
        processes.start(driver.container(root), *shell(f"echo {mark}; while :; do sleep 1; done"))
        time.sleep(0.003 * number)  # so that some leave in each moment of a start
        processes.stream.cancel()
    end = time.monotonic() + 60
    while left := [mark for mark in marks if running(mark)]:
        assert time.monotonic() < end, f"{len(left)} processes outlive their client"
        time.sleep(0.1)


def running(mark):
    import glob

    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                found.append(mark.encode() in file.read())
        except OSError:
            continue
    return any(found)


@pytest.mark.parametrize(
    "mounts",
    [
        [],
        [llb.Mount(dest="/x")],
        [llb.Mount(dest="/", mountType=llb.TMPFS)],
        [llb.Mount(dest="/"), llb.Mount(dest="/")],
        [llb.Mount(dest="/", resultID="unknown")],
        [llb.Mount(dest="/"), llb.Mount(dest="")],
        [llb.Mount(dest="/"), llb.Mount(dest="/a", mountType=99)],
        [llb.Mount(dest="/"), llb.Mount(dest="/a\0b")],
        [llb.Mount(dest="/"), llb.Mount(dest="/a", mountType=llb.CACHE, cacheOpt=llb.CacheOpt(sharing=77))],
        [llb.Mount(dest="/"), llb.Mount(dest="/a", mountType=llb.SECRET, secretOpt=llb.SecretOpt(ID="none"))],
    ],
)
def test_containers_that_make_no_sense_are_refused(driver, mounts):
    with pytest.raises(grpc.RpcError):
        driver.container(*mounts)


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ({"Init": gateway.InitMessage(ContainerID="none")}, grpc.StatusCode.NOT_FOUND),
        ({"Signal": gateway.SignalMessage(Name="KILL")}, grpc.StatusCode.NOT_FOUND),
        ({"Done": gateway.DoneMessage()}, grpc.StatusCode.NOT_FOUND),
        ({"File": gateway.FdMessage(Fd=77)}, grpc.StatusCode.NOT_FOUND),
    ],
)
def test_messages_about_nothing_end_the_conversation(driver, what, code):
    processes = Processes(driver)
    processes.send("p", **what)
    assert processes.wait_for_failure().code() == code


def test_another_clients_containers_are_not_found(driver, root, connect):
    container = driver.container(root)
    other = Driver(connect())
    with pytest.raises(grpc.RpcError) as caught:
        other.call("ReadFileContainer", gateway.ReadFileRequest(Ref=container, FilePath="/etc/passwd"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_is_still_starting_when_its_client_leaves_ends(number):
    """The `number`th process of a container; how long a start takes is the test's to say, so the sandbox is a fake."""
    starting, go, killed, ended = (threading.Event() for _ in range(4))
    signals = []

    def program(call):
        if len(executor.calls) <= number:  # the container, which another client has
            call.stdio.on_start(signals.append, os.getpid())
            call.stdio.on_program()
            ended.wait(PATIENCE)
            return 0
        starting.set()
        go.wait(PATIENCE)
        call.stdio.on_start(lambda signal: killed.set() if signal == 9 else None, os.getpid())
        call.stdio.on_program()
        return 137 if killed.wait(PATIENCE) else 0

    executor = FakeExecutor(program)
    executor.enter = lambda process, _, stdio: executor.run(process, (root_point,), stdio)
    root_point = MountPoint("/", HostPath("/"))
    parts = SimpleNamespace(entitlements=SimpleNamespace(require_op=lambda _: None), session=None)
    container = Container(parts, executor, Settings(), (root_point,), ExitStack())
    told = gateway.InitMessage(ContainerID="c", Meta=llb.Meta(args=["program"], cwd="/"), Fds=[1])
    others = [Running(Streams(False, False)) for _ in range(number)]
    for other in others:
        container.start(told, other, lambda: None)

    conversation = Conversation(SimpleNamespace(get=lambda _: container))
    threading.Thread(
        target=list, args=(conversation.serve(iter([gateway.ExecMessage(ProcessID="p", Init=told)])),)
    ).start()
    assert starting.wait(PATIENCE)
    conversation.leave()
    go.set()
    try:
        assert killed.wait(10), "the process outlives its client"
    finally:
        for event in (killed, ended):
            event.set()
        container.release()
    assert signals == []  # no other process of the container is touched


def test_nothing_starts_for_a_client_that_has_left():
    conversation = Conversation(SimpleNamespace(get=lambda _: pytest.fail("a container was asked for")))
    conversation.leave()
    message = gateway.ExecMessage(ProcessID="p", Init=gateway.InitMessage(ContainerID="c"))
    with pytest.raises(Cancelled):
        list(conversation.serve(iter([message])))
