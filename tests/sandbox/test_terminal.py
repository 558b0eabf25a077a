"""An attached container: a program with a terminal of its own, driven through ours."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
PROGRAM = """
import sys
from pathlib import Path
from kedge.kernel import identity
identity.enter_user_namespace()
from kedge.sandbox.linux import LinuxExecutor
from kedge.sandbox.process import *
from kedge.cli.container import _own_streams
from kedge.containers.request import ContainerRequest
base, terminal, command = sys.argv[1], sys.argv[2] == "t", sys.argv[3]
root = MountPoint("/", Overlay((base + "/layers/root",), base + "/draft/upper", base + "/draft/work"))
executor = LinuxExecutor(Path(base) / "state")
process = Process(("/bin/sh", "-c", command), env=("PATH=/bin", "TERM=xterm"), terminal=terminal)
with _own_streams(ContainerRequest(interactive=True, terminal=terminal)) as stdio:
    code = executor.run(process, (root,), stdio)
executor.close()
sys.exit(code)
"""


class Session:
    """A child that runs PROGRAM on a pseudo-terminal, or with pipes."""

    def __init__(self, box, terminal, command, rows=24, columns=80):
        box.give()
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
            words = [*box.command[:-1], "-c", PROGRAM, str(box.base), "t" if terminal else "-", command]
            os.execvpe(words[0], words, {"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]})
        self.output = b""

    def expect(self, text, seconds=60):
        deadline = time.monotonic() + seconds
        while text not in self.output:
            ready = select.select([self.master], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, f"{text!r} did not come, but {self.output!r}"
            try:
                data = os.read(self.master, 4096)
            except OSError:
                data = b""
            assert data, f"{text!r} did not come, but {self.output!r}"
            self.output += data

    def send(self, data):
        os.write(self.master, data)

    def end(self):
        try:
            while data := os.read(self.master, 4096):
                self.output += data
        except OSError:
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.master)
        return code


def test_a_shell_on_a_terminal(box):
    session = Session(box, True, "tty; test -t 0 && echo yes; stty size; read line; echo got $line; exit 5", 33, 99)
    session.expect(b"33 99")
    session.send(b"words\r")
    session.expect(b"got words")
    assert session.end() == 5
    assert b"/dev/pts/0" in session.output
    assert b"yes" in session.output


def test_control_c_goes_to_the_program_not_to_kedge(box):
    session = Session(box, True, "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done")
    session.expect(b"ready")
    session.send(b"\x03")
    session.expect(b"caught")
    assert session.end() == 9


def test_a_new_window_size_reaches_the_program(box):
    session = Session(box, True, "echo ready; until stty size | grep '50 120'; do sleep 0.1; done")
    session.expect(b"ready")
    fcntl.ioctl(session.master, termios.TIOCSWINSZ, struct.pack("4H", 50, 120, 0, 0))
    session.expect(b"50 120")
    assert session.end() == 0


def test_without_a_terminal_signals_are_passed_on(box):
    session = Session(box, False, "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done")
    session.expect(b"ready")
    os.kill(session.pid, signal.SIGTERM)
    session.expect(b"caught")
    assert session.end() == 9


def test_a_program_that_ignores_signals_dies_at_the_third(box):
    script = "n=0; trap 'n=$((n+1)); echo no$n' TERM; echo ready; while :; do sleep 0.1; done"
    session = Session(box, False, script)
    for said in (b"ready", b"no1", b"no2"):  # one at a time: two at once may be taken for one
        session.expect(said)
        os.kill(session.pid, signal.SIGTERM)
    assert session.end() == 137
