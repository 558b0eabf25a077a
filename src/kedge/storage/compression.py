"""Reading compressed streams, told apart by their first bytes.

Owns detection and bounded decompression of gzip, bzip2, xz and zstd, in this process only: no program of the host or the image
is ever run (CVE-2026-41567). Does not know what the bytes mean.
"""

from typing import BinaryIO, Literal, Protocol, TypeAlias

Format: TypeAlias = Literal["gzip", "bzip2", "xz", "zstd", "uncompressed"]


class Decompressed(Protocol):
    """A stream of plain bytes. `consumed` counts the compressed bytes taken so far."""

    format: Format
    consumed: int

    def read(self, size: int = -1, /) -> bytes: ...


def detect(head: bytes) -> Format:
    """The format of a stream that starts with `head` (six bytes suffice); `uncompressed` for anything unknown."""
    raise NotImplementedError


def decompressed(stream: BinaryIO, *, format: Format | None = None) -> Decompressed:
    """The plain bytes of `stream`, whose format is detected unless given.

    Concatenated members and frames are one stream. Memory is bounded (xz dictionaries and zstd windows beyond 256 and 128 MiB
    are refused). `read` raises IntegrityError for damaged, truncated or trailing bytes. Does not close `stream`.
    """
    raise NotImplementedError
