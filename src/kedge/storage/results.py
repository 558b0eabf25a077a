"""Results by cache key, and what explains a miss: the solver's CacheStore.

Owns the tables `results`, `result_layers`, `recalls` and `places`. Does not know what a key means, and opens no layer.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable
from types import TracebackType

from kedge.model.cachekey import CacheKey, KeyManifest
from kedge.model.digest import Digest
from kedge.model.errors import StoreError
from kedge.model.graph import Layer, Snapshot
from kedge.storage.database import Database
from kedge.storage.layer_records import mark_used
from kedge.storage.locks import Lease, Locks
from kedge.storage.notes import NoteStore

_STORED = "SELECT snapshots, used FROM results WHERE key = ?"


class ResultStore:
    """Implements kedge.solver.contracts.CacheStore; the contract of each method is there."""

    def __init__(self, database: Database, locks: Locks, lease: Lease, notes: NoteStore | None = None) -> None:
        self._notes = notes or NoteStore(database, lease)
        self._database, self._locks, self._lease = database, locks, lease
        self._used: set[Layer] = set()  # layers marked as used since our lease began

    def results(self, key: CacheKey) -> list[Snapshot] | None:
        """What is stored under the key, None when there is nothing or one of its layers is gone. Marks it as used."""
        digest = key.digest
        row = self._database.row(_STORED, digest)
        if row and self._lease.reach_back(row[1]):
            row = self._database.row(_STORED, digest)  # it may have gone before we protected it
        elif row:
            row = self._touched(digest)
        return _read(row[0]) if row else None

    def _touched(self, digest: Digest) -> tuple[str, float] | None:
        """The row of a result, which it marks as used with its layers; None when it is gone."""
        now = self._lease.now()
        with self._database.transaction() as rows:
            row: tuple[str, float] | None = rows.execute(_STORED, (digest,)).fetchone()
            if row is None:
                return None
            layers = {layer for snapshot in _read(row[0]) for layer in snapshot}
            if not mark_used(rows, layers - self._used, now):
                forget(rows, [digest])
                return None
            # Its layers were used since our lease began: `used` of a result is never later than that of its layers.
            rows.execute("UPDATE results SET used = ? WHERE key = ?", (self._lease.start, digest))
        self._used |= layers
        return row

    def put(self, key: CacheKey, results: list[Snapshot], manifest: KeyManifest | None = None) -> None:
        """Store results, replacing earlier ones, and remember the manifest as its places' latest.

        Raises StoreError when a layer is not (or no longer) in the store, or is a client's directory.
        """
        digest, now = key.digest, self._lease.now()
        layers = {layer for snapshot in results for layer in snapshot}
        with self._database.transaction() as rows:
            if not mark_used(rows, layers, now):
                raise StoreError("a result may only hold layers that are in the store")
            rows.execute("DELETE FROM result_layers WHERE key = ?", (digest,))
            rows.executemany("INSERT INTO result_layers VALUES (?, ?)", [(layer, digest) for layer in layers])
            name = manifest.name if manifest else ""
            rows.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", (digest, _write(results), name, now, now)
            )
            if manifest:
                text = _write_manifest(manifest)
                rows.executemany(
                    "INSERT OR REPLACE INTO places VALUES (?, ?, ?)", [(place, text, now) for place in manifest.places]
                )
        self._used |= layers

    def recall(self, definition: Digest, unseen: bool = False) -> CacheKey | None:
        """The key a definition led to, as long as results are stored under it; if `unseen`, whether they are or not."""
        if unseen:
            text = self._notes.get(f"unseen:{definition}")
            return _key_of(text) if text else None
        row = self._database.row(
            "SELECT manifest FROM recalls JOIN results USING (key) WHERE definition = ?", definition
        )
        if row is None:
            return None
        return _key_of(row[0])

    def remember(self, definition: Digest, key: CacheKey, unseen: bool = False) -> None:
        """Note for `recall`; replaces an earlier note."""
        text = " ".join((key.op, *key.inputs))
        if unseen:
            self._notes.put(f"unseen:{definition}", text)
            return
        with self._database.transaction() as rows:
            rows.execute("INSERT OR REPLACE INTO recalls VALUES (?, ?, ?)", (definition, key.digest, text))

    def previous(self, place: str) -> KeyManifest | None:
        """The manifest that the latest `put` for this place gave, without its other places."""
        row = self._database.row("SELECT manifest FROM places WHERE place = ?", place)
        return row and _read_manifest(place, row[0])

    def claim(self, key: CacheKey, cancel: threading.Event) -> "Claim":
        """The right to make this key's results: a context manager, entered and left on any thread."""
        return Claim(self._locks, f"result:{key.digest}", cancel)


class Claim:
    """A lock that may be entered on one thread and left on another; leaving one that was not entered does nothing."""

    def __init__(self, locks: Locks, name: str, cancel: threading.Event) -> None:
        self._held = locks.held(name, cancel=cancel)
        self._entered = False

    def __enter__(self) -> None:
        self._held.__enter__()
        self._entered = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered:
            self._entered = False
            self._held.__exit__(None, None, None)


def forget(rows: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Remove results, and what recalls them, in the caller's transaction."""
    values = [(key,) for key in keys]
    for table in ("results", "result_layers", "recalls"):
        rows.executemany(f"DELETE FROM {table} WHERE key = ?", values)


def _key_of(text: str) -> CacheKey:
    op, *inputs = text.split()
    return CacheKey(Digest(op), tuple(map(Digest, inputs)))


def _write(results: list[Snapshot]) -> str:
    return "\n".join(" ".join(snapshot) for snapshot in results)


def _read(text: str) -> list[Snapshot]:
    return [tuple(map(Layer, line.split())) for line in text.split("\n")]


def _write_manifest(manifest: KeyManifest) -> str:
    key = manifest.key
    return json.dumps([manifest.name, key.op, key.inputs, manifest.labels, manifest.inputs], separators=(",", ":"))


def _read_manifest(place: str, text: str) -> KeyManifest:
    name, op, inputs, labels, origins = json.loads(text)
    return KeyManifest(
        (place,),
        name,
        CacheKey(op, tuple(inputs)),
        tuple((label, value) for label, value in labels),
        tuple((origin, kind) for origin, kind in origins),
    )
