"""The helper process that forks build steps: small, warm, single-threaded.

Owns the children and their ends. Does not know what they do (`perform`). It is started by `helper`, talks over the
socket it is given, and ends, with all its children, when the builder's end of that socket closes.

Messages. Builder to zygote, on the control socket: `R` + clone flags, with descriptors (status socket, plan, stdin,
stdout, stderr; a sixth is the pidfd of a process whose namespaces to join). On a step's status socket: builder to
zygote `K` + signal; zygote to builder `S` + pid, `X` + wait status; child to builder `E` refusal, `N` remark, `T`
terminal, `C` mount points made, `W` a private network's way out, `B` the program begins.
"""

import os
import select
import signal
import socket
import struct
from contextlib import suppress

from kedge.kernel import syscalls as sc
from kedge.sandbox.perform import run_child

_REQUEST_FDS = 5  # without the one to join


def main(control_fd: int) -> None:
    """Serve until the control socket closes."""
    sc.set_process_name("kedge-zygote")
    _disown()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the terminal's signals are for the builder to answer
    sc.unshare(sc.CLONE_NEWNS)
    sc.mount(None, "/", None, sc.MS_REC | sc.MS_SLAVE)
    _Zygote(socket.socket(fileno=control_fd)).serve()
    os._exit(0)  # the builder waits for our end, and there is nothing to tidy


def _disown() -> None:
    """Keep nothing that whoever started the builder handed down to its children, for steps are no children of theirs.

    Inheritable capabilities would reach users of the image (CVE-2022-27651), ignored signals their programs; and with
    SIGCHLD ignored no child of ours could be waited for. Python itself ignores the two signals that stay so here.
    """
    effective, permitted, _ = sc.capget()
    sc.capset(effective, permitted, 0)
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


class _Zygote:
    """Children by the descriptors that tell of them: a pidfd each, and the status socket."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.poll = select.epoll()
        self.poll.register(control.fileno(), select.EPOLLIN)
        self.by_pidfd: dict[int, tuple[int, socket.socket]] = {}
        self.by_status: dict[int, int] = {}  # status descriptor -> pidfd

    def serve(self) -> None:
        while True:
            for fd, _ in self.poll.poll():
                if fd == self.control.fileno():
                    if not self._request():
                        return self._end()
                elif fd in self.by_pidfd:
                    self._reap(fd)
                elif fd in self.by_status:
                    self._order(fd)

    def _request(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self.control, 64, _REQUEST_FDS + 1)
        if not message:
            return False
        (flags,) = struct.unpack("=Q", message[1:9])
        status_fd, plan_fd, *streams = fds
        join = streams[3] if len(streams) > 3 else -1
        status = socket.socket(fileno=status_fd)
        try:
            pid = sc.clone(flags) if join < 0 else self._clone_into(join)
        except OSError as error:
            from marshal import dumps

            text = f"cannot make the namespaces of a step: {error.strerror}"
            status.send(b"E" + dumps(("unsupported", text)))
            status.send(b"X" + struct.pack("=i", 125 << 8))
            status.close()
            pid = -1
        if pid == 0:
            _reset_signals()
            run_child(plan_fd, (streams[0], streams[1], streams[2]), status, join)
        for fd in fds[1:]:
            os.close(fd)
        if pid > 0:
            self._adopt(pid, status)
        return True

    def _clone_into(self, pidfd: int) -> int:
        """A child of ours in that process's pid namespace.

        Only children enter one, and in a user namespace there is no way back from it. So a helper goes there for us
        and has a child that is ours (CLONE_PARENT), whose pid it tells.
        """
        read, write = os.pipe2(os.O_CLOEXEC)
        helper = sc.clone(0)
        if helper == 0:
            try:
                sc.setns(pidfd, sc.CLONE_NEWPID)
                pid = sc.clone(sc.CLONE_PARENT)
            except OSError as error:
                pid = -(error.errno or 1)
            if pid:
                os.write(write, struct.pack("=i", pid))
                os._exit(0)
            return 0
        os.close(write)
        with open(read, "rb", buffering=0) as told:
            (pid,) = struct.unpack("=i", told.read(4))
        os.waitpid(helper, 0)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return int(pid)

    def _adopt(self, pid: int, status: socket.socket) -> None:
        pidfd = sc.pidfd_open(pid)
        self.by_pidfd[pidfd] = (pid, status)
        self.by_status[status.fileno()] = pidfd
        self.poll.register(pidfd, select.EPOLLIN)
        self.poll.register(status.fileno(), select.EPOLLIN)
        _send(status, b"S" + struct.pack("=i", pid))

    def _order(self, fd: int) -> None:
        pidfd = self.by_status[fd]
        status = self.by_pidfd[pidfd][1]
        try:
            message = status.recv(64)
        except OSError:
            message = b""
        with suppress(ProcessLookupError):  # hanging up means that nobody waits for the step any more
            sc.pidfd_send_signal(pidfd, message[1] if message[:1] == b"K" else signal.SIGKILL)
        if not message:
            self.poll.unregister(fd)

    def _reap(self, pidfd: int) -> None:
        pid, status = self.by_pidfd.pop(pidfd)
        _, wait_status = os.waitpid(pid, 0)
        del self.by_status[status.fileno()]
        self.poll.unregister(pidfd)
        os.close(pidfd)
        with suppress(OSError):
            self.poll.unregister(status.fileno())
        _send(status, b"X" + struct.pack("=i", wait_status))
        status.close()

    def _end(self) -> None:
        for pidfd in self.by_pidfd:
            with suppress(OSError):
                sc.pidfd_send_signal(pidfd, signal.SIGKILL)
        # In the order of their ends: process 1 of a step cannot end before we waited for those who joined it.
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def _send(status: socket.socket, message: bytes) -> None:
    with suppress(OSError):  # the builder stopped listening
        status.send(message)


def _reset_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
