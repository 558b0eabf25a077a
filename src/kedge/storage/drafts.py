"""Layers being written: an upper and a work directory under `drafts/`, and the step that makes a layer of them.

Owns `drafts/<lease>.<n>/`. Does not know who writes: the sandbox through its own mount, or file actions through
`tree()`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from kedge.model.graph import Layer
from kedge.storage import overlay
from kedge.storage.budget import Budget
from kedge.storage.disk import measure, remove_tree, translated
from kedge.storage.layer_records import LayerRecords
from kedge.storage.tree import Tree


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
        with translated("start a layer"):
            directory.mkdir(0o700)
            self.work.mkdir(0o700)
            self.upper.mkdir(0o755)
            if lowers:
                _like(self.upper, lowers[-1])

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
            size = measure(self.upper).bytes
            reservation = self._budget.reserve(size)
        else:
            reservation = self._budget.reserve(0)
        try:
            layer = self._records.publish(self.upper, description)
        finally:
            reservation.settle(0)
        self.discard()
        return layer

    def discard(self) -> None:
        """Drop it, or after a commit what is left of it. Idempotent."""
        if not self._open:
            return
        self._open = False
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


def _like(directory: Path, other: Path) -> None:
    """Give a new upper directory the metadata of the root below: overlayfs shows the upper's."""
    status = os.stat(other)
    with suppress(PermissionError):  # with a single id, all owners are ours; the real one is the attribute below
        os.chown(directory, status.st_uid, status.st_gid)
    os.chmod(directory, status.st_mode & 0o7777)
    with suppress(OSError):  # a file system without extended attributes
        for name in os.listxattr(other):
            if not name.startswith(("trusted.overlay.", "user.overlay.")):
                os.setxattr(directory, name, os.getxattr(other, name))
    os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))
