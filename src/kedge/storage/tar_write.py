"""Writing a layer directory (overlayfs form) as an OCI layer: the same bytes for the same tree, always.

Owns order, header fields and the way back from overlayfs's whiteouts to the OCI image specification's (layer.md). Does
not compress or hash. Headers are plain ustar; a PAX header precedes only what ustar cannot say. Times are whole
seconds, rounded down as BuildKit's are; user and group names are never written.

Order: a directory, its opaque whiteout, then its children by the bytes of their names. Of the names of one file, the
first in that order carries the data, the others are hard links.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from kedge.model.errors import StoreError
from kedge.model.value import dataclass, replace
from kedge.storage import ownership
from kedge.storage import tar_format as tar
from kedge.storage.bytecode import HEADER_SIZE, is_bytecode, lowered, source_of
from kedge.storage.tar_format import BLOCK, Entry, format_header

_CHUNK = 1 << 20
_END = bytes(2 * BLOCK)
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Writable(Protocol):
    """Where the tar goes: takes all of `data`, at any size."""

    def write(self, data: bytes | memoryview, /) -> object: ...


@dataclass(frozen=True, slots=True)
class TarOptions:
    """How to write a tar.

    `clamp`: times later than this many seconds since the epoch are lowered to it (SOURCE_DATE_EPOCH). `layer`: char
    devices 0/0 and opaque directories become whiteouts; without it there is nothing special about them. `root`: the
    directory itself gets an entry first, `./` or the prefix. `prefix` (with a final slash) goes before every name.
    `end`: the end marker follows; without it another tree may.
    """

    clamp: int | None = None
    layer: bool = True
    root: bool = False
    prefix: str = ""
    end: bool = True


@dataclass(frozen=True, slots=True)
class Written:
    """What went out: entries, and bytes with the end marker."""

    entries: int
    bytes: int


def write_tar(
    directory: Path | int,
    out: Writable,
    options: TarOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Write the tree at `directory` (a path or a descriptor) to `out` as one tar with its end marker.

    Nothing may change the tree meanwhile; a file that shrinks or grows raises StoreError. Sockets are left out, as tar
    has no word for them. `progress` is told the bytes so far, now and then; it may raise to stop. Raises StoreError
    when the tree cannot be read; what `out.write` raises passes through.
    """
    base = f"/proc/self/fd/{directory}" if isinstance(directory, int) else str(directory)
    writer = _Writer(os.fsencode(base), out, options or TarOptions(), progress)
    writer.tree()
    return Written(writer.entries, writer.bytes)


class _Writer:
    """One tar being written: entries and bytes so far, and the first names of files with several."""

    def __init__(self, base: bytes, out: Writable, options: TarOptions, progress: Callable[[int], None] | None) -> None:
        self.entries = 0
        self.bytes = 0
        self._base = base
        self._out = out
        self._options = options
        self._progress = progress
        self._told = 0
        self._last_is_directory = False
        self._first_names: dict[tuple[int, int], bytes] = {}
        self._overlay = ownership.overlay_prefix()
        self._how = ownership.policy()
        self._prefix = os.fsencode(self._options.prefix)
        self._buffer = memoryview(bytearray(_CHUNK))

    def tree(self) -> None:
        """Write all of it."""
        try:
            self._directory(b"", os.lstat(self._base + b"/."))
            for path in self._walk():
                self._node(path)
        except OSError as error:
            if error.filename is None:
                raise  # not ours: of `out`
            name = os.fsdecode(error.filename).removeprefix(os.fsdecode(self._base))
            raise StoreError(f"cannot read {name} of a layer: {error.strerror}") from error
        if self._options.end:
            self._put(_END)
        if self._progress is not None:
            self._progress(self.bytes)

    def _walk(self) -> Iterator[bytes]:
        """The paths of the tree, parents first, without recursion."""
        stack = self._names(b"")
        while stack:
            path = stack.pop()
            yield path
            if self._last_is_directory:
                stack += self._names(path + b"/")

    def _names(self, prefix: bytes) -> list[bytes]:
        """The paths in one directory, last one first."""
        return [
            prefix + name for name in sorted(map(os.fsencode, os.listdir(self._base + b"/" + prefix)), reverse=True)
        ]

    def _node(self, path: bytes) -> None:
        full = self._base + b"/" + path
        status = os.lstat(full)
        kind = stat.S_IFMT(status.st_mode)
        self._last_is_directory = kind == stat.S_IFDIR
        if kind == stat.S_IFDIR:
            self._directory(path, status)
        elif kind == stat.S_IFSOCK:
            return
        elif kind == stat.S_IFCHR and status.st_rdev == 0 and self._options.layer:
            self._whiteout(path, status)
        else:
            self._leaf(path, full, status, tar.KIND_OF_TYPE[kind])

    def _directory(self, path: bytes, status: os.stat_result) -> None:
        name = path + b"/" if path else b"" if self._prefix else b"./"
        entry = self._entry(name, tar.DIRECTORY, status)
        xattrs, opaque = self._attributes(self._base + b"/" + path, entry, status)
        entry.xattrs = xattrs
        if path or self._options.root:
            self._header(entry)
        if opaque and self._options.layer:
            folder = path + b"/" if path else b""
            self._header(replace(_marker(self._prefix + folder + tar.OPAQUE), mtime=entry.mtime))

    def _whiteout(self, path: bytes, status: os.stat_result) -> None:
        directory, slash, name = path.rpartition(b"/")
        entry = _marker(self._prefix + directory + slash + tar.WHITEOUT + name)
        entry.mtime = self._time(status)
        self._header(entry)

    def _leaf(self, path: bytes, full: bytes, status: os.stat_result, kind: bytes) -> None:
        entry = self._entry(path, kind, status)
        if status.st_nlink > 1:
            first = self._first_names.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                entry.kind, entry.link = tar.HARD_LINK, self._prefix + first
                self._attributes(full, entry, status)
                self._header(entry)
                return
        entry.xattrs, _ = self._attributes(full, entry, status)
        if entry.kind == tar.FILE:
            entry.size = entry.stored = status.st_size
            self._file(full, entry)
            return
        if kind == tar.SYMLINK:
            entry.link = os.readlink(full)
            entry.mode = 0o777
        elif kind in (tar.CHARACTER, tar.BLOCK_DEVICE):
            entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        self._header(entry)

    def _file(self, full: bytes, entry: Entry) -> None:
        if not entry.size:
            self._header(entry)
            return
        fd = os.open(full, _OPEN)
        try:
            self._header(entry)
            left = entry.size
            while left:
                count = os.readv(fd, [self._buffer[: min(left, _CHUNK)]])
                if not count:
                    break
                if left == entry.size and self._options.clamp is not None and is_bytecode(full):
                    self._lower_bytecode(full, self._options.clamp)
                self._put(self._buffer[:count])
                left -= count
            if left or os.fstat(fd).st_size != entry.size:
                raise StoreError(f"{os.fsdecode(entry.name)!r} of a layer changed while it was read")
        finally:
            os.close(fd)
        if entry.size % BLOCK:
            self._put(bytes(-entry.size % BLOCK))

    def _lower_bytecode(self, full: bytes, clamp: int) -> None:
        """What the bytecode in the buffer remembers of its source's time, as that source's entry has it.

        A source in another layer may keep its time: its bytecode then stays as it is.
        """
        try:
            source = os.lstat(source_of(full))
        except OSError:
            return
        header = bytes(self._buffer[:HEADER_SIZE])
        self._buffer[:HEADER_SIZE] = lowered(header, source.st_mtime_ns // 1_000_000_000, clamp)

    def _entry(self, name: bytes, kind: bytes, status: os.stat_result) -> Entry:
        mode = status.st_mode & 0o7777
        return Entry(self._prefix + name, kind, mode, status.st_uid, status.st_gid, mtime=self._time(status))

    def _time(self, status: os.stat_result) -> int:
        seconds = status.st_mtime_ns // 1_000_000_000
        if self._options.clamp is not None and seconds > self._options.clamp:
            seconds = self._options.clamp
        return seconds * 1_000_000_000

    def _attributes(self, full: bytes, entry: Entry, status: os.stat_result) -> tuple[dict[bytes, bytes], bool]:
        """The extended attributes to write, and whether the directory is opaque. Corrects `entry` by a record of its
        owner.

        overlayfs's own attributes stay behind, except those of the image itself, which stand escaped in the layer.
        """
        found: dict[bytes, bytes] = {}
        opaque = False
        for name in os.listxattr(full, follow_symlinks=False):
            if name.startswith(self._overlay):
                rest = name[len(self._overlay) :]
                if rest.startswith("overlay."):
                    value = os.getxattr(full, name, follow_symlinks=False)
                    found[os.fsencode(self._overlay + rest[8:])] = value
                elif rest == "opaque":
                    opaque = os.getxattr(full, name, follow_symlinks=False) in (b"y", b"Y")
            elif name == ownership.OWNER_XATTR:
                value = os.getxattr(full, name, follow_symlinks=False)
                _correct(entry, ownership.decode(value, status.st_uid, status.st_gid, self._how))
            elif not name.startswith(ownership.PRIVATE_PREFIX) and not _is_hosts(name):
                found[os.fsencode(name)] = os.getxattr(full, name, follow_symlinks=False)
        return found, opaque

    def _header(self, entry: Entry) -> None:
        self.entries += 1
        self._put(format_header(entry))

    def _put(self, data: bytes | memoryview) -> None:
        self._out.write(data)
        self.bytes += len(data)
        if self._progress is not None and self.bytes - self._told >= 1 << 22:
            self._told = self.bytes
            self._progress(self.bytes)


def _marker(name: bytes) -> Entry:
    """A whiteout's entry: an empty file of root's, as BuildKit writes it."""
    return Entry(name, tar.FILE, 0)


def _is_hosts(name: str) -> bool:
    """Attributes that the host's own security modules put there, not the image."""
    return name in ("security.selinux", "security.ima", "security.evm", "security.apparmor") or name.startswith(
        "system.nfs4"
    )


def _correct(entry: Entry, record: ownership.Record | None) -> None:
    if record is None:
        return
    entry.uid, entry.gid = record.uid, record.gid
    if record.kind and entry.kind == tar.FILE:
        entry.kind = tar.CHARACTER if record.kind == "c" else tar.BLOCK_DEVICE
        entry.major, entry.minor = record.major, record.minor
