"""Writing a layer directory (overlayfs form) as an OCI layer: the same bytes for the same tree, always.

Owns order, header fields and the way back from overlayfs's whiteouts to the OCI image specification's (layer.md). Does
not compress or hash. Headers are plain ustar; a PAX header precedes only what ustar cannot say. Times are whole
seconds, rounded down as BuildKit's are; user and group names are never written.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Writable(Protocol):
    def write(self, data: bytes | memoryview, /) -> object: ...


@dataclass(frozen=True, slots=True)
class TarOptions:
    """`clamp`: times later than this many seconds since the epoch are lowered to it (SOURCE_DATE_EPOCH).

    `layer`: char devices 0/0 and opaque directories become whiteouts; without it they are an error (a merged view has
    none). `root`: the directory itself gets an entry `./` first.
    """

    clamp: int | None = None
    layer: bool = True
    root: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    entries: int
    bytes: int


def write_tar(
    directory: Path | int,
    out: Writable,
    options: TarOptions = TarOptions(),
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Write the tree at `directory` (a path or a descriptor) to `out` as one tar with its end marker.

    Nothing may change the tree meanwhile; a file that shrinks or grows raises StoreError. Sockets are left out, as tar
    has no word for them. Raises StoreError when the tree cannot be read; what `out.write` raises passes through.
    """
    raise NotImplementedError
