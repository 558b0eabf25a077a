"""A second process in the namespaces of one that runs."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
PROGRAM = """
import sys, threading
from pathlib import Path
from kedge.kernel import identity, syscalls
identity.enter_user_namespace()
from kedge.sandbox.linux import LinuxExecutor
from kedge.sandbox.process import *
base, network, script = sys.argv[1:4]
root = MountPoint("/", Overlay((base + "/layers/root",), base + "/draft/upper", base + "/draft/work"))
executor = LinuxExecutor(Path(base) / "state")
begun, held = threading.Event(), []
def on_start(send, pid):
    held.append((send, syscalls.pidfd_open(pid)))
first = Process(("/bin/sh", "-c", "echo first > /tmp/mark; sleep 60"), env=("PATH=/bin",), network=network)
stdio = Stdio(on_start=on_start, on_program=begun.set)
thread = threading.Thread(target=executor.run, args=(first, (root,), stdio))
thread.start()
assert begun.wait(50)
second = Process(("/bin/sh", "-c", script), env=("PATH=/bin",), network=network)
code = executor.enter(second, held[0][1], Stdio(output=lambda n, data: print(data.decode(), end="", flush=True)))
held[0][0](9)
thread.join()
try:
    executor.enter(second, held[0][1])
    print("entered the dead")
except Exception as error:
    print(type(error).__name__)
executor.close()
sys.exit(code)
"""


def enter(box, script: str, network: str = "sandbox") -> "subprocess.CompletedProcess[str]":
    box.give()
    words = [*box.command[:-1], "-c", PROGRAM, str(box.base), network, script]
    return subprocess.run(
        words, env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=60, check=False
    )


def test_it_sees_the_others_files_and_processes(box):
    done = enter(box, "while ! test -s /tmp/mark; do :; done; cat /tmp/mark; echo $$; test -e /proc/1; exit 5")
    lines = done.stdout.split("\n")
    assert lines[0] == "first", done.stderr
    assert 1 < int(lines[1]) < 10
    assert lines[2] == "Unsupported"
    assert done.returncode == 5


def test_it_has_the_steps_rights_and_no_descriptors(box):
    look = "grep -E 'CapBnd|Seccomp:' /proc/self/status; ls /proc/self/fd"
    inside = enter(box, look, "none").stdout
    assert inside.splitlines()[:2] == box.sh(look).out.splitlines()[:2]
    assert inside.split()[-5:-1] == ["0", "1", "2", "3"]


def test_what_it_executes_must_be_there(box):
    assert enter(box, "exec /nosuch").returncode == 127


AT_THE_END = """
import sys, threading
from pathlib import Path
from kedge.kernel import identity, syscalls
identity.enter_user_namespace()
from kedge.sandbox.linux import LinuxExecutor
from kedge.sandbox.process import *
base = sys.argv[1]
root = MountPoint("/", Overlay((base + "/layers/root",), base + "/draft/upper", base + "/draft/work"))
executor = LinuxExecutor(Path(base) / "state")
stubborn = Process(("/bin/sh", "-c", "trap '' TERM; while :; do sleep 60; done"), env=("PATH=/bin",))
joined, first, second = [], threading.Event(), threading.Event()
def on_start(send, pid):
    joined.append(syscalls.pidfd_open(pid))
def run(call, *words):
    try:
        call(*words)
    except Exception as error:
        print(error)
stdio = Stdio(on_start=on_start, on_program=first.set)
threading.Thread(target=run, args=(executor.run, stubborn, (root,), stdio), daemon=True).start()
assert first.wait(50)
stdio = Stdio(on_program=second.set)
threading.Thread(target=run, args=(executor.enter, stubborn, joined[0], stdio), daemon=True).start()
assert second.wait(50)
executor.close()
print("closed")
"""


def test_closing_ends_a_process_and_who_joined_it(box):
    box.give()
    words = [*box.command[:-1], "-c", AT_THE_END, str(box.base)]
    done = subprocess.run(words, env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=120)
    assert "closed" in done.stdout.splitlines(), done.stderr
