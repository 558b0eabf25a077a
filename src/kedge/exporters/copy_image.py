"""Images from one place to another without unpacking: registry, layout directory or archive, store.

Owns the order (children before parents, blobs before manifests, the name last), parallelism and deduplication. Does
not know how any one place keeps its bytes: `Reader` and `Writer` do.
"""

from collections.abc import Callable
from typing import BinaryIO, Protocol, TypeAlias

from kedge.model.image import Descriptor
from kedge.model.reference import Reference

OpenAt: TypeAlias = Callable[[int], BinaryIO]
Progress: TypeAlias = Callable[[str, int, int], None]


class Reader(Protocol):
    """A place images are read from. Blocking, safe for many threads, idempotent."""

    def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest's or index's bytes, verified."""
        ...

    def open(self, descriptor: Descriptor, offset: int = 0) -> BinaryIO:
        """A blob's bytes from `offset` on."""
        ...

    def repository(self, descriptor: Descriptor) -> Reference | None:
        """A repository known to hold the blob, to mount it from."""
        ...


class Writer(Protocol):
    """A place images are written to. Blocking, safe for many threads, idempotent; `name` is atomic."""

    def put_blob(
        self, descriptor: Descriptor, open_at: OpenAt, origin: Reference | None, progress: Progress
    ) -> None: ...
    def put_manifest(self, descriptor: Descriptor, data: bytes) -> None: ...
    def name(self, descriptor: Descriptor, data: bytes) -> None: ...


def copy_image(
    source: Reader, destinations: "list[Writer]", root: Descriptor, progress: Progress, workers: int = 6
) -> None:
    """Copy `root` and all it refers to into every destination at once, then name it there."""
    raise NotImplementedError
