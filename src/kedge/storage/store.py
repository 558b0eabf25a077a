"""The store: everything Kedge keeps on disk, under one root.

    kedge.db            what must be found: layers, results, image names, file stats (SQLite)
    blobs/sha256/<hex>  verified bytes, as in an OCI image layout
    layers/<id>/        one immutable directory for each layer, in overlayfs form
    cache-mounts/<hash>/<n>/   directories of RUN --mount=type=cache; lent-<hash> of what clients lend
    logs/               full step logs
    containers/<id>/    what a container wrote, what it is, and which image it stands on (kedge.sandbox.container)
    ingest/ drafts/     on the way in; what dead processes left there is removed
    trash/              on the way out
    leases/ locks       who is alive; who may do what
    empty/              the lowest directory of a stack that needs one
    ballast             thrown overboard when the disk is full, so that prune can work

Owns the layout and puts the parts together. Does not know registries (`fetch` is given), ops, or what an image is made
of.

A Store object is one user of the store: open one for each build, command or request of a service. Opening is cheap.
What was used through it is safe from every garbage collection until it is closed.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.kernel import identity
from kedge.storage.blobs import BlobStore
from kedge.storage.budget import Budget
from kedge.storage.cache_mounts import CacheMounts
from kedge.storage.database import Database
from kedge.storage.disk import drop_ballast, sync_file_system, take_ballast, this_boot, translated
from kedge.storage.drafts import Draft
from kedge.storage.images import ImageStore
from kedge.storage.layer_bytes import LayerBytes
from kedge.storage.layer_records import LayerRecords
from kedge.storage.layers import LayerStore
from kedge.storage.locks import Lease, Locks
from kedge.storage.logs import Logs
from kedge.storage.notes import NoteStore
from kedge.storage.ownership import overlay_prefix
from kedge.storage.results import ResultStore
from kedge.storage.stats import StatCache
from kedge.storage.unpacking import Fetch, Unpacker

# Counting and collecting are not on the path of a build: kedge.storage.accounts and gc are imported when first needed.
if TYPE_CHECKING:
    from kedge.storage.accounts import Accounts, Usage
    from kedge.storage.gc import Collector, Pruned, PruneOptions
    from kedge.storage.implied import Stack

__all__ = ["Fetch", "Store", "default_root"]
# Seconds. What was used so shortly before a build is not marked as used again by it: a build that finds everything
# cached writes nothing. Not under a cap, where nothing may be spared that could make room.
_GRACE = 600.0
# `empty` last: where it is, all are.
_PARTS = ("blobs", "blobs/sha256", "layers", "cache-mounts", "logs", "ingest", "drafts", "trash", "leases", "empty")


def default_root() -> Path:
    """KEDGE_ROOT; else /var/lib/kedge for root, `kedge` in the user's XDG data directory otherwise."""
    if named := os.environ.get("KEDGE_ROOT"):
        return Path(named).absolute()
    me = identity.current()
    if me.uid == 0 and not me.in_user_namespace:
        return Path("/var/lib/kedge")
    data = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data) if data.startswith("/") else Path.home() / ".local/share") / "kedge"


class Store:
    """See the module. Use it as a context manager, or call `close`."""

    def __init__(self, root: Path, fetch: Fetch | None, max_size: int) -> None:
        self.root, self.fetch = root, fetch
        self._database = Database(root / "kedge.db", overlay_prefix(), self._after_open)
        self._locks, self._lease = Locks(root), Lease(root, self._on_lease, 0 if max_size else _GRACE)
        self._budget = Budget(self._database, self._locks, self._lease, max_size)
        self._records = LayerRecords(root, self._database, self._lease)
        self.blobs = BlobStore(root, self._locks, self._lease, self._budget)
        self.layers = self._layers()
        self.results = ResultStore(self._database, self._locks, self._lease)
        self.images = ImageStore(self._database, self.flush)
        self.stats = StatCache(self._database)
        self.notes = NoteStore(self._database, self._lease)
        self.cache_mounts = CacheMounts(root, self._database, self._locks, self._lease)
        self.logs = Logs(root, self._database, self._lease, self._budget)
        self._budget.count, self._budget.collect = lambda: self._accounts.count(), self._collect

    @classmethod
    def open(cls, root: Path | None = None, fetch: Fetch | None = None, max_size: int = 0) -> "Store":
        """Open the store, making it if there is none. `max_size` bytes (0: no cap) are never exceeded.

        `fetch` may also be set later. Raises StoreError when the root cannot be used.
        """
        root = (root or default_root()).absolute()
        with translated(f"use the store at {root}"):
            if not (root / "empty").is_dir():
                root.mkdir(0o700, parents=True, exist_ok=True)
                take_ballast(root)
                for part in _PARTS:
                    (root / part).mkdir(0o755, exist_ok=True)
        return cls(root, fetch, max_size)

    def _layers(self) -> LayerStore:
        unpacker = Unpacker(
            self.root, self._records, self.blobs, self._locks, self._lease, self._budget, lambda: self.fetch
        )
        layer_bytes = LayerBytes(self._records, unpacker, self.blobs, self._locks)

        def start_draft(lowers: tuple[Path, ...]) -> Draft:
            return Draft(self.root / "drafts" / self._lease.new_name(), lowers, self._records, self._budget)

        def complete(stack: "Stack") -> tuple[Path, ...]:
            from kedge.storage.implied import ImpliedDirectories

            return ImpliedDirectories(self._records, self._locks, start_draft).complete(stack)

        return LayerStore(self.root, self._records, unpacker, layer_bytes, complete, start_draft)

    def protect(self) -> None:
        """Protect from now on, until it is closed, what anybody uses: for one who passes on what others made."""
        self._lease.start  # noqa: B018 - asking takes the lease

    def close(self) -> None:
        """Make what was written durable, and end the protection of what was used. Idempotent."""
        try:
            self.stats.flush()
            self.flush()
        finally:
            self._database.close()
            self._lease.close()

    def rest(self) -> None:
        """Close the database until the next use: for one who holds many stores open. What was used stays protected."""
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flush(self) -> None:
        """Make layers written through this object survive a power failure. Cheap when there are none."""
        if not self._records.wrote:
            return
        self._records.wrote = False
        written = self._records.unsynced()
        with translated("make layers durable"):
            sync_file_system(self.root)
        self._records.synced(written)

    def forget_origins(self, origins: Iterable[str]) -> int:
        """Forget that layers could be had from these origins, and results that hang on it; how many results went."""
        from kedge.storage.lost import forget_origins

        return forget_origins(self._database, self.blobs, origins)

    @contextmanager
    def lightened(self) -> Iterator[None]:
        """On a full disk, the space put aside is free in this block: for one who only looks or removes."""
        with translated(f"write to the store at {self.root}"):
            drop_ballast(self.root)
        try:
            yield
        finally:
            with translated(f"write to the store at {self.root}"):
                take_ballast(self.root)

    def usage(self, *, unnamed: bool = True) -> "list[Usage]":
        """Everything on disk, most recently used first; the sizes add up to what `du` says of the root.

        What only an image without a name needs is in use, unless `unnamed` is False: as `PruneOptions.unnamed` has it.
        """
        with self.lightened(), translated("look through the store"):
            return self._accounts.usage(unnamed=unnamed)

    def prune(self, options: "PruneOptions | None" = None) -> "Pruned":
        """Remove what nobody needs. Safe while builds run."""
        with self.lightened(), translated("prune the store"):
            return self._collector.prune(options)

    def verify(self) -> list[str]:
        """Hash every blob again, check every record against the disk; one sentence for each fault."""
        from kedge.storage.verify import Verifier

        with translated("verify the store"):
            self._collector.sweep()
            verifier = Verifier(self.root, self._database, self._records, self.blobs, self.images, self._accounts)
            return verifier.faults()

    # ---- counting and collecting -------------------------------------------------------------------------------------

    @cached_property
    def _accounts(self) -> "Accounts":
        from kedge.storage.accounts import Accounts

        return Accounts(self.root, self._database, self._records, self.blobs, self.images)

    @cached_property
    def _collector(self) -> "Collector":
        from kedge.storage.gc import Collector

        return Collector(self.root, self._database, self._accounts, self._locks, self._lease)

    # ---- looking after what others left ------------------------------------------------------------------------------

    def _after_open(self, database: Database) -> None:
        if database.row("SELECT 1 FROM layers WHERE boot IS NOT NULL AND boot <> ? LIMIT 1", this_boot()):
            from kedge.storage.gc import after_power_failure

            after_power_failure(self.root, database)

    def _on_lease(self, dead: bool) -> None:
        """Our first use of the store: clean up after those who died in theirs.

        Whoever takes the lease within a transaction cannot have a second one: then it is left to the next prune.
        """
        if dead and not self._database.transacting:
            with translated("clean up the store"):
                self._collector.sweep()

    def _collect(self, size: int) -> None:
        """Free `size` bytes for somebody who wants to write."""
        from kedge.storage.gc import PruneOptions

        self._collector.sweep()
        total = sum(usage.size for usage in self._accounts.usage())
        self._collector.prune(PruneOptions(keep=max(0, total - size), unnamed=True))
