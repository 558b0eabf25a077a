"""The helper process's life, many steps at once, and the fake."""

import os
import signal
import struct
import threading
import time

import pytest

from kedge.model.errors import Cancelled, InvalidInput
from kedge.sandbox.fake import FakeExecutor
from kedge.sandbox.linux import LinuxExecutor, _Run
from kedge.sandbox.plan import Plan
from kedge.sandbox.process import MountPoint, Overlay, Process, Stdio, Tmpfs


@pytest.fixture
def executor(root_box):
    executor = LinuxExecutor(root_box.base / "state")
    yield executor
    executor.close()


def shell(script):
    return Process(("/bin/sh", "-c", script), env=("PATH=/bin",))


def draft(box, name):
    for part in ("upper", "work"):
        (box.base / name / part).mkdir(parents=True, exist_ok=True)
    source = Overlay((str(box.layer),), str(box.base / name / "upper"), str(box.base / name / "work"))
    return (MountPoint("/", source),)


def test_sixteen_steps_run_at_the_same_time(root_box, executor):
    codes = []
    together = threading.Barrier(16, timeout=60)

    def run(n):
        ends, starts = os.pipe()
        stdio = Stdio(stdin=ends, on_program=lambda: together.wait() * 0 or os.close(starts))
        codes.append(executor.run(shell("read x; true"), draft(root_box, f"d{n}"), stdio))
        os.close(ends)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 16


def test_no_helper_is_started_before_the_first_step(executor):
    assert executor._helper is None


def test_a_killed_helper_is_replaced(root_box, executor):
    assert executor.run(shell("true"), draft(root_box, "d")) == 0
    os.kill(executor._helper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, executor._helper.pid, os.WEXITED | os.WNOWAIT)
    assert executor.run(shell("exit 4"), draft(root_box, "d")) == 4


def test_closing_kills_what_runs(root_box, executor):
    started = threading.Event()
    stdio = Stdio(on_start=lambda send, pid: started.set())
    seen = []

    def run():
        try:
            seen.append(executor.run(shell("sleep 60"), draft(root_box, "d"), stdio))
        except Exception as error:
            seen.append(type(error).__name__)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    executor.close()
    thread.join(10)
    assert not thread.is_alive()
    assert seen
    with pytest.raises(Cancelled):
        executor.run(shell("true"), draft(root_box, "d"))


def test_steps_die_with_the_builder(root_box):
    pid = os.fork()
    if pid == 0:
        try:
            child = LinuxExecutor(root_box.base / "state")
            marker = root_box.base / "pid"
            child.run(
                shell("sleep 60"), draft(root_box, "d"), Stdio(on_start=lambda send, n: marker.write_text(str(n)))
            )
        finally:
            os._exit(0)
    marker = root_box.base / "pid"
    _wait_for(lambda: marker.exists() and marker.read_text())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    _wait_for(lambda: not os.path.exists(f"/proc/{marker.read_text()}"))


def _wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_builder_keeps_no_descriptor_of_a_step(root_box, executor):
    executor.run(shell("true"), draft(root_box, "d"), Stdio(output=lambda stream, data: None))
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        executor.run(shell("echo x"), draft(root_box, "d"), Stdio(output=lambda stream, data: None))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_fake_records_calls_and_follows_its_script():
    fake = FakeExecutor(lambda call: call.say("hello") or 3)
    said = []
    root = (MountPoint("/", Overlay(("/layer",), "/upper", "/work")),)
    assert fake.run(shell("x"), root, Stdio(output=lambda stream, data: said.append((stream, data)))) == 3
    assert said == [(1, b"hello")]
    assert fake.calls[0].upper == "/upper"
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        fake.run(shell("x"), root, cancel=cancel)


def test_both_executors_want_one_root(executor):
    for each in (executor, FakeExecutor()):
        with pytest.raises(InvalidInput):
            each.run(shell("x"), (MountPoint("/t", Tmpfs()),))


def test_who_sees_what_a_process_does_can_signal_it():
    """A child may run its program, and say something, before the zygote that made it tells of it."""

    def start(flags, kept, fds):
        os.write(fds[0], b"B")
        os.write(fds[3], b"word")
        os.write(fds[0], b"S" + struct.pack("=i", 77))
        os.write(fds[0], b"X" + struct.pack("=i", 3 << 8))

    told = []
    stdio = Stdio(
        output=lambda stream, data: told.append(data),
        on_start=lambda send, pid: told.append(pid),
        on_program=lambda: told.append("program"),
    )
    plan = Plan(0, {}, MountPoint("/", Tmpfs()), ())
    assert _Run(plan, stdio, None).go(start) == 3
    assert told == [77, "program", b"word"]
