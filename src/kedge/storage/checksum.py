"""The digest of what a selection of files holds: what decides whether COPY is a cache hit.

Owns what counts (path, type, mode, owner, content, link target, device, xattrs; never times). Does not know cache keys.
Files of a client's own directory (`Tree.in_place`) count as owned by 0:0, as BuildKit's clients send them.
"""

import hashlib
import os
import stat
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kedge.model.cachekey import Selection, Selections
from kedge.model.digest import Digest
from kedge.model.errors import SourceError
from kedge.model.value import dataclass, field
from kedge.storage import ownership
from kedge.storage.copy_metadata import read_metadata
from kedge.storage.copy_selection import Filters, Found, clean, expand, locate, missing, walk
from kedge.storage.tree import Tree

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from kedge.storage.stats import StatCache

_ALONE = 1 << 17  # a file of fewer bytes is hashed at once; handing it to a thread costs more
_CHUNK = 1 << 20
_OPEN_AT_ONCE = 64
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Signature = tuple[int, int, int, int]


@dataclass(slots=True)
class Witness:
    """Which files a checksum saw, as (inode, size, mtime, ctime) by path: a later copy of the tree compares them."""

    files: dict[str, Signature] = field(default_factory=dict)


def signature(status: os.stat_result) -> Signature:
    """What changes when a file's content does."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def checksum(
    tree: Tree, selections: Selections, stats: "StatCache | None" = None, witness: Witness | None = None
) -> Digest:
    """The digest of the selected files; equal for equal content on every machine.

    Unchanged files known to `stats` are not read. Large ones are hashed by several threads. Raises NotFound naming a
    path that matches nothing (and the ignore pattern that excluded it), SourceError when a file cannot be read or
    changes meanwhile.
    """
    work = _Work(tree, stats, witness)
    try:
        for selection in selections:
            work.add(selection)
        return work.digest()
    finally:
        work.close()


class _Work:
    """The parts of the digest in order; contents may still be on their way in other threads."""

    def __init__(self, tree: Tree, stats: "StatCache | None", witness: Witness | None) -> None:
        self._tree = tree
        self._stats = stats
        self._witness = witness
        self._how = ownership.policy()
        self._parts: list[bytes | Future[Digest]] = []
        self._running: list[Future[Digest]] = []
        self._pool: ThreadPoolExecutor | None = None

    def add(self, selection: Selection) -> None:
        """All that the selection means, each path after its name so that no two trees read alike."""
        sources = (
            expand(self._tree, selection.path, selection.follow) if selection.wildcard else [clean(selection.path)]
        )
        if not sources and not selection.allow_empty:
            raise missing(self._tree, selection.path)
        filters = Filters(selection.include, selection.exclude)
        seen: list[str] = []
        self._parts.append(b"selection %d\n" % len(sources))
        for source in sources:
            real = locate(self._tree, source, selection.follow)
            if selection.wildcard:
                self._field(os.fsencode(source))
            met = 0
            for found in walk(self._tree, real, filters):
                met += 1
                if selection.required:
                    seen.append(clean(f"{source}/{found.path}"))
                if not (selection.contents_only and not found.path and stat.S_ISDIR(found.status.st_mode)):
                    self._file(found)
            if not met:
                raise missing(self._tree, real)
        for path in map(clean, selection.required):
            if not any(name == path or name.startswith(path.rstrip("/") + "/") for name in seen):
                raise missing(self._tree, path)

    def _field(self, value: bytes) -> None:
        self._parts.append(b"%d:%s," % (len(value), value))

    def _file(self, found: Found) -> None:
        status, mode = found.status, found.status.st_mode
        meta = read_metadata(found.directory_fd, found.name, status, self._tree.in_place, self._how)
        permissions = 0o777 if stat.S_ISLNK(mode) else mode & 0o7777
        path = os.fsencode(found.path)
        about = b"%o %o %d %d" % (stat.S_IFMT(mode), permissions, meta.uid, meta.gid)
        self._parts.append(b"%d:%s,%d:%s," % (len(path), path, len(about), about))
        for key, value in meta.xattrs:
            self._field(os.fsencode(key))
            self._field(value)
        if stat.S_ISREG(mode):
            if self._witness is not None:
                self._witness.files[found.real] = signature(status)
            self._parts.append(b"content ")
            self._parts.append(self._content(found))
        elif stat.S_ISLNK(mode):
            self._field(os.readlink(os.fsencode(found.name), dir_fd=found.directory_fd))
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            self._field(b"%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev)))

    def _content(self, found: Found) -> "bytes | Future[Digest]":
        known = self._stats.get(found.status) if self._stats is not None else None
        if known is not None:
            return known.encode()
        try:
            fd = os.open(found.name, _READ, dir_fd=found.directory_fd)
        except OSError as error:
            raise SourceError(f"cannot read {found.real}: {error.strerror}") from error
        if found.status.st_size < _ALONE:
            return self._hash(fd, found.real, found.status).encode()
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "kedge-hash")
        if len(self._running) >= _OPEN_AT_ONCE:
            self._running.pop(0).result()
        future = self._pool.submit(self._hash, fd, found.real, found.status)
        self._running.append(future)
        return future

    def _hash(self, fd: int, real: str, seen: os.stat_result) -> Digest:
        try:
            taken = time.time_ns()
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode) or signature(before) != signature(seen):
                raise SourceError(f"{real} changed while it was read")
            hashed = hashlib.sha256()
            left = before.st_size
            while left > 0 and (chunk := os.read(fd, min(left, _CHUNK))):
                left -= len(chunk)
                hashed.update(chunk)
            if signature(os.fstat(fd)) != signature(seen):
                raise SourceError(f"{real} changed while it was read")
        except OSError as error:
            raise SourceError(f"cannot read {real}: {error.strerror}") from error
        finally:
            os.close(fd)
        digest = Digest("sha256:" + hashed.hexdigest())
        if self._stats is not None:
            self._stats.put(before, digest, taken)
        return digest

    def digest(self) -> Digest:
        """All parts together, once all contents are known."""
        total = hashlib.sha256()
        for part in _finished(self._parts):
            total.update(part)
        return Digest("sha256:" + total.hexdigest())

    def close(self) -> None:
        """Wait for the threads: their descriptors are theirs to close."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)


def _finished(parts: "Iterable[bytes | Future[Digest]]") -> Iterable[bytes]:
    for part in parts:
        yield part if isinstance(part, bytes) else part.result().encode()
