"""What comes of a step when its builder has no descriptors left for what the step passes."""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
# The conversation of `_Run` with a helper that is played here: it passes two descriptors when there is room for `room`.
PROGRAM = """
import os, resource, socket, struct, sys, threading
from types import SimpleNamespace
from kedge.model.errors import KedgeError
from kedge.sandbox.linux import _Run
from kedge.sandbox.process import Stdio

kind, room, early = sys.argv[1].encode(), int(sys.argv[2]), sys.argv[3] == "early"
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
pair = os.pipe()
taken, orders = [], []

def limit(count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))

def helper(status, given):
    while any(os.path.exists(f"/proc/self/fd/{fd}") for fd in given):
        pass  # the builder has not closed its ends yet
    free = [fd for fd in range(3, 1000) if not os.path.exists(f"/proc/self/fd/{fd}")]
    limit(free[room])
    message = [kind], pair if kind == b"W" else pair[:1]
    start = b"S" + struct.pack("=i", os.getpid())
    if early:
        socket.send_fds(status, *message)
        status.send(start)
    else:
        status.send(start)
        socket.send_fds(status, *message)
    orders.append(status.recv(10))
    limit(1000)
    status.send(b"X" + struct.pack("=i", 9))
    status.close()

def start(flags, kept, fds):
    thread = threading.Thread(target=helper, args=(socket.socket(fileno=os.dup(fds[0])), fds))
    thread.start()
    start.thread = thread

before = set(os.listdir("/proc/self/fd"))
stdio = Stdio(output=lambda *_: None, on_terminal=taken.append, on_way_out=lambda *fds: taken.extend(fds))
try:
    _Run(SimpleNamespace(values={}, flags=0, kept=False), stdio, None).go(start)
    print("it ran")
except KedgeError as error:
    print(f"{type(error).__name__}: {error.message}")
    print(error.hint)
start.thread.join()
print(orders, taken, set(os.listdir("/proc/self/fd")) == before)
"""


@pytest.mark.parametrize("order", ["early", "late"])
@pytest.mark.parametrize(
    ("kind", "room", "what"),
    [("T", 0, "terminal"), ("W", 0, "way out of its network"), ("W", 1, "way out of its network")],
)
def test_a_step_whose_descriptors_cannot_be_had_ends_and_says_why(kind: str, room: int, what: str, order: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(room), order],
        env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    said, hint, state = done.stdout.splitlines()
    assert said == f"StoreError: cannot take the step's {what}: Too many open files"
    assert "ulimit -n" in hint
    assert state == "[b'K\\t'] [] True"
