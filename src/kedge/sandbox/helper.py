"""The zygote as the builder sees it: started on first need, asked over a socket, gone with the builder.

Owns starting and stopping the process and the shape of a request. Does not know what a plan says.
"""

import fcntl
import os
import socket
import struct
import sys
from contextlib import suppress
from typing import Final

from kedge.kernel import syscalls as sc
from kedge.model.errors import Unsupported

_CONTROL_FD: Final = 3
_PATIENCE: Final = 10  # seconds that the zygote has to kill all steps
# The package is found without its __init__ (which is the public interface, and slower to import than a fork).
_BOOTSTRAP = (
    "import sys;p=type(sys)('kedge');p.__path__=[sys.argv[1]];sys.modules['kedge']=p;"
    f"from kedge.sandbox.zygote import main;main({_CONTROL_FD})"
)


class Helper:
    """One running zygote. Thread-safe: requests are single messages."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.pid = _spawn(theirs)
        except OSError as error:
            ours.close()
            text = f"cannot start the sandbox's helper process, {sys.executable}: {error.strerror}"
            raise Unsupported(text, hint="use a Python that this user may execute") from None
        finally:
            theirs.close()
        self._control = ours

    def request(self, flags: int, kept: bool, fds: tuple[int, ...]) -> None:
        """Start a step; `fds` are its status socket, plan, stdin, stdout and stderr. Raises OSError if the zygote
        died."""
        socket.send_fds(self._control, [b"R" + struct.pack("=Q?", flags, kept)], list(fds))

    def close(self) -> None:
        """Hang up, which makes the zygote kill all steps, and wait for its end, but not for ever.

        A killed process may hang in the kernel, as on a server's files that nobody serves; then the zygote goes first.
        """
        import select

        self._control.close()
        with suppress(ChildProcessError, ProcessLookupError):
            pidfd = sc.pidfd_open(self.pid)
            try:
                end = select.poll()
                end.register(pidfd, select.POLLIN)
                if not end.poll(_PATIENCE * 1000):
                    sc.pidfd_send_signal(pidfd, 9)
            finally:
                os.close(pidfd)
            os.waitpid(self.pid, 0)


def _spawn(control: socket.socket) -> int:
    interpreter = os.path.realpath(sys.executable)
    image = _protected(interpreter)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    errors = 2 if os.environ.get("KEDGE_DEBUG") else null
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    actions = [
        (os.POSIX_SPAWN_DUP2, null, 0),
        (os.POSIX_SPAWN_DUP2, null, 1),
        (os.POSIX_SPAWN_DUP2, errors, 2),
        (os.POSIX_SPAWN_DUP2, control.fileno(), _CONTROL_FD),
    ]
    arguments = [interpreter, "-I", "-S", "-X", "utf8", "-c", _BOOTSTRAP, package]
    try:
        return os.posix_spawn(f"/proc/self/fd/{image}", arguments, {}, file_actions=actions, setsid=True)
    finally:
        os.close(null)
        os.close(image)


def _protected(interpreter: str) -> int:
    """The interpreter on a read-only mount of its own: a step that gets hold of /proc/1/exe cannot write to it
    (CVE-2019-5736)."""
    try:
        fd = sc.open_tree(sc.AT_FDCWD, interpreter, sc.OPEN_TREE_CLONE)
        sc.mount_setattr(fd, set=sc.MOUNT_ATTR_RDONLY)
    except OSError:
        if os.geteuid() == 0 and os.access(interpreter, os.W_OK):
            raise
        fd = os.open(interpreter, os.O_PATH | os.O_CLOEXEC)
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)  # out of the way of the descriptors that posix_spawn sets up
    os.close(fd)
    return high
