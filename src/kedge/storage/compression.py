"""Reading compressed streams, told apart by their first bytes.

Owns detection and bounded decompression of gzip, bzip2, xz and zstd, in this process only: no program of the host or
the image is ever run (CVE-2026-41567). Does not know what the bytes mean.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, cast

from kedge.model.errors import IntegrityError

Format: TypeAlias = Literal["gzip", "bzip2", "xz", "zstd", "uncompressed"]

_IN = 1 << 18
_OUT = 1 << 20
_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW = 128 << 20  # what zstd itself decodes without --long
_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


class Source(Protocol):
    """What is read: at most `size` bytes at a time, b"" at the end."""

    def read(self, size: int, /) -> bytes: ...


class Decompressed(Protocol):
    """A stream of plain bytes. `consumed` counts the compressed bytes taken so far."""

    @property
    def format(self) -> Format: ...

    @property
    def consumed(self) -> int: ...

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, all with -1; b"" at the end. Raises IntegrityError for damaged or cut off bytes."""


def detect(head: bytes) -> Format:
    """The format of a stream that starts with `head` (six bytes suffice); `uncompressed` for anything unknown."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    # A skippable frame (RFC 8878, 3.1.2), with which zstd:chunked and seekable files may start.
    if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"
    return "uncompressed"


def decompressed(stream: Source, *, format: Format | None = None) -> Decompressed:
    """The plain bytes of `stream`, whose format is detected unless given.

    Concatenated members and frames are one stream; zeros may pad a gzip or xz stream's end, anything else behind it is
    an error. Memory is bounded: xz dictionaries beyond 256 MiB and zstd windows beyond 128 MiB are refused. Does not
    close `stream`.
    """
    head = b""
    while len(head) < 6 and (more := stream.read(6 - len(head))):
        head += more
    source = _Counted(stream, head)
    name = detect(head) if format is None else format
    if name == "zstd":
        return _Zstd(source)
    if name == "uncompressed":
        return _Plain(source)
    return _Members(source, name)


class _Counted:
    """The compressed side: what was looked at comes first, and what was taken is counted."""

    def __init__(self, stream: Source, head: bytes) -> None:
        self.consumed = 0
        self._stream = stream
        self._head = head

    def read(self, size: int = _IN) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
        else:
            data = self._stream.read(size)
        self.consumed += len(data)
        return data


class _Plain:
    format: Format = "uncompressed"

    def __init__(self, source: _Counted) -> None:
        self._source = source

    @property
    def consumed(self) -> int:
        return self._source.consumed

    def read(self, size: int = -1, /) -> bytes:
        return _all(self) if size < 0 else self._source.read(size)


class _Members:
    """gzip, bzip2 and xz: one decompressor object for each member, as the standard library shapes them."""

    def __init__(self, source: _Counted, name: Format) -> None:
        self.format = name
        self._source = source
        self._new = _decompressors(name)
        self._member = self._new()
        self._pending = b""
        self._finished = False

    @property
    def consumed(self) -> int:
        return self._source.consumed

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return _all(self)
        while not self._finished:
            if self._member.eof and not self._next_member():
                break
            data = self._pending
            if not data and self._member.needs_input and not (data := self._source.read()):
                raise IntegrityError(f"the {self.format} stream is cut off")
            self._pending = b""
            try:
                plain: bytes = self._member.decompress(data, size)
            except Exception as error:  # each library has its own class
                raise IntegrityError(f"the {self.format} stream is damaged: {error}") from None
            if plain:
                return plain
        return b""

    def _next_member(self) -> bool:
        rest: bytes = self._member.unused_data
        rest = rest or self._source.read()
        if self.format in ("gzip", "xz"):
            while not (stripped := rest.lstrip(b"\0")) and rest:
                rest = self._source.read()
            rest = stripped
        if not rest:
            self._finished = True
            return False
        while len(rest) < 6 and (more := self._source.read()):
            rest += more
        if detect(rest) != self.format:
            raise IntegrityError(f"there are foreign bytes behind the {self.format} stream")
        self._member = self._new()
        self._pending = rest
        return True


def _decompressors(name: Format) -> Callable[[], Any]:
    if name == "gzip":
        from isal import igzip_lib

        return lambda: _Gzip(igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))
    if name == "bzip2":
        import bz2

        return bz2.BZ2Decompressor
    import lzma

    return lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


class _Gzip:
    """ISA-L's decompressor with the one name that differs from the standard library's."""

    def __init__(self, member: Any) -> None:
        self._member = member
        self.decompress = member.decompress

    @property
    def eof(self) -> bool:
        return bool(self._member.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._member.needs_input)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._member.unused_data)


class _Zstd:
    """zstd through its streaming reader, which bounds what comes out, beside a count of frames, which it does not
    tell.
    """

    format: Format = "zstd"

    def __init__(self, source: _Counted) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._source = source
        self._frames = _Frames(source)
        file = cast(Any, self._frames)  # all of a file that the library uses is read()
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._reader = decompressor.stream_reader(file, read_size=_IN, read_across_frames=True)

    @property
    def consumed(self) -> int:
        return self._source.consumed

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return _all(self)
        try:
            plain = self._reader.read(size)
        except self._error as error:
            raise IntegrityError(f"the zstd stream is damaged: {error}") from None
        if not plain and size and not self._frames.complete:
            raise IntegrityError("the zstd stream is cut off")
        return plain


class _Frames:
    """Passes a zstd stream on and follows its frames and blocks, to know whether it ends where one does (RFC 8878,
    3.1).

    Whether each is valid is the decoder's business; here it only matters how long each part says it is.
    """

    def __init__(self, source: _Counted) -> None:
        self._source = source
        self._skip = 0  # bytes until the next part
        self._head = b""  # the beginning of a part that is not all there yet
        self._part: Callable[[bytes], tuple[int, int] | None] = self._magic
        self._checksum = 0
        self.complete = True

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._follow(data)
        return data

    def _follow(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            before = len(self._head)
            self._head += data[at : at + 18 - before]  # no header is longer
            parsed = self._part(self._head)
            if parsed is None:
                at += len(self._head) - before
                continue
            length, body = parsed
            at += length - before
            self._head = b""
            self._skip = body
        self.complete = self._part == self._magic and not self._skip and not self._head

    def _magic(self, head: bytes) -> tuple[int, int] | None:
        """A frame's header: its length and how many bytes to skip after it; None if more is needed."""
        if len(head) < 8:
            return None
        if head[:4] != b"\x28\xb5\x2f\xfd":
            return 8, int.from_bytes(head[4:8], "little")
        descriptor = head[4]
        single = descriptor >> 5 & 1
        size_flag = descriptor >> 6
        length = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3] + ((1 if single else 0), 2, 4, 8)[size_flag]
        if len(head) < length:
            return None
        self._checksum = 4 if descriptor & 4 else 0
        self._part = self._block
        return length, 0

    def _block(self, head: bytes) -> tuple[int, int] | None:
        if len(head) < 3:
            return None
        word = int.from_bytes(head[:3], "little")
        size = 1 if word >> 1 & 3 == 1 else word >> 3  # a run-length block stores one byte
        if word & 1:
            self._part = self._magic
            size += self._checksum
        return 3, size


def _all(stream: Decompressed) -> bytes:
    return b"".join(iter(lambda: stream.read(_OUT), b""))
