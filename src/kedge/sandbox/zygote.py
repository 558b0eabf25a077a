"""The helper process that forks build steps: small, warm, single-threaded.

Owns the children and their ends. Does not know what they do (`perform`). It is started by `helper`, talks over the
socket it is given, and ends, with all its children, when the builder's end of that socket closes.

Messages. Builder to zygote, on the control socket: `R` + clone flags + is it kept, with descriptors (status socket,
plan, stdin, stdout, stderr; a sixth is the pidfd of a process whose namespaces to join). On a step's status socket:
builder to zygote `K` + signal; zygote (or a step's keeper) to builder `S` + pid, `X` + wait status; child to builder
`E` refusal, `N` remark, `T` terminal, `C` mount points made, `W` a private network's way out, `B` the program begins.
"""

import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from kedge.kernel import syscalls as sc
from kedge.sandbox.keeper import END, end_children, keep
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
        self.kept = False  # our children are keepers: a builder wants that of all its steps or of none
        self.joined: dict[int, int] = {}  # pidfd of whom a kept step has joined, and has to end with -> its own

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
                elif fd in self.joined:
                    self._part(fd)

    def _request(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self.control, 64, _REQUEST_FDS + 1)
        if not message:
            return False
        flags, kept = struct.unpack("=Q?", message[1:10])
        status_fd, plan_fd, *streams = fds
        join = streams[3] if len(streams) > 3 else -1
        status = socket.socket(fileno=status_fd)

        def begin() -> int:
            pid = self._clone_into(join) if join >= 0 and not kept else sc.clone(flags)
            if pid == 0:
                _reset_signals()
                run_child(plan_fd, (streams[0], streams[1], streams[2]), status, join)
            return pid

        try:
            pid = self._begin_kept(begin, status) if kept else begin()
        except OSError as error:
            _refuse(status, error)
            pid = -1
        for fd in fds[1:] if not kept or pid < 0 else fds[1:5]:
            os.close(fd)
        if pid > 0:
            self._adopt(pid, status, join if kept else -1)
        return True

    def _begin_kept(self, begin: Callable[[], int], status: socket.socket) -> int:
        """A keeper of ours that begins the step. Nothing of us and of it can be looked into by way of /proc."""
        if not self.kept:
            sc.prctl(sc.PR_SET_DUMPABLE, 0)
            sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)  # for those whose keeper was killed
            self.kept = True
        zygote = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = sc.clone(0)
            if pid == 0:
                _be_keeper(begin, status, zygote)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

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

    def _adopt(self, pid: int, status: socket.socket, joined: int) -> None:
        pidfd = sc.pidfd_open(pid)
        self.by_pidfd[pidfd] = (pid, status)
        self.by_status[status.fileno()] = pidfd
        self.poll.register(pidfd, select.EPOLLIN)
        self.poll.register(status.fileno(), select.EPOLLIN)
        if not self.kept:
            _send(status, b"S" + struct.pack("=i", pid))
        if joined >= 0 and _has_ended(joined):
            os.close(joined)  # the step finds so itself, and says it
        elif joined >= 0:
            self.joined[joined] = pidfd
            self.poll.register(joined, select.EPOLLIN)

    def _part(self, joined: int) -> None:
        """No process namespace ends who has joined one that has ended: we do. Also for who has ended itself."""
        pidfd = self.joined.pop(joined)
        self.poll.unregister(joined)
        os.close(joined)
        if pidfd in self.by_pidfd:
            self._signal(pidfd, signal.SIGKILL)

    def _signal(self, pidfd: int, number: int) -> None:
        with suppress(OSError):
            sc.pidfd_send_signal(pidfd, END if self.kept and number == signal.SIGKILL else number)

    def _order(self, fd: int) -> None:
        pidfd = self.by_status[fd]
        status = self.by_pidfd[pidfd][1]
        try:
            message = status.recv(64)
        except OSError:
            message = b""
        # Hanging up means that nobody waits for the step any more.
        self._signal(pidfd, message[1] if message[:1] == b"K" else signal.SIGKILL)
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
        for joined in [joined for joined, own in self.joined.items() if own == pidfd]:
            self._part(joined)
        if self.kept and wait_status:  # a step has killed its keeper
            end_children(self._pids())
        _send(status, b"X" + struct.pack("=i", wait_status))
        status.close()

    def _pids(self) -> set[int]:
        return {pid for pid, _ in self.by_pidfd.values()}

    def _end(self) -> None:
        for pidfd in self.by_pidfd:
            self._signal(pidfd, signal.SIGKILL)
        if self.kept:
            for pid in self._pids():
                os.waitpid(pid, 0)
            return end_children()
        # In the order of their ends: process 1 of a step cannot end before we waited for those who joined it.
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def _be_keeper(begin: Callable[[], int], status: socket.socket, zygote: int) -> None:
    try:
        keep(begin, status, zygote)
    except OSError as error:
        _refuse(status, error)
    finally:
        os._exit(125)


def _has_ended(pidfd: int) -> bool:
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    return bool(ended.poll(0))


def _refuse(status: socket.socket, error: OSError) -> None:
    from marshal import dumps

    text = f"cannot make the namespaces of a step: {error.strerror}"
    with suppress(OSError):
        status.send(b"E" + dumps(("unsupported", text)))
        status.send(b"X" + struct.pack("=i", 125 << 8))
    status.close()


def _send(status: socket.socket, message: bytes) -> None:
    with suppress(OSError):  # the builder stopped listening
        status.send(message)


def _reset_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
