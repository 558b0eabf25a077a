"""The store: everything Kedge keeps on disk, under one root.

    kedge.db            what must be found: layers, results, image names, file stats (SQLite)
    blobs/sha256/<hex>  verified bytes, as in an OCI image layout
    layers/<id>/        one immutable directory for each layer, in overlayfs form
    cache-mounts/<hash>/<n>/   directories of RUN --mount=type=cache
    logs/               full step logs
    ingest/ drafts/     on the way in; what dead processes left there is removed
    trash/              on the way out
    leases/ locks       who is alive; who may do what
    empty/              the lowest directory of a stack that needs one

Owns the layout and puts the parts together. Does not know registries (`fetch` is given), ops, or what an image is made of.

A Store object is one user of the store: open one for each build, command or request of a service. Opening is cheap and touches
nothing on disk but the root. What was used through it is safe from every garbage collection until it is closed.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kedge.model.image import Descriptor
from kedge.storage.blobs import BlobStore, BlobWriter
from kedge.storage.gc import Pruned, PruneOptions, Usage
from kedge.storage.layers import FetchProgress, LayerStore

if TYPE_CHECKING:
    from kedge.storage.cache_mounts import CacheMounts
    from kedge.storage.images import ImageStore
    from kedge.storage.logs import Logs
    from kedge.storage.results import ResultStore
    from kedge.storage.stats import StatCache

# fetch(origin, descriptor, writer, progress): write the blob's bytes from `writer.offset` on (or `restart()` it) and commit.
# `progress(current, total)` in bytes. Blocks; called on any thread, for several blobs at once.
Fetch: TypeAlias = Callable[[str, Descriptor, BlobWriter, FetchProgress], None]


def default_root() -> Path:
    """KEDGE_ROOT; else /var/lib/kedge for root, `kedge` in the user's XDG data directory otherwise."""
    if named := os.environ.get("KEDGE_ROOT"):
        return Path(named)
    raise NotImplementedError


class Store:
    """See the module. Use it as a context manager, or call `close`."""

    root: Path
    fetch: Fetch | None  # may be set after opening
    blobs: BlobStore
    layers: LayerStore
    results: "ResultStore"
    images: "ImageStore"
    stats: "StatCache"
    cache_mounts: "CacheMounts"
    logs: "Logs"

    @classmethod
    def open(cls, root: Path | None = None, fetch: Fetch | None = None, max_size: int = 0) -> "Store":
        """Open the store, making it if there is none. `max_size` bytes (0: no cap) are never exceeded.

        Raises StoreError when the root cannot be used.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Make what was written durable, and end the protection of what was used. Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def usage(self) -> list[Usage]:
        """Everything on disk, most recently used first; the sizes add up to what `du` says of the root."""
        raise NotImplementedError

    def prune(self, options: PruneOptions = PruneOptions()) -> Pruned:
        """Remove what nobody needs. Safe while builds run."""
        raise NotImplementedError

    def verify(self) -> list[str]:
        """Hash every blob again, check every record against the disk; one sentence for each fault."""
        raise NotImplementedError
