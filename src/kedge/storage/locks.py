"""Locks between threads and processes, and leases that tell the living from the dead.

Owns one lock file with a byte for each name (open file description locks: no file is left behind for a name, the kernel
releases what a killed process held, and two threads of one process exclude each other like two processes), and one
leased file for each open store. Does not know what is locked.
"""

import errno
import fcntl
import hashlib
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kedge.model.errors import Cancelled

_FLOCK = "hhqqi4x"  # struct flock of fcntl_locking(2) on 64-bit Linux: type, whence, start, length, pid
_POLL = (0.001, 0.05)  # seconds between two tries of a waiter that can be cancelled: first, longest


class Locks:
    """Named locks of one store. All methods may be called from any thread."""

    def __init__(self, root: Path) -> None:
        self._path = root / "locks"

    @contextmanager
    def held(self, name: str, *, shared: bool = False, cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold the lock `name`, waiting for other holders of this process and of others. Not reentrant.

        Raises Cancelled when `cancel` is set while waiting. May be left on another thread than it was entered on.
        """
        fd = self._open()
        try:
            _acquire(fd, name, shared, cancel)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def tried(self, name: str, *, shared: bool = False) -> Iterator[bool]:
        """Like `held`, but never waits: gives False, and holds nothing, when another holder is in the way."""
        fd = self._open()
        try:
            yield _try(fd, name, shared)
        finally:
            os.close(fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _acquire(fd: int, name: str, shared: bool, cancel: threading.Event | None) -> None:
    if cancel is None:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _request(name, shared))
        return
    pause, longest = _POLL
    while not _try(fd, name, shared):
        if cancel.wait(pause):
            raise Cancelled("cancelled while waiting for another build")
        pause = min(pause * 2, longest)


def _try(fd: int, name: str, shared: bool) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _request(name, shared))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _request(name: str, shared: bool) -> bytes:
    # Names share a byte with a chance of 2**-62; they would then wait for each other, nothing worse.
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 2
    return struct.pack(_FLOCK, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)


class Lease:
    """A sign of life: a locked file under `leases/` from first use until `close` or death.

    Its name marks the drafts and partial files of this store object. Its file's time protects, from everyone's garbage
    collection, all that was used since: since its start, or since `grace` seconds before that, once `reach_back` was
    called, for those who would rather not write down what was used recently anyway.
    """

    def __init__(self, root: Path, taken: Callable[[bool], None] = lambda _: None, grace: float = 0) -> None:
        """`taken` is called when the lease has been taken, with whether somebody died holding one."""
        self._root, self._taken, self._grace = root, taken, grace
        self._reached = False
        self._directory = root / "leases"
        self._lock = threading.Lock()
        self._fd, self._closed = -1, False
        self._name = ""
        self._start = 0.0
        self._serial = 0

    @property
    def start(self) -> float:
        """When it was taken, seconds since the epoch. Takes it on first use."""
        self._take()
        return self._start

    def new_name(self) -> str:
        """A name that nobody else has, by which `owner_lives` can tell whether this store is still open."""
        self._take()
        with self._lock:
            self._serial += 1
            return f"{self._name}.{self._serial}"

    def now(self) -> float:
        """The time to record a use with: never before the lease's start, even if the clock was set back."""
        return max(time.time(), self.start)

    def reach_back(self, used: float) -> bool:
        """Protect, from now on, what was used at `used`; False, and nothing done, when that is too long ago."""
        if used < self.start - self._grace:
            return False
        if not self._reached and used < self.start:
            os.utime(self._fd, (self.start, self.start - self._grace))
            self._reached = True
        return True

    def close(self) -> None:
        """End it for good. Who still works for a build that was stopped, and wants it later, is Cancelled: a lease that
        nobody closes any more would keep the store's things until the process ends.
        """
        with self._lock:
            self._closed = True
            if self._fd >= 0:
                (self._directory / self._name).unlink(missing_ok=True)
                os.close(self._fd)
                self._fd = -1

    def _take(self) -> None:
        if self._fd >= 0:
            return
        with self._lock:
            if self._fd >= 0:
                return
            if self._closed:
                raise Cancelled("the store was closed meanwhile")
            while self._fd < 0:
                self._name = os.urandom(5).hex()
                self._fd = _locked_file(self._directory / self._name)
            # The file's time, not the clock's: file times lag by the kernel's tick, and blobs are marked used by
            # theirs.
            self._start = os.fstat(self._fd).st_mtime
        before = len(os.listdir(self._directory))
        self._taken(before > 1 and len(living_leases(self._root)) < before)


def _locked_file(path: Path) -> int:
    """A new file at `path`, locked; -1 when a sweeper took it for a dead one before it was locked."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    if os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return -1
    return fd


def living_leases(root: Path) -> dict[str, float]:
    """Name and start of every lease whose store is open somewhere. Removes those of the dead."""
    living = {}
    for entry in list(os.scandir(root / "leases")):
        try:
            fd = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            start = os.fstat(fd).st_mtime
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(entry.path)
        except BlockingIOError:
            living[entry.name] = start
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)
    return living


def owner_of(name: str) -> str:
    """The lease that a name from `Lease.new_name` belongs to."""
    return name.partition(".")[0]
