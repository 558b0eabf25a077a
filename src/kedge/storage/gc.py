"""What goes when space is wanted, and what dead processes and power failures left.

Owns the choice and the removal. Nothing goes that a named image needs or that somebody still at work has used; rows go
first, in one transaction that checks that again, then files are moved to `trash/`, then removed: killed anywhere, the
next sweep finishes. Does not know how anything was made.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from kedge.model.value import dataclass
from kedge.storage.accounts import Accounts, Held, Kind, Usage
from kedge.storage.cache_mounts import lock_name
from kedge.storage.database import Database
from kedge.storage.disk import remove_tree, this_boot
from kedge.storage.layer_records import LAZY
from kedge.storage.locks import Lease, Locks, living_leases, owner_of
from kedge.storage.results import forget


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """What may go. Without any: everything unused; cached results stay when images hold all their layers.

    `all`: those results are forgotten too. `until`: only what was last used before that time (seconds since the epoch).
    `ids`: only these (prefixes). `kinds`: only these. `chosen`: only what it says yes to. `keep`: stop when the store
    takes no more than that many bytes; least recently used goes first. `unnamed`: images without a name go, too: with
    `keep` the oldest first, and only as far as nothing else makes the room.
    """

    all: bool = False
    until: float | None = None
    ids: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    keep: int | None = None
    chosen: Callable[[Usage], bool] | None = None
    unnamed: bool = False

    def cover(self, usage: Usage) -> bool:
        """Is this thing among those that may go, if nobody needs it?"""
        return (
            (not self.kinds or usage.kind in self.kinds)
            and (self.chosen is None or self.chosen(usage))
            and (self.until is None or usage.last_used < self.until)
            and (not self.ids or any(usage.id.removeprefix("sha256:").startswith(each) for each in self._prefixes()))
        )

    def _prefixes(self) -> Iterable[str]:
        return (each.removeprefix("sha256:") for each in self.ids)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, and the bytes that took on disk."""

    records: tuple[Usage, ...]
    bytes: int


class Collector:
    """Removes what nobody needs, while others work."""

    def __init__(self, root: Path, database: Database, accounts: Accounts, locks: Locks, lease: Lease) -> None:
        self._root, self._database, self._accounts = root, database, accounts
        self._locks, self._lease = locks, lease
        self._remove: dict[str, Callable[[Usage], bool]] = {
            "layer": self._remove_layer,
            "blob": self._remove_blob,
            "cache-mount": self._remove_cache_mount,
            "log": self._remove_log,
            "source": self._remove_source,
        }

    def prune(self, options: PruneOptions | None = None) -> Pruned:
        """Remove what `options` cover and nobody needs, least recently used first."""
        options = options or PruneOptions()
        self.sweep()
        self._sweep_partial()
        self._since()  # takes the lease, which may sweep: not within the transactions below
        unnamed = self._unnamed(options)
        if options.keep is None:
            self._forget_images(unnamed)
        gone, total = self._remove_unused(options)
        batch = 1  # more each time: every pass looks through the whole store
        while options.keep is not None and total > options.keep and unnamed:
            self._forget_images(unnamed[:batch])
            unnamed, batch = unnamed[batch:], 2 * batch
            more, total = self._remove_unused(options)
            gone += more
        if options.keep is None and not options.ids and options.chosen is None:
            self._forget_rows(options, self._accounts.held())
        self.empty_trash()
        return Pruned(tuple(gone), sum(each.size for each in gone))

    def _remove_unused(self, options: PruneOptions) -> tuple[list[Usage], int]:
        """What went, and the bytes that the store takes now."""
        usage = self._accounts.usage()
        total = sum(each.size for each in usage)
        gone: list[Usage] = []
        for each in sorted(usage, key=_order):
            if options.keep is not None and total <= options.keep:
                break
            may_go = each.kind in self._remove and not each.in_use and options.cover(each)
            if may_go and self._remove[each.kind](each):
                gone.append(each)
                total -= each.size
        return gone, total

    def _unnamed(self, options: PruneOptions) -> list[str]:
        """The ids of images without a name that `options` cover, oldest first."""
        if not options.unnamed or options.kinds or options.ids or options.chosen is not None:
            return []
        before = min(self._since(), options.until or float("inf"))
        return [name for (name,) in self._database.rows(_UNNAMED, before)]

    def _forget_images(self, ids: list[str]) -> None:
        if ids:
            with self._database.transaction(durable=True) as rows:
                rows.executemany("DELETE FROM images WHERE name = ? AND name = id", [(id,) for id in ids])

    # ---- one thing each: True when it went ---------------------------------------------------------------------------

    def _remove_layer(self, usage: Usage) -> bool:
        with self._database.transaction() as rows:
            row = rows.execute("SELECT used FROM layers WHERE id = ?", (usage.id,)).fetchone()
            if row is None or row[0] >= self._since():
                return False
            _drop_layer(rows, usage.id)
        # Only now: killed in between, it is a directory without a record, which a sweep removes; the other way round it
        # would be a record without a directory.
        self._throw_away(self._root / "layers" / usage.id)
        return True

    def _remove_blob(self, usage: Usage) -> bool:
        algorithm, _, hexadecimal = usage.id.partition(":")
        path = self._root / "blobs" / algorithm / hexadecimal
        aside = self._root / "trash" / self._lease.new_name()
        with self._database.transaction() as rows:
            if not path.exists() or path.stat().st_mtime >= self._since():
                return False
            rows.execute("DELETE FROM referrers WHERE digest = ?", (usage.id,))
            for (layer,) in rows.execute(_LAYERS_WITHOUT_BYTES, (usage.id, usage.id)).fetchall():
                _drop_layer(rows, layer)
        with suppress(FileNotFoundError):
            os.rename(path, aside)
            if aside.stat().st_mtime >= self._since():  # somebody marked it as used just now
                os.rename(aside, path)
                return False
            aside.unlink()
        return True

    def _remove_cache_mount(self, usage: Usage) -> bool:
        with self._locks.tried(lock_name(usage.id)) as free:
            if not free:
                return False
            with self._database.transaction() as rows:
                rows.execute("DELETE FROM cache_mounts WHERE directory = ?", (usage.id,))
            self._throw_away(self._root / "cache-mounts" / usage.id)
            with suppress(OSError):
                (self._root / "cache-mounts" / usage.id).parent.rmdir()
        return True

    def _remove_log(self, usage: Usage) -> bool:
        with self._database.transaction() as rows:
            rows.execute("DELETE FROM logs WHERE file = ?", (usage.id,))
        (self._root / "logs" / usage.id).unlink(missing_ok=True)
        return True

    def _remove_source(self, usage: Usage) -> bool:
        kind, _, name = usage.id.partition("/")
        with self._locks.tried(f"{kind} {name}") as free:  # the lock of who keeps it: sources/git.py
            if free:
                self._throw_away(self._root / kind / name)
            return free

    def _since(self) -> float:
        """What was used since then is somebody's. Asked anew for each thing: builds begin while we collect."""
        return min(self._accounts.protected_since(), self._lease.start)

    def _throw_away(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            os.rename(path, self._root / "trash" / self._lease.new_name())

    def _forget_rows(self, options: PruneOptions, held: Held) -> None:
        """Forget what takes no space of its own: results, lazy layers, old notes."""
        if options.kinds and "layer" not in options.kinds:
            return
        with self._database.transaction() as rows:
            before = min(self._since(), options.until or time.time())
            if options.all:
                forget(rows, [row[0] for row in rows.execute("SELECT key FROM results WHERE used < ?", (before,))])
            for (layer,) in rows.execute(_UNUSED_LAZY, (LAZY, before)).fetchall():
                if layer not in held.layers:
                    _drop_layer(rows, layer)
            rows.execute("DELETE FROM recalls WHERE key NOT IN (SELECT key FROM results)")
            rows.execute("DELETE FROM places WHERE used < ?", (before,))
            rows.execute("DELETE FROM stats WHERE seen < ?", (before,))
            rows.execute("DELETE FROM notes WHERE key LIKE 'leftovers:%' AND written < ?", (before,))

    # ---- leftovers ---------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove what dead processes left: drafts, partial files, rubbish, directories of layers never recorded."""
        # First what there is, then who lives: who comes meanwhile is not taken for dead.
        found = [Path(entry.path) for part in ("drafts", "ingest") for entry in os.scandir(self._root / part)]
        living = living_leases(self._root)
        for path in found:
            if "." in path.name and owner_of(path.name) not in living:
                self._throw_away(path)
        with self._database.transaction() as rows:
            living = living_leases(self._root) | living  # nobody can add rows now
            known = {row[0] for row in rows.execute("SELECT id FROM layers WHERE state <> ?", (LAZY,))}
            for name in os.listdir(self._root / "layers"):
                if name not in known:
                    self._throw_away(self._root / "layers" / name)
            for (name,) in rows.execute("SELECT name FROM reservations").fetchall():
                if owner_of(name) not in living:
                    rows.execute("DELETE FROM reservations WHERE name = ?", (name,))
            files = {row[0] for row in rows.execute("SELECT file FROM logs")}
            logs = os.listdir(self._root / "logs")
            living |= living_leases(self._root)
            for name in logs:
                if name not in files and owner_of(name) not in living:
                    self._throw_away(self._root / "logs" / name)
        self.empty_trash()

    def _sweep_partial(self) -> None:
        """Remove broken downloads that nobody is continuing."""
        for name in os.listdir(self._root / "ingest"):
            if "." not in name:
                with self._locks.tried(f"ingest:sha{256 if len(name) == 64 else 512}:{name}") as free:
                    if free:
                        (self._root / "ingest" / name).unlink(missing_ok=True)

    def empty_trash(self) -> None:
        for name in os.listdir(self._root / "trash"):
            remove_tree(self._root / "trash" / name)


_UNNAMED = "SELECT name FROM images WHERE name = id AND created < ? ORDER BY created"
_LAYERS_WITHOUT_BYTES = """
SELECT layer FROM sources JOIN layers ON id = layer WHERE digest = ? AND state = 0
AND NOT EXISTS (SELECT 1 FROM sources AS other WHERE other.layer = sources.layer AND (digest <> ? OR origin <> ''))
AND NOT EXISTS (SELECT 1 FROM forms WHERE forms.digest = sources.digest)
"""

_LAZY_FORMS = """
SELECT sources.layer FROM forms JOIN sources USING (digest) JOIN layers ON id = sources.layer
WHERE forms.layer = ? AND state = 0 AND origin = '' AND sources.layer <> forms.layer
"""
_UNUSED_LAZY = "SELECT id FROM layers WHERE state = ? AND used < ? AND id NOT IN (SELECT layer FROM result_layers)"


def _order(usage: Usage) -> tuple[float, int, str]:
    """Least recently used first; of layers used together the newest, which is the upper one, first."""
    number = int(usage.id, 36) if usage.kind == "layer" else 0
    return usage.last_used, -number, usage.id


def _drop_layer(rows: sqlite3.Connection, layer: str) -> None:
    """Forget a layer, every result that holds it, and lazy layers whose bytes would be made of it."""
    lazy = rows.execute(_LAZY_FORMS, (layer,)).fetchall()
    forget(rows, [row[0] for row in rows.execute("SELECT key FROM result_layers WHERE layer = ?", (layer,))])
    rows.execute("DELETE FROM layers WHERE id = ?", (layer,))
    rows.execute("DELETE FROM sources WHERE layer = ?", (layer,))
    rows.execute("DELETE FROM forms WHERE layer = ?", (layer,))
    for (dependent,) in lazy:
        _drop_layer(rows, dependent)


def after_power_failure(root: Path, database: Database) -> None:
    """Give up layers that were written, but not known to be on disk, when the machine last stopped."""
    if not (boot := this_boot()):
        return
    with database.transaction() as rows:
        lost = rows.execute("SELECT id, diff_id FROM layers WHERE boot IS NOT NULL AND boot <> ?", (boot,)).fetchall()
        for layer, diff_id in lost:
            if diff_id:
                rows.execute("UPDATE layers SET state = ?, boot = NULL, bytes = NULL WHERE id = ?", (LAZY, layer))
            else:
                _drop_layer(rows, layer)
            with suppress(FileNotFoundError):
                os.rename(root / "layers" / layer, root / "trash" / f"lost.{layer}")
