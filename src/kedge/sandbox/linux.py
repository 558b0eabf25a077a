"""The real Executor: steps run as children of one small helper process (the zygote), which is started on first need.

Owns the helper's life, one run's conversation with it, and what is left on disk by a run. Does not know what a mount
means (`plan`), nor how it is made (`perform`).
"""

import errno
import fcntl
import hashlib
import os
import select
import socket
import stat
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cached_property
from marshal import dumps, loads
from pathlib import Path

from kedge.kernel import identity, paths, resources
from kedge.kernel import syscalls as sc
from kedge.model.errors import Cancelled, InvalidInput, KedgeError, StoreError, Unsupported
from kedge.sandbox import cgroups, leftovers
from kedge.sandbox.helper import Helper
from kedge.sandbox.plan import Kind, Machine, Plan, join_plan, make_plan
from kedge.sandbox.process import (
    NO_STDIO,
    PROC_REMEDY,
    Content,
    HostPath,
    MountPoint,
    Overlay,
    Process,
    SocketAt,
    Stdio,
    Tmpfs,
)

_CANCEL_GRAIN = 0.04  # seconds between looks at the cancel event
_SIGNAL_GRAIN = 0.5  # seconds between two looks for signals that came at a bad moment
_CHUNK = 1 << 18  # bytes; also the size of the output pipes
_F_SETPIPE_SZ = 1031
_ERRORS: dict[str, type[KedgeError]] = {
    "input": InvalidInput, "unsupported": Unsupported, "masked": Unsupported, "failed": StoreError
}  # fmt: skip
_PASSED = {b"T": "terminal", b"W": "way out of its network"}  # messages with descriptors
_HINTS = {"input": "", "masked": PROC_REMEDY}


class LinuxExecutor:
    """Runs processes in namespaces of their own.

    `state` is a directory of ours, best on the file system of the layers: mount point stubs are kept there. Nothing is
    started before the first `run`. Thread-safe; several processes may share a state directory.

    Without `process_sandbox`, steps have no process namespace but the surrounding container's and see its /proc, for
    containers in which the kernel lets nobody mount another; this process is then closed to ptrace(2) and the like.
    For root of the machine, who can always mount one, that changes nothing.
    """

    def __init__(self, state: Path, process_sandbox: bool = True) -> None:
        self._state, self._process_sandbox = state, process_sandbox
        self._lock = threading.Lock()
        self._helper: Helper | None = None
        self._stub_paths: dict[frozenset[tuple[str, Kind]], str] = {}
        self._closed = self._checked = False

    def run(
        self,
        process: Process,
        mounts: tuple[MountPoint, ...],
        stdio: Stdio = NO_STDIO,
        cancel: threading.Event | None = None,
    ) -> int:
        if cancel is not None and cancel.is_set():
            raise Cancelled("the step was stopped")
        plan = make_plan(process, mounts, self._machine, self._stubs, _kind_of)
        if stdio.note is not None:
            for text in plan.notes:
                stdio.note(text)
        with cgroups.limited(process, stdio.note) as group:
            plan.values["cgroups"] = group
            run = _Run(plan, stdio, cancel)
            try:
                code = run.go(self._start)
            finally:
                leftovers.clean(plan.root, plan.works, run.made)
            if stdio.on_oom is not None and cgroups.ran_out(map(os.path.dirname, group)):
                stdio.on_oom()
            return code

    def enter(
        self, process: Process, pidfd: int, stdio: Stdio = NO_STDIO, cancel: threading.Event | None = None
    ) -> int:
        """Run one more process where the first process of an earlier `run`, known by its pidfd, runs; its exit code.

        It ends with that one. Only `terminal`, the program, its directory and its rights are taken from `process`.
        `cancel` ends that process only. Raises what `run` raises, Unsupported when that process has ended.
        """
        plan = join_plan(process, self._machine)
        plan.values["cgroups"] = cgroups.groups_of(pidfd)
        return _Run(plan, stdio, cancel, pidfd).go(self._start)

    def close(self) -> None:
        with self._lock:
            helper, self._helper, self._closed = self._helper, None, True
        if helper is not None:
            helper.close()

    @cached_property
    def _machine(self) -> Machine:
        who = identity.current()
        namespaces = self._process_sandbox or who.privileged
        if not namespaces:
            sc.prctl(sc.PR_SET_DUMPABLE, 0)
        stage = self._state / "stage"
        try:
            stage.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot use {self._state}: {error.strerror}") from None
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        version = cgroups.version()
        architecture, place = os.uname().machine, str(stage.resolve())
        open_files = resources.open_files_before()
        return Machine(who.privileged, who.single_id, architecture, last, version, place, namespaces, open_files)

    def _start(self, flags: int, kept: bool, fds: tuple[int, ...]) -> None:
        with self._lock:
            if self._closed:
                raise Cancelled("the sandbox was closed")
            for _ in range(2):
                if self._helper is None:
                    self._helper = self._new_helper()
                try:
                    return self._helper.request(flags, kept, fds)
                except OSError:  # the helper was killed: once more with a new one
                    self._helper.close()
                    self._helper = None
        raise Unsupported("the sandbox's helper process dies at once", hint="run `kedge doctor`")

    def _new_helper(self) -> Helper:
        """A started helper; while it comes up, what the machine lacks for steps is found and raised by name."""
        helper = Helper()
        if self._checked:
            return helper
        from kedge.sandbox import doctor

        try:
            doctor.require(self._state)
        except BaseException:
            helper.close()
            raise
        self._checked = True
        return helper

    def _stubs(self, stubs: frozenset[tuple[str, Kind]]) -> str:
        """The directory with these empty mount points; made once, never changed, shared by all runs."""
        known = self._stub_paths.get(stubs)
        if known is None:
            name = hashlib.sha256(repr(sorted(stubs)).encode()).hexdigest()[:10]
            path = Path(self._machine.stage).parent / "stubs" / name
            try:
                if not path.is_dir():
                    _make_stubs(path, stubs)
            except OSError as error:
                raise StoreError(f"cannot write {path}: {error.strerror}") from None
            known = self._stub_paths[stubs] = str(path)
        return known


def _make_stubs(path: Path, stubs: frozenset[tuple[str, Kind]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    aside.mkdir(mode=0o755)
    for name, kind in sorted(stubs):
        stub = aside / name
        (stub.parent if kind == "f" else stub).mkdir(mode=0o755, parents=True, exist_ok=True)
        if kind == "t":
            stub.chmod(0o1777)
        if kind == "f":
            stub.touch(mode=0o644)
    try:
        aside.rename(path)
    except OSError:
        import shutil

        shutil.rmtree(aside)  # another process was faster
        if not path.is_dir():
            raise


def _kind_of(mount: MountPoint) -> Kind:
    """Is the mount's source a directory or a file? Unknown where only the kernel's merged view could tell."""
    source = mount.source
    if isinstance(source, (Content, SocketAt)):
        return "f"
    if isinstance(source, Tmpfs) and source.mode is None:
        return "t"
    if isinstance(source, Overlay):
        return "" if mount.selector.strip("/") else "d"
    if isinstance(source, HostPath):
        try:
            if not mount.selector.strip("/"):
                return "d" if stat.S_ISDIR(os.stat(source.path).st_mode) else "f"
            base = os.open(source.path, os.O_PATH | os.O_CLOEXEC)
            try:
                fd = paths.open_in_root(base, mount.selector, os.O_PATH)
                try:
                    return "d" if stat.S_ISDIR(os.fstat(fd).st_mode) else "f"
                finally:
                    os.close(fd)
            finally:
                os.close(base)
        except OSError:
            return ""
    return "d"


class _Run:
    """One run: its status socket, its pipes, and the loop that listens to both."""

    def __init__(self, plan: Plan, stdio: Stdio, cancel: threading.Event | None, join: int = -1) -> None:
        self.plan, self.stdio, self.cancel, self.join = plan, stdio, cancel, join
        self.plan.values["announce"] = stdio.on_program is not None
        self.made: list[leftovers.Made] = []
        self.error: KedgeError | None = None
        self.wait_status: int | None = None
        self.pipes: dict[int, int] = {}  # read end -> stream number
        self.started = False  # the caller knows how to send it signals
        self.early: list[tuple[bytes, list[int]]] = []

    def go(self, start: Callable[[int, bool, tuple[int, ...]], None]) -> int:
        with ExitStack() as stack:
            self.status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(self.status)
            stack.callback(self._close_early)
            with theirs, ExitStack() as given:
                joined = (self.join,) if self.join >= 0 else ()
                fds = (theirs.fileno(), self._plan_file(given), *self._streams(stack, given), *joined)
                start(self.plan.flags, self.plan.kept, fds)
            self._listen()
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("the step was stopped")
        if self.error is not None:
            raise self.error
        assert self.wait_status is not None
        return exit_code(self.wait_status)

    def _close_early(self) -> None:
        """What was passed by a step whose start nobody told of: its helper was killed."""
        for _, fds in self.early:
            _close(fds)

    def _plan_file(self, given: ExitStack) -> int:
        fd = os.memfd_create("plan", os.MFD_CLOEXEC)
        given.callback(os.close, fd)
        data = memoryview(dumps(self.plan.values))
        while data:
            data = data[os.write(fd, data) :]
        return fd

    def _streams(self, stack: ExitStack, given: ExitStack) -> tuple[int, int, int]:
        def null() -> int:
            fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            given.callback(os.close, fd)
            return fd

        def output(inherited: int | None, stream: int) -> int:
            if inherited is not None:
                return inherited
            if self.stdio.output is None:
                return null()
            read, write = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(read, False)
            with suppress(OSError):  # the user's share of pipe memory is used up
                fcntl.fcntl(read, _F_SETPIPE_SZ, _CHUNK)
            stack.callback(os.close, read)
            given.callback(os.close, write)
            self.pipes[read] = stream
            return write

        stdin = null() if self.stdio.stdin is None else self.stdio.stdin
        return stdin, output(self.stdio.stdout, 1), output(self.stdio.stderr, 2)

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self.status, select.POLLIN)
        killed = False
        # Python's signal handlers run between two of the main thread's instructions: one whose signal came just before
        # poll(2) slept would have to wait for the next event, which may never come.
        idle = _SIGNAL_GRAIN * 1000 if threading.current_thread() is threading.main_thread() else None
        while self.wait_status is None:
            timeout = idle if self.cancel is None or killed else _CANCEL_GRAIN * 1000
            for fd, _ in poll.poll(timeout):
                if fd == self.status.fileno():
                    self._message(poll)
                elif not self._read(fd):
                    poll.unregister(fd)
            if self.cancel is not None and not killed and self.cancel.is_set():
                self.signal(9)
                killed = True
        for fd in self.pipes:  # every writer is dead: what is in the pipes is all there will be
            while self._read(fd):
                pass

    def _read(self, fd: int) -> bool:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if data and self.stdio.output is not None:
            self.stdio.output(self.pipes[fd], data)
        return bool(data)

    def _message(self, poll: select.poll) -> None:
        message, fds, flags, _ = socket.recv_fds(self.status, _CHUNK, 2)
        if flags & socket.MSG_CTRUNC:
            self._incomplete(message, fds)
        elif message[:1] == b"S":
            self._start(poll, *struct.unpack("=i", message[1:]))
        elif message[:1] in (b"B", b"T") and not self.started:
            self.early.append((message, fds))
        else:
            self._hear(message, fds)

    def _start(self, poll: select.poll, pid: int) -> None:
        """The zygote tells of its child, which may have been faster and have run its program already.

        The caller hears nothing of a process before this: who sees what it says may send it a signal.
        """
        self.started = True
        if self.stdio.on_start is not None:
            self.stdio.on_start(self.signal, pid)
        while self.early:
            self._hear(*self.early.pop(0))
        for fd in self.pipes:
            poll.register(fd, select.POLLIN)

    def _hear(self, message: bytes, fds: list[int]) -> None:
        kind, body = message[:1], message[1:]
        if kind == b"X":
            (self.wait_status,) = struct.unpack("=i", body)
        elif kind == b"E":
            self._refused(*loads(body))
        elif kind == b"B" and self.stdio.on_program is not None:
            self.stdio.on_program()
        elif kind == b"N" and self.stdio.note is not None:
            self.stdio.note(loads(body))
        elif kind == b"C":
            self.made = loads(body)
        elif kind == b"T":
            (self.stdio.on_terminal or os.close)(fds[0])
        elif kind == b"W":
            self._way_out(fds)
        elif not kind:
            raise StoreError("the sandbox's helper process was killed", hint="run the build again")

    def _incomplete(self, message: bytes, fds: list[int]) -> None:
        """The step passed descriptors, and this process may not have so many: the step ends, without what they are."""
        _close(fds)
        what = _PASSED.get(message[:1], "descriptors")
        self.error = StoreError(
            f"cannot take the step's {what}: {os.strerror(errno.EMFILE)}",
            hint="let this process have more open files (ulimit -n)",
        )
        self.signal(9)

    def _way_out(self, fds: list[int]) -> None:
        if self.stdio.on_way_out is not None:
            self.stdio.on_way_out(fds[0], fds[1])
        else:
            _close(fds)

    def _refused(self, kind: str, text: str) -> None:
        if kind == "bug":
            raise RuntimeError(f"sandbox child: {text}")
        self.error = _ERRORS[kind](text, hint=_HINTS.get(kind, "see what `kedge doctor` says"))

    def signal(self, number: int) -> None:
        """Send the signal to the step's first process; nothing happens when it has ended."""
        with suppress(OSError):
            self.status.send(b"K" + bytes([number]))


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def exit_code(wait_status: int) -> int:
    """A wait status as shells number it: 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
