"""Containers, with Docker's own client."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.engine.conftest import Docker, running

FOREVER = ("sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")


@pytest.fixture
def up(docker: Docker) -> Iterator[str]:
    """A container that runs until it is told to end."""
    id = docker("run", "-d", "busybox", *FOREVER).strip()
    while docker("logs", id) != "up\n":
        time.sleep(0.05)
    yield id
    docker.run("rm", "-f", id)


def test_streams_and_exit_code_are_the_programs_own(docker: Docker) -> None:
    done = docker.run("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_much_output_comes_whole(docker: Docker) -> None:
    out = docker("run", "--rm", "busybox", "sh", "-c", "seq 200000")
    assert out == "".join(f"{n}\n" for n in range(1, 200001))


def test_standard_input_comes_whole(docker: Docker) -> None:
    data = os.urandom(1 << 20).hex().encode()
    assert docker("run", "--rm", "-i", "busybox", "cat", stdin=data) == data.decode()
    assert docker("run", "--rm", "busybox", "cat", stdin=data) == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [(["busybox", "nosuch"], 127), (["busybox", "/etc/passwd"], 126), (["no/such/image", "x"], 125),
     (["-w", "/etc/passwd", "busybox", "true"], 125)],
)  # fmt: skip
def test_what_cannot_start_has_dockers_exit_codes(docker: Docker, words: list[str], code: int) -> None:
    done = docker.run("run", "--rm", *words)
    assert done.returncode == code, done.stderr
    assert done.stderr.count(words[-1]) <= 2
    assert docker("ps", "-aq", "--filter", "status=created") == ""


def test_user_directory_variables_and_entrypoint(docker: Docker) -> None:
    script = "id -u; pwd; echo $A"
    words = ("run", "--rm", "-u", "nobody", "-w", "/var", "-e", "A=1", "--entrypoint", "sh", "busybox", "-c", script)
    assert docker(*words) == "65534\n/var\n1\n"


def test_binds_tmpfs_and_read_only(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("here\n")
    assert (
        docker("run", "--rm", "-v", f"{tmp_path}:/m", "busybox", "sh", "-c", "cat /m/in; echo back > /m/out")
        == "here\n"
    )
    assert (tmp_path / "out").read_text() == "back\n"
    assert docker.run("run", "--rm", "-v", f"{tmp_path}:/m:ro", "busybox", "touch", "/m/x").returncode == 1
    assert docker.run("run", "--rm", "--read-only", "busybox", "touch", "/x").returncode == 1
    docker("run", "--rm", "--read-only", "--tmpfs", "/t", "busybox", "touch", "/t/x")
    docker(
        "run", "--rm", "--mount", f"type=bind,source={tmp_path},target=/m,readonly", "busybox", "test", "-e", "/m/in"
    )


def test_networks(docker: Docker) -> None:
    inside = docker("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net").split()
    assert "lo" in inside
    assert "eth0" not in inside
    docker("run", "--rm", "--network", "host", "busybox", "true")
    said = docker.run("run", "--rm", "--network", "mine", "busybox", "true").stderr
    assert "network mine not found" in said
    assert "Unable to find image" not in said
    assert docker("network", "ls", "--format", "{{.Name}}").split() == ["bridge", "host", "none"]


@pytest.mark.parametrize(
    ("words", "what"),
    [(["--privileged"], "privileged"), (["--cap-add", "NO_SUCH"], "no_such"), (["-v", "a b:/x"], "a b"),
     (["--restart", "sometimes"], "sometimes"), (["--pid", "host"], "PidMode"), (["--volumes-from", "x"], "volumes of"),
     (["--device", "/etc/passwd"], "/etc/passwd"), (["--security-opt", "seccomp=unconfined"], "seccomp"),
     (["--network", "host", "--sysctl", "net.core.somaxconn=9"], "net."),
     (["--log-driver", "syslog"], "syslog"), (["--mount", "type=bind,src=/nosuch,dst=/x"], "/nosuch")],
)  # fmt: skip
def test_what_kedge_has_not_is_refused_by_name(docker: Docker, words: list[str], what: str) -> None:
    done = docker.run("create", *words, "busybox", "true")
    assert done.returncode == 1
    assert what in done.stderr


def test_a_life_from_create_to_remove(docker: Docker) -> None:
    id = docker("create", "--name", "lived", "busybox", "sh", "-c", "echo once; exit 4").strip()
    assert docker("ps", "-a", "--format", "{{.ID}} {{.Names}} {{.Status}}", "--no-trunc").split()[:3] == [
        id,
        "lived",
        "Created",
    ]
    assert docker.run("start", "-a", "lived").returncode == 4
    assert docker("wait", "lived").strip() == "4"
    assert docker("ps", "-q") == ""
    state = json.loads(docker("inspect", "lived"))[0]
    assert (state["State"]["Status"], state["State"]["ExitCode"], state["Name"]) == ("exited", 4, "/lived")
    assert state["Config"]["Cmd"] == ["sh", "-c", "echo once; exit 4"]
    assert state["HostConfig"]["LogConfig"]["Type"] == "json-file"  # the SDK reads logs of no other kind
    docker("start", "lived")
    docker("wait", "lived")
    assert docker("logs", "lived") == "once\nonce\n"
    docker("rename", "lived", "dead")
    assert "No such container" in docker.run("inspect", "--type", "container", "lived").stderr.replace(
        "no such", "No such"
    )
    docker("rm", "dead")
    assert docker("ps", "-aq") == ""


def test_names_are_taken_and_running_ones_are_kept(docker: Docker) -> None:
    docker("run", "-d", "--name", "one", "busybox", *FOREVER)
    assert "in use" in docker.run("create", "--name", "one", "busybox", "true").stderr
    assert "running" in docker.run("rm", "one").stderr
    assert "is using" in docker.run("rmi", "busybox").stderr
    docker("rm", "-f", "one")


def test_exec_enters_a_running_container(docker: Docker, up: str) -> None:
    docker("exec", up, "sh", "-c", "echo kept > /tmp/kept")
    done = docker.run("exec", up, "sh", "-c", "cat /tmp/kept; echo e >&2; ps | wc -l; exit 3")
    assert done.returncode == 3
    assert done.stdout.startswith("kept\n")
    assert int(done.stdout.split()[1]) < 12
    assert done.stderr == "e\n"
    assert docker("exec", "-i", up, "cat", stdin=b"x" * 300_000) == "x" * 300_000
    assert (
        docker("exec", "-u", "nobody", "-w", "/tmp", "-e", "B=2", up, "sh", "-c", "id -u; pwd; echo $B")
        == "65534\n/tmp\n2\n"
    )
    assert docker.run("exec", up, "nosuch").returncode == 127
    docker("exec", "-d", up, "touch", "/tmp/detached")
    docker("exec", up, "sh", "-c", "while ! test -e /tmp/detached; do sleep 0.1; done")


def test_exec_has_no_more_rights_than_the_container(docker: Docker, up: str) -> None:
    look = ("sh", "-c", "grep -E 'Cap(Eff|Bnd)|Seccomp:|NoNewPrivs' /proc/self/status")
    assert docker("exec", up, *look) == docker("run", "--rm", "busybox", *look)
    assert docker.run("exec", up, "mount", "-t", "tmpfs", "x", "/mnt").returncode != 0
    assert docker("exec", up, "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]
    assert "is not running" in docker.run("exec", docker("create", "busybox", "true").strip(), "true").stderr
    docker("container", "prune", "-f")


def test_exec_shares_the_containers_limits(docker: Docker) -> None:
    started = docker.run("run", "-d", "--pids-limit", "6", "busybox", *FOREVER)
    id = started.stdout.strip()
    if "Limits are discarded" in started.stderr:
        pytest.skip("no cgroups can be made here")
    done = docker.run("exec", id, "sh", "-c", "for n in 1 2 3 4 5 6 7; do sleep 3 & done; wait")
    assert "can't fork" in done.stderr
    docker("rm", "-f", id)


def test_stop_kill_restart_and_signals(docker: Docker, up: str) -> None:
    docker("stop", up)
    assert docker("inspect", "-f", "{{.State.ExitCode}}", up).strip() == "0"
    docker("restart", up)
    docker("kill", up)
    docker("wait", up)
    assert docker("inspect", "-f", "{{.State.ExitCode}}", up).strip() == "137"
    assert "is not running" in docker.run("kill", up).stderr
    started = time.monotonic()
    stubborn = docker("run", "-d", "busybox", "sleep", "1000").strip()
    docker("stop", "-t", "1", stubborn)
    assert time.monotonic() - started < 60
    docker("rm", stubborn)


def test_the_clients_signals_reach_the_program(docker: Docker) -> None:
    words = [
        "docker",
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.05; done",
    ]
    process = subprocess.Popen(words, env=docker.environment, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == b"got\n"
    assert process.returncode == 5


def test_logs_follow_tail_and_tell_times(docker: Docker) -> None:
    id = docker("run", "-d", "busybox", "sh", "-c", "echo a; echo b >&2; sleep 0.7; echo c").strip()
    done = docker.run("logs", "-f", id)
    assert (done.stdout, done.stderr) == ("a\nc\n", "b\n")
    assert docker("logs", "--tail", "1", id) == "c\n"
    assert docker("logs", "-t", "--tail", "1", id).startswith("20")
    docker("rm", id)


def test_copying_in_and_out(docker: Docker, up: str, tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").write_text("deep")
    os.symlink("/etc/hostname", tmp_path / "d" / "link")
    docker("cp", tmp_path / "d", f"{up}:/tmp")
    assert docker("exec", up, "sh", "-c", "cat /tmp/d/e/f; readlink /tmp/d/link") == "deep/etc/hostname\n"
    docker("cp", f"{up}:/tmp/d", tmp_path / "back")
    assert (tmp_path / "back" / "e" / "f").read_text() == "deep"
    docker("stop", up)
    docker("cp", f"{up}:/tmp/d/e/f", tmp_path / "f")
    assert (tmp_path / "f").read_text() == "deep"
    docker("cp", tmp_path / "f", f"{up}:/etc/new")
    docker("start", up)
    assert docker("exec", up, "cat", "/etc/new") == "deep"
    assert "Could not find the file" in docker.run("cp", f"{up}:/none", tmp_path).stderr


def test_copying_never_leaves_the_container(docker: Docker, up: str, tmp_path: Path) -> None:
    """Links that lead to the machine's files lead to the container's own (CVE-2018-15664)."""
    (tmp_path / "secret").write_text("of the host")
    inside = f"mkdir -p /l{tmp_path}; echo mine > /l{tmp_path}/secret; ln -s / /up; ln -s {tmp_path} /out"
    docker("exec", up, "sh", "-c", inside)
    done = docker.run("cp", f"{up}:/out/secret", tmp_path / "copy")
    assert done.returncode != 0 or (tmp_path / "copy").read_text() != "of the host"
    (tmp_path / "evil").write_text("evil")
    docker.run("cp", tmp_path / "evil", f"{up}:/out/secret")
    assert (tmp_path / "secret").read_text() == "of the host"
    docker.run("cp", tmp_path / "evil", f"{up}:/up/../../../../../../evil-{tmp_path.name}")
    assert not os.path.exists(f"/evil-{tmp_path.name}")
    swap = f"while :; do rm -f /s; mkdir /s; echo mine > /s/secret; rm -r /s; ln -s {tmp_path} /s; done"
    docker("exec", "-d", up, "sh", "-c", swap)
    for n in range(15):
        docker.run("cp", f"{up}:/s/secret", tmp_path / f"raced{n}")
        docker.run("cp", tmp_path / "evil", f"{up}:/s/secret")
        if (tmp_path / f"raced{n}").exists():
            assert "of the host" not in (tmp_path / f"raced{n}").read_text()
    assert (tmp_path / "secret").read_text() == "of the host"


def test_export_holds_the_containers_files_and_no_mounts(docker: Docker, up: str, tmp_path: Path) -> None:
    docker("exec", up, "touch", "/made")
    docker("export", "-o", tmp_path / "all.tar", up)
    names = subprocess.run(
        ["tar", "tf", tmp_path / "all.tar"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"./made", "./bin/busybox"} <= set(names)
    assert not [name for name in names if name.startswith("./proc/") and name != "./proc/"]
    assert "A /made" in docker("diff", up)


def test_top_stats_and_events(docker: Docker, up: str) -> None:
    assert "sleep" in docker("top", up) or "sh -c" in docker("top", up)
    assert up[:12] in docker("stats", "--no-stream", up)
    time.sleep(1.1)  # "until now" is a whole second
    events = docker(
        "events", "--since", "10m", "--until", "0s", "--filter", f"container={up}", "--format", "{{.Action}}"
    )
    assert events.split()[:2] == ["create", "start"]


class Terminal:
    """A program on a pseudo-terminal of ours."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.output = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvpe(words[0], words, environment)

    def expect(self, text: bytes, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while text not in self.output:
            assert select.select([self.master], [], [], max(0, end - time.monotonic()))[0], (text, self.output)
            try:
                data = os.read(self.master, 4096)
            except OSError:
                data = b""
            assert data, (text, self.output)
            self.output += data
        self.output = self.output.partition(text)[2]

    def send(self, data: bytes) -> None:
        os.write(self.master, data)

    def end(self) -> int:
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.master)
        return status


def test_a_terminal_of_ones_own(docker: Docker) -> None:
    terminal = Terminal(["docker", "run", "--rm", "-it", "busybox", "sh"], docker.environment)
    terminal.expect(b"# ")
    terminal.send(b"tty; stty size\r")
    terminal.expect(b"/dev/pts/0")
    terminal.send(b"echo go; sleep 100\r")
    terminal.expect(b"go\r\n")
    time.sleep(0.5)
    terminal.send(b"\x03")
    terminal.send(b"echo after-$?; exit 5\r")
    terminal.expect(b"after-130")
    assert terminal.end() == 5


def test_a_terminal_in_a_running_container_and_detaching(docker: Docker) -> None:
    name = f"detach-{os.getpid()}"
    terminal = Terminal(["docker", "run", "--name", name, "-it", "busybox", "sh"], docker.environment)
    terminal.expect(b"# ")
    terminal.send(b"\x10\x11")  # ctrl-p ctrl-q
    assert terminal.end() == 0
    assert docker("inspect", "-f", "{{.State.Running}}", name) == "true\n"
    inner = Terminal(["docker", "exec", "-it", name, "sh"], docker.environment)
    inner.expect(b"# ")
    inner.send(b"tty; exit 6\r")
    inner.expect(b"/dev/pts/1")
    assert inner.end() == 6
    again = Terminal(["docker", "attach", name], docker.environment)
    again.send(b"\r")
    again.expect(b"# ")
    again.send(b"exit 8\r")
    assert again.end() == 8
    docker("rm", name)


def test_containers_end_with_the_service_and_are_kept(mirror: Path, tmp_path: Path, docker: Docker) -> None:
    with running(tmp_path, mirror) as own:
        own.kedge("pull", "-q", "busybox")
        first = Docker(own, docker.config)
        first(
            "run",
            "-d",
            "--name",
            "kept",
            "busybox",
            "sh",
            "-c",
            "echo x > /x; trap 'exit 9' TERM; while :; do sleep 0.05; done",
        )
        time.sleep(0.3)
    with running(tmp_path, mirror) as own:
        again = Docker(own, docker.config)
        assert "Exited (9)" in again("ps", "-a")
        assert "is using its referenced image" in again.run("rmi", "busybox").stderr
        again("rmi", "-f", "busybox")
        own.kedge("prune", "--all", "--force")
        again("start", "kept")
        assert again("exec", "kept", "cat", "/x") == "x\n"


def test_the_command_lines_containers_are_seen(docker: Docker) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kedge", "run", "--name", "clis", "busybox", *FOREVER],
        env=docker.service.environment, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while "clis" not in docker("ps", "--format", "{{.Names}}"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        docker("stop", "clis")
        assert process.wait(60) == 0
        assert "clis" not in docker("ps", "-a")
    finally:
        process.kill()
        process.communicate()
