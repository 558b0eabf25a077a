"""eStargz: a gzip layer in which every file is a member of its own, with a table of contents at its end.

Owns the format (stargz-snapshotter, docs/estargz.md): to all who do not look for the table it is an ordinary gzip tar;
those who do read single files over the network before the layer is pulled. The bytes are a function of the tar and the
level. Reads the tar as a stream; memory holds one chunk and the table. Does not know layers or blobs.
"""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

from kedge.model.digest import Digest, sha256
from kedge.model.image import canonical_json
from kedge.model.value import dataclass
from kedge.storage import tar_format as tar
from kedge.storage.tar_format import BLOCK, Entry, format_header
from kedge.storage.tar_reader import Limits, Readable, TarReader

CHUNK: Final = 4 << 20  # bytes of a file in one member
TOC_NAME: Final = b"stargz.index.json"
LANDMARK: Final = b".no.prefetch.landmark"  # says that no file wants to be fetched before it is asked for
_OTHER_LANDMARK: Final = b".prefetch.landmark"
_DEFAULT_LEVEL: Final = 6
_KINDS: Final = {
    tar.FILE: "reg",
    tar.HARD_LINK: "hardlink",
    tar.SYMLINK: "symlink",
    tar.CHARACTER: "char",
    tar.BLOCK_DEVICE: "block",
    tar.DIRECTORY: "dir",
    tar.FIFO: "fifo",
}


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Written:
    """What came out: digest and size in bytes of the uncompressed tar, which holds the table too, and of the table."""

    diff_id: Digest
    size: int
    toc: Digest
    toc_size: int


def write_estargz(stream: Readable, out: Writable, level: int | None) -> Written:
    """Write the tar in `stream` as eStargz. Raises IntegrityError for what is no tar."""
    writer = _Writer(out, _DEFAULT_LEVEL if level is None else level)
    writer.file(Entry(LANDMARK, tar.FILE, size=1, stored=1), iter((b"\x0f",)))
    reader = TarReader(stream, Limits())
    for entry in reader:
        if _clean(entry.name) not in (TOC_NAME, LANDMARK, _OTHER_LANDMARK):
            writer.file(entry, _whole(entry, reader))
    return writer.finish()


class _Writer:
    """Members so far. `pending` is what goes into the next one: headers, and the padding of the file before."""

    def __init__(self, out: Writable, level: int) -> None:
        from deflate import gzip_compress

        self._compress, self._level, self._out = gzip_compress, level, out
        self._offset = 0
        self._hash, self._size = hashlib.sha256(), 0
        self._pending = bytearray()
        self._entries: list[dict[str, Any]] = []

    def file(self, entry: Entry, data: Iterator[bytes]) -> None:
        """One entry with its data."""
        entry.sparse, entry.stored = None, entry.size
        self._pending += format_header(entry)
        described = _described(entry)
        self._entries.append(described)
        if entry.kind == tar.FILE and entry.size:
            self._payload(entry, described, data)
            self._pending += bytes(-entry.size % BLOCK)

    def _payload(self, entry: Entry, described: dict[str, Any], data: Iterator[bytes]) -> None:
        self._flush()
        whole, at, one = hashlib.sha256(), 0, described
        for chunk in _chunks(data):
            whole.update(chunk)
            if at:
                one = {"name": described["name"], "type": "chunk"}
                self._entries.append(one)
            one["offset"] = self._offset
            if at:
                one["chunkOffset"] = at
            if entry.size > CHUNK:
                one["chunkSize"] = len(chunk)
            one["chunkDigest"] = sha256(chunk)
            self._member(chunk)
            at += len(chunk)
        described["digest"] = f"sha256:{whole.hexdigest()}"

    def finish(self) -> Written:
        """The table, the end of the tar, and the footer that tells where the table is."""
        self._flush()
        toc = canonical_json({"version": 1, "entries": self._entries})
        place = self._offset
        padding = bytes(-len(toc) % BLOCK)
        header = format_header(Entry(TOC_NAME, tar.FILE, 0o444, size=len(toc), stored=len(toc)))
        self._member(header + toc + padding + bytes(2 * BLOCK))
        self._out.write(footer(place))
        return Written(Digest("sha256:" + self._hash.hexdigest()), self._size, sha256(toc), len(toc))

    def _flush(self) -> None:
        if self._pending:
            self._member(bytes(self._pending))
            self._pending.clear()

    def _member(self, data: bytes) -> None:
        self._hash.update(data)
        self._size += len(data)
        member = bytes(self._compress(data, self._level))
        self._out.write(member)
        self._offset += len(member)


def footer(toc_offset: int) -> bytes:
    """An empty gzip member of 51 bytes, whose extra field `SG` holds the table's offset (RFC 1952, 2.3.1.1)."""
    field = b"%016xSTARGZ" % toc_offset
    extra = b"SG" + len(field).to_bytes(2, "little") + field
    head = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff" + len(extra).to_bytes(2, "little") + extra
    return head + b"\x01\x00\x00\xff\xff" + bytes(8)


def _described(entry: Entry) -> dict[str, Any]:
    """An entry of the table."""
    out: dict[str, Any] = {"name": _text(entry.name), "type": _KINDS[entry.kind]}
    if entry.kind == tar.FILE and entry.size:
        out["size"] = entry.size
    if entry.mtime:
        out["modtime"] = _time(entry.mtime)
    if entry.kind in (tar.SYMLINK, tar.HARD_LINK):
        out["linkName"] = _text(entry.link)
    out |= {key: value for key, value in (("mode", entry.mode), ("uid", entry.uid), ("gid", entry.gid)) if value}
    if entry.kind in (tar.CHARACTER, tar.BLOCK_DEVICE):
        out |= {key: value for key, value in (("devMajor", entry.major), ("devMinor", entry.minor)) if value}
    if entry.xattrs:
        out["xattrs"] = {_text(key): base64.b64encode(value).decode() for key, value in sorted(entry.xattrs.items())}
    if entry.kind == tar.FILE and not entry.size:
        out["digest"] = sha256(b"")
    return out


def _text(name: bytes) -> str:
    """JSON holds text: a name of other bytes is shown as well as can be, and is found by the tar's own header."""
    return name.decode("utf-8", "replace")


def _time(nanoseconds: int) -> str:
    import datetime

    try:
        moment = datetime.datetime.fromtimestamp(nanoseconds // 1_000_000_000, datetime.UTC)
    except (OverflowError, ValueError):
        return "0001-01-01T00:00:00Z"
    return f"{moment.year:04}-{moment:%m-%dT%H:%M:%SZ}"


def _clean(name: bytes) -> bytes:
    return name.removeprefix(b"./").strip(b"/")


def _whole(entry: Entry, reader: TarReader) -> Iterator[bytes]:
    """An entry's data, with the holes of a sparse one filled."""
    if entry.sparse is None:
        yield from reader.read_data()
        return
    data, pieces, at = b"", reader.read_data(), 0
    for offset, length in entry.sparse:
        yield from _zeros(offset - at)
        left = length
        while left:
            data = data or next(pieces)
            yield data[:left]
            data, left = data[left:], left - min(left, len(data))
        at = offset + length
    yield from _zeros(entry.size - at)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, 1 << 20))
        count -= 1 << 20


def _chunks(data: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes, cut at every multiple of a chunk."""
    buffer = bytearray()
    for piece in data:
        buffer += piece
        while len(buffer) >= CHUNK:
            yield bytes(buffer[:CHUNK])
            del buffer[:CHUNK]
    if buffer:
        yield bytes(buffer)
