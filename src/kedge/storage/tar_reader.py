"""The tar parser: a stream of bytes into entries, in one pass, within limits.

Owns the syntax (ustar, PAX with global headers, GNU long names and base-256, sparse files in GNU's old form and PAX
0.0, 0.1 and 1.0). Does not know files: `tar_read` makes them. Reads like Go's archive/tar where writers differ, as
layers are made by it. Everything an archive claims is checked before it is believed; nothing it claims makes the
parser allocate.
"""

import os
import struct
from collections.abc import Iterator
from typing import Protocol

from kedge.model.errors import IntegrityError
from kedge.model.value import dataclass
from kedge.storage import tar_format as tar
from kedge.storage.tar_format import BLOCK, Entry, malformed

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_ZEROS = bytes(BLOCK)
_CHUNK = 1 << 20
_NO_CHUNK = bytes(2 * _CHUNK)
_DATALESS = frozenset((tar.HARD_LINK, tar.SYMLINK, tar.CHARACTER, tar.BLOCK_DEVICE, tar.DIRECTORY, tar.FIFO))
_KINDS = {b"\0": tar.FILE, b"7": tar.FILE, b"S": tar.FILE, b"D": tar.DIRECTORY} | {
    kind: kind for kind in (tar.FILE, *_DATALESS)
}


class Readable(Protocol):
    """Bytes to take, at most `size` at a time; b"" at the end. Decompressed streams also have `consumed`."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may cost. Bytes unless said otherwise; checked while streaming, before the cost arises.

    `ratio` bounds plain to compressed bytes, once more than `ratio_from` plain bytes came.
    """

    total: int = 256 << 30
    entry: int = 128 << 30
    entries: int = 4_000_000
    path: int = 4095
    depth: int = 1024
    header: int = 1 << 20  # one entry's extended headers together
    ratio: int = 500
    ratio_from: int = 8 << 30


class TarReader:
    """Iterates over entries; between two of them, the data of the last one may be taken with `write_data` or left.

    Raises IntegrityError for anything malformed, cut off or over a limit.
    """

    def __init__(self, stream: Readable, limits: Limits) -> None:
        self.bytes = 0  # plain bytes taken so far
        self._stream = stream
        self._limits = limits
        self._buffer = b""
        self._at = 0
        self._left = 0  # bytes of the current entry's data not taken yet, and its padding
        self._padding = 0
        self._claimed = 0  # unpacked sizes so far: a sparse file costs whoever reads it
        self._headers = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry

    # ---- bytes -------------------------------------------------------------------------------------------------------

    def _fill(self, wanted: int) -> bool:
        """Have at least `wanted` bytes in the buffer; False when the stream ends before."""
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        while have < wanted:
            chunk = self._stream.read(_CHUNK)
            if not chunk:
                break
            self._count(len(chunk))
            parts.append(chunk)
            have += len(chunk)
        self._buffer, self._at = b"".join(parts), 0
        return have >= wanted

    def _count(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self._limits.total:
            raise IntegrityError(f"the archive is larger than {self._limits.total} bytes")
        if self.bytes > self._limits.ratio_from:
            consumed = getattr(self._stream, "consumed", None)
            if consumed and self.bytes > consumed * self._limits.ratio:
                raise IntegrityError(f"the archive unpacks to more than {self._limits.ratio} times its size")

    def _take(self, size: int) -> bytes:
        at = self._at
        if len(self._buffer) - at < size:
            if not self._fill(size):
                raise malformed("it is cut off")
            at = 0
        self._at = at + size
        return self._buffer[at : at + size]

    def _skip(self, size: int) -> None:
        while size > 0:
            have = len(self._buffer) - self._at
            if not have:
                if not self._fill(1):
                    raise malformed("it is cut off")
                continue
            step = min(have, size)
            self._at += step
            size -= step

    def drain(self) -> None:
        """Take the rest of the stream, so that whoever hashes it has seen all."""
        self._buffer, self._at = b"", 0
        while chunk := self._stream.read(_CHUNK):
            self._count(len(chunk))

    def write_data(self, fd: int, entry: Entry) -> None:
        """Write the data of the current `entry` to the empty file `fd`, leaving holes where there is none."""
        if entry.sparse is None:
            size = self._left
            if len(self._buffer) - self._at >= size:  # the many small files
                at = self._at
                self._at = at + size
                self._left = 0
                _write(fd, self._buffer[at : at + size])
            elif self._pour(fd, size):
                os.ftruncate(fd, size)
            return
        for offset, length in entry.sparse:
            os.lseek(fd, offset, os.SEEK_SET)
            self._pour(fd, length)
        os.ftruncate(fd, entry.size)

    def read_data(self) -> Iterator[bytes]:
        """The stored data of the current entry, in pieces; a sparse file's holes are not among them."""
        while self._left > 0:
            if self._at == len(self._buffer) and not self._fill(1):
                raise malformed("it is cut off")
            piece = self._buffer[self._at : self._at + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            yield piece

    def _pour(self, fd: int, size: int) -> bool:
        """Write the next `size` bytes at the file's offset; long zeros become holes. True if it ends in one."""
        hole = False
        self._left -= size
        while size > 0:
            have = len(self._buffer) - self._at
            if not have:
                if not self._fill(min(size, _CHUNK)):
                    raise malformed("it is cut off")
                continue
            step = min(have, size)
            piece = memoryview(self._buffer)[self._at : self._at + step]
            hole = step >= 65536 and piece[:64] == _ZEROS[:64] and bytes(piece) == _NO_CHUNK[:step]
            if hole:
                os.lseek(fd, step, os.SEEK_CUR)
            else:
                _write(fd, piece)
            self._at += step
            size -= step
        return hole

    # ---- headers -----------------------------------------------------------------------------------------------------

    def _next(self) -> Entry | None:
        self._skip(self._left + self._padding)
        self._left = self._padding = 0
        local: dict[bytes, bytes] = {}
        pieces: list[bytes] = []
        budget = self._limits.header
        while (block := self._header_block()) is not None:
            kind = block[156:157]
            if kind in b"xgLK":
                size = tar.parse_number(block[124:136])
                budget -= size + BLOCK
                if size < 0 or budget < 0:
                    raise malformed("an extended header that is too long")
                data = self._take(size)
                self._skip(-size % BLOCK)
                self._extend(kind, data, local, pieces)
            elif kind == b"V":  # GNU's volume label
                continue
            else:
                return self._entry(block, local, pieces, budget)
        if local:
            raise malformed("it ends after an extended header")
        return None

    def _header_block(self) -> bytes | None:
        """The next header, its checksum verified; None at the end of the archive, marked or not."""
        self._headers += 1
        if self._headers > 2 * self._limits.entries:
            raise IntegrityError(f"the archive has more than {self._limits.entries} entries")
        if len(self._buffer) - self._at < BLOCK and not self._fill(1):
            return None
        block = self._take(BLOCK)
        if block[0] == 0 and block == _ZEROS:
            if self._fill(1) and self._take(BLOCK) != _ZEROS:
                raise malformed("data behind a lone block of zeros")
            self.drain()
            return None
        if not _sums_up(block):
            raise (
                malformed("a header whose checksum is wrong") if self._headers > 1 else IntegrityError("no tar archive")
            )
        return block

    def _extend(self, kind: bytes, data: bytes, local: dict[bytes, bytes], pieces: list[bytes]) -> None:
        if kind == b"L":
            local[b"path"] = data.partition(b"\0")[0]
        elif kind == b"K":
            local[b"linkpath"] = data.partition(b"\0")[0]
        elif kind == b"g":
            self._global.update(tar.parse_records(data))
            if sum(len(key) + len(value) for key, value in self._global.items()) > self._limits.header:
                raise malformed("global headers that are too long")
        else:
            for key, value in tar.parse_records(data):
                if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # PAX 0.0: the one key that repeats
                    if len(pieces) % 2 != (key == b"GNU.sparse.numbytes"):
                        raise malformed("a sparse map that is none")
                    pieces.append(value)
                else:
                    local[key] = value

    def _entry(self, block: bytes, local: dict[bytes, bytes], pieces: list[bytes], budget: int) -> Entry:
        (name, mode, uid, gid, size, mtime, _, flag, link, magic, _, _, major, minor, prefix, tail) = _HEADER.unpack(
            block
        )
        kind = _KINDS.get(flag)
        if kind is None:
            raise malformed(f"an entry of unknown type {flag!r}")
        name = name.partition(b"\0")[0]
        if magic[:6] == b"ustar\0" and prefix[0]:
            if tail[8:] == b"tar\0":  # star's own form: times stand where the prefix ends
                prefix = prefix[:131]
            name = prefix.partition(b"\0")[0] + b"/" + name
        number = tar.parse_number
        stored = number(size)
        entry = Entry(
            name,
            kind,
            number(mode) & 0o7777,
            tar.checked_id(number(uid)),
            tar.checked_id(number(gid)),
            stored,
            stored,
            number(mtime) * 1_000_000_000,
            link.partition(b"\0")[0],
        )
        if kind in (tar.CHARACTER, tar.BLOCK_DEVICE):
            entry.major, entry.minor = number(major), number(minor)
        if self._global:
            local = self._global | local
        if local or pieces:
            _apply(entry, local)
        if flag == b"\0" and entry.name.endswith(b"/"):
            entry.kind = tar.DIRECTORY
        self._measure(entry, flag, block, local, pieces, budget)
        return entry

    def _measure(
        self, entry: Entry, flag: bytes, block: bytes, local: dict[bytes, bytes], pieces: list[bytes], budget: int
    ) -> None:
        """Find how much data follows and check what the entry claims."""
        if entry.stored < 0:
            raise malformed("a negative size")
        if entry.kind in _DATALESS:
            # Such an entry has no data whatever its size says, except GNU's directory listings.
            self._left = entry.stored if flag == b"D" else 0
            entry.size = entry.stored = 0
        else:
            self._left = entry.stored
        self._padding = -self._left % BLOCK
        if entry.kind == tar.FILE:
            if flag == b"S":
                self._old_sparse(entry, block, budget)
            elif pieces or b"GNU.sparse.map" in local or b"GNU.sparse.major" in local:
                self._pax_sparse(entry, local, pieces, budget)
        self._claimed += entry.size
        if entry.size > self._limits.entry:
            raise IntegrityError(f"an entry of the archive is larger than {self._limits.entry} bytes")
        if self._claimed > self._limits.total:
            raise IntegrityError(f"the archive unpacks to more than {self._limits.total} bytes")
        if len(entry.name) > self._limits.path or len(entry.link) > self._limits.path:
            raise malformed(f"a path longer than {self._limits.path} bytes")

    # ---- sparse files ------------------------------------------------------------------------------------------------

    def _old_sparse(self, entry: Entry, block: bytes, budget: int) -> None:
        numbers = _old_map(block[386:482])
        entry.size = tar.parse_number(block[483:495])
        more = block[482]
        while more:
            budget -= BLOCK
            if budget < 0:
                raise malformed("a sparse map that is too long")
            extension = self._take(BLOCK)
            numbers += _old_map(extension[:504])
            more = extension[504]
        entry.sparse = _checked_map(numbers, entry)

    def _pax_sparse(self, entry: Entry, local: dict[bytes, bytes], pieces: list[bytes], budget: int) -> None:
        entry.name = _path(local.get(b"GNU.sparse.name", entry.name))
        real = local.get(b"GNU.sparse.realsize") or local.get(b"GNU.sparse.size")
        if real is not None:
            entry.size = tar.parse_decimal(real, "size")
        if local.get(b"GNU.sparse.major") == b"1":
            numbers = self._map_in_data(entry, budget)
        else:
            texts = pieces or [text for text in local.get(b"GNU.sparse.map", b"").split(b",") if text]
            numbers = [tar.parse_decimal(text, "offset") for text in texts]
        entry.sparse = _checked_map(numbers, entry)

    def _map_in_data(self, entry: Entry, budget: int) -> list[int]:
        """PAX 1.0: decimal lines before the data, the count of pieces first, padded to a block."""
        numbers: list[int] = []
        line, wanted = b"", 1
        while len(numbers) < wanted:
            budget -= BLOCK
            if budget < 0 or self._left < BLOCK:
                raise malformed("a sparse map that is too long")
            line += self._take(BLOCK)
            self._left -= BLOCK
            entry.stored -= BLOCK
            *lines, line = line.split(b"\n")
            if len(line) > 20 and line.strip(b"\0"):
                raise malformed("a sparse map that is none")
            numbers += [tar.parse_decimal(text, "offset") for text in lines[: wanted - len(numbers)]]
            if numbers and wanted == 1:
                wanted = 1 + 2 * numbers[0]
                numbers += [tar.parse_decimal(text, "offset") for text in lines[1:wanted]]
        return numbers[1:]


def _write(fd: int, data: bytes | memoryview) -> None:
    written = os.write(fd, data)
    while written < len(data):
        data = memoryview(data)[written:]
        written = os.write(fd, data)


def _sums_up(block: bytes) -> bool:
    """Whether a header's checksum is right; some writers' `char` is signed."""
    try:
        stated = tar.parse_number(block[148:156])
    except IntegrityError:
        return False
    right = tar.checksum_of(block)
    return stated in (right, right - 256 * sum(byte > 127 for byte in block[:148] + block[156:]))


def _apply(entry: Entry, records: dict[bytes, bytes]) -> None:
    """Let a PAX header's records replace what the ustar header says; an empty value means absent."""
    for key, value in records.items():
        if key.startswith(tar.XATTR_RECORD):
            entry.xattrs[key[len(tar.XATTR_RECORD) :]] = value
        elif value and key in _RECORDS:
            attribute, parse = _RECORDS[key]
            setattr(entry, attribute, parse(value))
    entry.stored = entry.size


def _path(value: bytes) -> bytes:
    if b"\0" in value:
        raise malformed("a path with a NUL in it")
    return value


_RECORDS = {
    b"path": ("name", _path),
    b"linkpath": ("link", _path),
    b"size": ("size", lambda text: tar.parse_decimal(text, "size")),
    b"uid": ("uid", tar.parse_id),
    b"gid": ("gid", tar.parse_id),
    b"mtime": ("mtime", tar.parse_time),
}


def _old_map(data: bytes) -> list[int]:
    """The (offset, length) fields of GNU's old sparse form up to the first empty one, flat."""
    numbers = []
    for at in range(0, len(data) - 23, 24):
        if data[at] == 0:
            break
        numbers += [tar.parse_number(data[at : at + 12]), tar.parse_number(data[at + 12 : at + 24])]
    return numbers


def _checked_map(numbers: list[int], entry: Entry) -> list[tuple[int, int]]:
    """Pieces in order, apart, inside the file, and together exactly the data stored."""
    pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for offset, length in pairs:
        if offset < end or length < 0:
            raise malformed("a sparse map out of order")
        end = offset + length
    if len(numbers) % 2 or end > entry.size or sum(length for _, length in pairs) != entry.stored:
        raise malformed("a sparse map that does not fit its file")
    return pairs
