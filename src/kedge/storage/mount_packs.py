"""The content of a cache mount as packs: pieces of a megabyte or a few, named by their bytes, and an index of files.

Owns what goes into which pack, and the way back. Where a pack ends depends on the names of the files in it, not on what
came before, so a changed, new or missing file changes its own pack only, and the others need not be sent again.
Sockets, devices and extended attributes stay behind. Does not know where packs are kept.
"""

import io
import json
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from kedge.model.digest import Digest, parse_digest
from kedge.model.errors import IntegrityError, SourceError
from kedge.model.value import dataclass, field

LEAST: Final = 1 << 20  # bytes of a pack before it may end
MOST: Final = 8 << 20  # bytes at which it ends
LARGE: Final = 4 << 20  # a file of so many bytes has packs of its own
_ONE_IN: Final = 8  # files that a pack may end behind
_MOST_FILES: Final = 2_000_000
_KINDS = {"d": tarfile.DIRTYPE, "f": tarfile.REGTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE}


@dataclass(slots=True)
class PackedFile:
    """One file: `kind` d, f, l (symbolic link) or h (hard link); `pieces` are (pack, offset, length)."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int  # nanoseconds
    target: str = ""
    pieces: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class MountIndex:
    """All files, parents first, and the digest of each pack's plain bytes' compressed form in order."""

    files: list[PackedFile] = field(default_factory=list)
    packs: list[Digest] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        files = [[f.path, f.kind, f.mode, f.uid, f.gid, f.mtime, f.target, f.pieces] for f in self.files]
        return json.dumps({"packs": self.packs, "files": files}, separators=(",", ":")).encode("utf-8", "surrogatepass")

    @classmethod
    def from_bytes(cls, data: bytes) -> "MountIndex":
        """Raises IntegrityError for anything that is none."""
        try:
            value = json.loads(data)
            packs = [parse_digest(digest) for digest in value["packs"]]
            files = [_read_file(entry, len(packs)) for entry in value["files"]]
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise IntegrityError(f"the index of a cache mount cannot be read: {error}") from None
        if len(files) > _MOST_FILES:
            raise IntegrityError("the index of a cache mount has too many files")
        return cls(files, packs)


def _read_file(entry: Any, packs: int) -> PackedFile:
    path, kind, mode, uid, gid, mtime, target, pieces = entry
    known = PackedFile(str(path), str(kind), int(mode) & 0o7777, int(uid), int(gid), int(mtime), str(target))
    for pack, offset, length in pieces:
        if not 0 <= int(pack) < packs or int(offset) < 0 or not 0 <= int(length) <= MOST:
            raise IntegrityError("the index of a cache mount refers to bytes that are not there")
        known.pieces.append((int(pack), int(offset), int(length)))
    if known.kind not in _KINDS:
        raise IntegrityError("the index of a cache mount has a file of an unknown kind")
    return known


# ---- packing ---------------------------------------------------------------------------------------------------------


class MountPacker:
    """Reads a directory into packs, one at a time. The number of a pack in `index` is the order they are yielded in."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.index = MountIndex()
        self._buffer = bytearray()
        self._count = 0
        self._links: dict[tuple[int, int], str] = {}

    def packs(self) -> Iterator[bytes]:
        """The plain bytes of each pack. Raises SourceError for what cannot be read."""
        try:
            for where, directories, names, fd in os.fwalk(self._directory, follow_symlinks=False):
                directories.sort()
                prefix = os.path.relpath(where, self._directory)
                self._note(prefix, os.fstat(fd), "d")
                links = [name for name in directories if stat.S_ISLNK(os.lstat(name, dir_fd=fd).st_mode)]
                for name in sorted([*names, *links]):
                    yield from self._entry(os.path.normpath(f"{prefix}/{name}"), name, fd)
        except OSError as error:
            raise SourceError(f"cannot read the cache mount at {self._directory}: {error.strerror}") from error
        if self._buffer:
            yield self._flush()

    def _entry(self, path: str, name: str, fd: int) -> Iterator[bytes]:
        status = os.lstat(name, dir_fd=fd)
        if stat.S_ISLNK(status.st_mode):
            self._note(path, status, "l").target = os.readlink(name, dir_fd=fd)
        elif stat.S_ISREG(status.st_mode):
            key = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and key in self._links:
                self._note(path, status, "h").target = self._links[key]
                return
            self._links[key] = path
            yield from self._file(self._note(path, status, "f"), name, fd, status.st_size)

    def _note(self, path: str, status: os.stat_result, kind: str) -> PackedFile:
        mode = stat.S_IMODE(status.st_mode)
        known = PackedFile(path, kind, mode, status.st_uid, status.st_gid, status.st_mtime_ns)
        self.index.files.append(known)
        return known

    def _file(self, known: PackedFile, name: str, fd: int, size: int) -> Iterator[bytes]:
        if size >= LARGE and self._buffer:
            yield self._flush()
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd), "rb") as file:
            while piece := file.read(MOST - len(self._buffer)):
                known.pieces.append((self._count, len(self._buffer), len(piece)))
                self._buffer += piece
                if len(self._buffer) >= MOST:
                    yield self._flush()
        may_end = zlib.crc32(os.fsencode(known.path)) % _ONE_IN == 0
        if self._buffer and (size >= LARGE or (may_end and len(self._buffer) >= LEAST)):
            yield self._flush()

    def _flush(self) -> bytes:
        data = bytes(self._buffer)
        self._buffer.clear()
        self._count += 1
        return data


# ---- the way back ----------------------------------------------------------------------------------------------------


class _Archive(io.RawIOBase):
    """The files as a tar, read once from front to end: so foreign names meet the same guards as a layer's."""

    def __init__(self, index: MountIndex, pack: Callable[[int], bytes]) -> None:
        self._pieces = self._parts(index, pack)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        while not self._rest:
            following = next(self._pieces, None)
            if following is None:
                return b""
            self._rest = following
        data = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(data) :]
        return data

    def _parts(self, index: MountIndex, pack: Callable[[int], bytes]) -> Iterator[bytes]:
        number, data = -1, b""
        for file in index.files:
            size = sum(length for _, _, length in file.pieces)
            yield _header(file, size)
            for wanted, offset, length in file.pieces:
                if wanted != number:
                    number, data = wanted, pack(wanted)
                piece = data[offset : offset + length]
                if len(piece) != length:
                    raise IntegrityError("a pack of a cache mount is shorter than its index says")
                yield piece
            yield b"\0" * (-size % 512)
        yield b"\0" * 1024


def _header(file: PackedFile, size: int) -> bytes:
    entry = tarfile.TarInfo(file.path)
    entry.type, entry.mode, entry.uid, entry.gid = _KINDS[file.kind], file.mode, file.uid, file.gid
    entry.size, entry.mtime, entry.linkname = size, file.mtime // 1_000_000_000, file.target
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def unpack_mount(index: MountIndex, pack: Callable[[int], bytes], directory: Path) -> None:
    """Put the files into an empty directory. `pack` gives the verified plain bytes of a pack. Raises IntegrityError."""
    from kedge.storage.tar_read import unpack

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        unpack(_Archive(index, pack), fd, layer=False)
    except (ValueError, OverflowError) as error:  # a name or number that no tar can hold
        raise IntegrityError(f"the index of a cache mount has a malformed file: {error}") from None
    finally:
        os.close(fd)
