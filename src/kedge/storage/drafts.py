"""Layers being written: an upper and a work directory under `drafts/`, and the step that makes a layer of them.

Owns `drafts/<lease>.<n>/`. Does not know who writes: the sandbox through its own mount, or file actions through
`tree()`.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from kedge.model.errors import KedgeError
from kedge.model.graph import Layer
from kedge.storage import overlay
from kedge.storage.budget import Budget, Reservation
from kedge.storage.disk import free_space, measure, remove_tree, translated
from kedge.storage.layer_records import LayerRecords
from kedge.storage.tree import Tree

_PAUSE = 0.1  # seconds between two looks at what a step has written
_NOTICE = 1 << 20  # bytes of growth that are looked at


class Draft:
    """A layer being written on top of a snapshot: a context manager that discards what was not committed.

    `upper` receives the changes, in overlayfs form; `work` is overlayfs's own; `lowers` are the directories of the
    snapshot below, bottom first, () over scratch. Either the sandbox mounts these itself, or `tree()` is used; never
    both at once. Not to be used by two threads at once.
    """

    def __init__(self, directory: Path, lowers: tuple[Path, ...], records: LayerRecords, budget: Budget) -> None:
        self.upper, self.work, self.lowers = directory / "fs", directory / "work", lowers
        self._directory, self._records, self._budget = directory, records, budget
        self._open = True
        self._reservation = budget.reserve(0)
        with translated("start a layer"):
            directory.mkdir(0o700)
            self.work.mkdir(0o700)
            self.upper.mkdir(0o755)
            if lowers:
                like(self.upper, lowers[-1])  # overlayfs shows the upper's root

    @contextmanager
    def tree(self) -> Iterator[Tree]:
        """The merged tree, writable."""
        if not self.lowers:  # nothing below: what is removed leaves no whiteout, so no mount is needed
            with translated("open a layer"):
                fd = os.open(self.upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield Tree(fd, writable=True)
            finally:
                os.close(fd)
            return
        with overlay.merged(self.lowers, self.upper, self.work) as fd:
            yield Tree(fd, writable=True)

    def commit(self, description: str = "") -> Layer:
        """Make it a layer: a rename, no copy. Atomic. Nothing may have the tree open or mounted any more.

        Raises StoreError when the disk, or the store's cap, has no room for it; the draft can then only be discarded.
        """
        if self._budget.max_size:
            self._reservation.cover(measure(self.upper).bytes)
        layer = self._records.publish(self.upper, description)
        self.discard()
        return layer

    @contextmanager
    def watched(self, stop: Callable[[], None]) -> Iterator[None]:
        """While entered, hold what a running step writes against the store's cap; without a cap, do nothing.

        When the cap has no room for it, `stop` is called (from another thread) to end the step, and leaving raises the
        StoreError. What a step writes within a tenth of a second may exceed the cap for that long.
        """
        if not self._budget.max_size:
            yield
            return
        watch = _Watch(self.upper, self._reservation, stop)
        watch.start()
        try:
            yield
        finally:
            watch.end()
            if watch.error:
                raise watch.error

    def discard(self) -> None:
        """Drop it, or after a commit what is left of it. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._reservation.settle(0)
        with suppress(OSError):
            os.rmdir(self.work / "work")
            os.rmdir(self.work)
            os.rmdir(self._directory)
            return
        trash = self._directory.parent.parent / "trash" / self._directory.name
        with suppress(OSError):
            os.rename(self._directory, trash)
            remove_tree(trash)

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class _Watch:
    """A thread that reserves room for what a directory grows by."""

    def __init__(self, directory: Path, reservation: Reservation, stop: Callable[[], None]) -> None:
        self._directory, self._reservation, self._stop = directory, reservation, stop
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="kedge-watch", daemon=True)
        self.error: KedgeError | None = None

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        # The file system's free space says at no cost whether anything can have grown; only then the tree is measured.
        looked = free_space(self._directory)
        while not self._ended.wait(_PAUSE):
            free = free_space(self._directory)
            if looked - free < _NOTICE:
                looked = max(looked, free)
                continue
            looked = free
            try:
                self._reservation.cover(measure(self._directory).bytes + _NOTICE)
            except KedgeError as error:
                self.error = error
                self._stop()
                return


def like(directory: Path, other: Path) -> None:
    """Give a new directory the metadata of another."""
    status = os.stat(other)
    with suppress(PermissionError):  # with a single id, all owners are ours; the real one is the attribute below
        os.chown(directory, status.st_uid, status.st_gid)
    os.chmod(directory, status.st_mode & 0o7777)
    with suppress(OSError):  # a file system without extended attributes
        for name in os.listxattr(other):
            if not name.startswith(("trusted.overlay.", "user.overlay.")):
                os.setxattr(directory, name, os.getxattr(other, name))
    os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))
