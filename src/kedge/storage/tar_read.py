"""Unpacking tar archives that nobody vouches for.

Owns turning entries into files below a directory descriptor. Does not know blobs, compression or layer stacks; the parser is
`tar_entries`. Every path is resolved by the kernel inside the directory (openat2), every file made relative to its parent's
descriptor; what an archive says can create, replace and remove only below the directory it is unpacked into.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kedge.storage.ownership import Ids


class Readable(Protocol):
    """Bytes to take, at most `size` at a time; b"" at the end. Decompressed streams also have `consumed`."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may cost. Bytes unless said otherwise; checked while streaming, before the cost arises.

    `ratio` bounds unpacked to compressed bytes, once more than `ratio_from` bytes came out.
    """

    total: int = 256 << 30
    entry: int = 128 << 30
    entries: int = 4_000_000
    path: int = 4095
    depth: int = 1024
    header: int = 1 << 20  # one entry's extended headers together
    ratio: int = 500
    ratio_from: int = 8 << 30


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came out. `implied` are directories that had no entry of their own (made 0755, root), outermost first;
    `opaque_root`: the layer hides everything below it (overlayfs ignores the attribute on a root, so the stack must be cut).
    """

    entries: int
    bytes: int
    implied: tuple[str, ...] = ()
    opaque_root: bool = False


def unpack(
    stream: Readable,
    directory_fd: int,
    *,
    layer: bool,
    limits: Limits | None = None,
    owner: Ids | None = None,
    progress: Callable[[int], None] | None = None,
) -> Unpacked:
    """Unpack the (uncompressed) tar `stream` into the directory, in one pass.

    With `layer`, whiteouts become overlayfs's own form and the directory is one layer's; without, it is an archive for ADD and
    names mean what they say. `owner` replaces all owners. `progress` is told the unpacked bytes so far, now and then; it may
    raise to stop. Raises IntegrityError for what is malformed, hostile or over a limit (the directory then holds a part),
    StoreError when the disk fails. Not atomic; not to be used by two threads on one directory.
    """
    raise NotImplementedError
