"""Layers: immutable directories in overlayfs form, by short id, each made or fetched once.

Owns `layers/<id>`, `drafts/` and what is known of each layer. Does not know ops, images or registries: bytes that are not here
come through the store's `fetch`.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TypeAlias

from kedge.model.digest import Digest
from kedge.model.graph import Layer, Snapshot
from kedge.model.image import Descriptor
from kedge.storage.tar_write import Writable
from kedge.storage.tree import Filter, Tree

Compression: TypeAlias = Literal["gzip", "zstd", "uncompressed"]


class Progress(Protocol):
    """Told of long work, from any thread, at most some times a second: fast, never raises (but to stop the work)."""

    def __call__(
        self, action: Literal["fetching", "unpacking", "packing"], digest: Digest, current: int, total: int
    ) -> None:
        """`current` of `total` bytes (0: unknown) of the blob `digest` (of the layer's diff id when packing) are done."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A layer as an image's manifest and config declare it: `origin` is where `Store.fetch` gets `descriptor`'s bytes from.

    An empty origin means the bytes are, or will be, put into the blob store by the caller.
    """

    diff_id: Digest
    descriptor: Descriptor
    origin: str = ""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What is known of a layer without touching its files.

    `diff_id` and `size` (bytes of the uncompressed tar) are None until somebody needed them. `ready`: the directory is there.
    `sources` are the declared blobs, as (descriptor, origin).
    """

    id: Layer
    diff_id: Digest | None
    size: int | None
    ready: bool
    created: float
    used: float
    sources: tuple[tuple[Descriptor, str], ...]
    description: str


class Draft:
    """A layer being written on top of a snapshot: a context manager that discards what was not committed.

    Either the sandbox mounts `lowers`, `upper` and `work` itself, or `tree()` is used; never both at once.
    """

    upper: Path  # receives the changes, in overlayfs form
    work: Path  # overlayfs's own
    lowers: tuple[Path, ...]  # directories of the snapshot below, bottom first; () over scratch

    def tree(self) -> AbstractContextManager[Tree]:
        """The merged tree, writable."""
        raise NotImplementedError

    def commit(self, description: str = "") -> Layer:
        """Make it a layer: a rename, no copy. Atomic. Nothing may have the tree open or mounted any more."""
        raise NotImplementedError

    def discard(self) -> None:
        """Drop it. Does nothing after a commit."""
        raise NotImplementedError

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class LayerStore:
    """Layers of one store. Every method may be called by several threads and processes at once."""

    # ---- coming into being -------------------------------------------------------------------------------------------

    def declare(self, diff_id: Digest, descriptor: Descriptor, origin: str = "") -> Layer:
        """The layer with that diff id; made lazy, without any bytes, if it is new. Idempotent; touches no network."""
        raise NotImplementedError

    def declare_all(self, layers: Iterable[Declared]) -> Snapshot:
        """`declare` for an image's layers, bottom first, in one transaction."""
        raise NotImplementedError

    def draft(self, snapshot: Snapshot = (), progress: Progress | None = None) -> Draft:
        """A new layer on top of `snapshot`, whose directories are fetched and unpacked if need be."""
        raise NotImplementedError

    def adopt(self, directory: Path, patterns: Filter | None = None) -> Layer:
        """A layer that stands for a client's directory, seen through a filter, for as long as this store is open.

        It is read in place by `mounted` when alone in its snapshot; else, and by `directory`, copied first, once.
        """
        raise NotImplementedError

    # ---- use as files ------------------------------------------------------------------------------------------------

    def directory(self, layer: Layer, progress: Progress | None = None) -> Path:
        """The layer's directory; fetched, verified and unpacked on demand, once for all threads and processes.

        Raises IntegrityError when the bytes are not what was declared, StoreError, NotFound, and what `Store.fetch` raises.
        """
        raise NotImplementedError

    def directories(self, snapshot: Snapshot, progress: Progress | None = None) -> tuple[Path, ...]:
        """Directories to stack, bottom first; fetched and unpacked in parallel. Layers that one above hides are left out."""
        raise NotImplementedError

    def mounted(self, snapshot: Snapshot, progress: Progress | None = None) -> AbstractContextManager[Tree]:
        """The merged, read-only tree of a snapshot, by a mount that is attached nowhere."""
        raise NotImplementedError

    # ---- use as bytes ------------------------------------------------------------------------------------------------

    def info(self, layer: Layer) -> LayerInfo:
        """Raises NotFound."""
        raise NotImplementedError

    def find(self, diff_id: Digest) -> Layer | None:
        """The layer with that (unclamped) diff id."""
        raise NotImplementedError

    def diff_id(
        self, layer: Layer, *, clamp: int | None = None, progress: Progress | None = None
    ) -> tuple[Digest, int]:
        """Digest and size of the layer's tar: as declared, else written and hashed once, then remembered.

        `clamp` lowers later times to that many seconds since the epoch; it leaves declared layers alone.
        """
        raise NotImplementedError

    def blob(
        self,
        layer: Layer,
        compression: Compression = "gzip",
        level: int | None = None,
        *,
        clamp: int | None = None,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Descriptor:
        """The layer as a blob in the blob store: made on first demand in one pass, then remembered, else found.

        A declared layer keeps the blob it came as, whatever its compression, unless `force` (then also fetched if need be; an
        unforced one may not be in the blob store: see `fetch_blob`). The bytes are a function of the tree and the options.
        """
        raise NotImplementedError

    def fetch_blob(self, descriptor: Descriptor, progress: Progress | None = None) -> None:
        """Have the bytes of a layer's blob in the blob store: found, fetched from where it was declared, or made again."""
        raise NotImplementedError

    def write_tar(self, layer: Layer, out: Writable, *, clamp: int | None = None) -> None:
        """Write the layer's uncompressed tar to `out`, without keeping it."""
        raise NotImplementedError


FetchProgress: TypeAlias = Callable[[int, int], None]
