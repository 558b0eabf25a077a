"""What is known of layers, as rows: which exist, where lazy ones come from, which forms of them were made.

Owns the tables `layers`, `sources` and `forms`, and the step that turns a finished directory into a layer. Does not
know how directories are made.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from kedge.model.digest import Digest
from kedge.model.errors import NotFound
from kedge.model.graph import Layer
from kedge.model.image import Descriptor
from kedge.model.value import dataclass
from kedge.storage.database import Database
from kedge.storage.disk import this_boot, translated
from kedge.storage.locks import Lease

LAZY, READY = 0, 1
IMPLIED = "implied directories"  # how the description of a layer of such directories begins: see `implied`
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MOMENT = 60  # seconds; as exact as anybody needs to know when a layer was used last


@dataclass(frozen=True, slots=True)
class Declared:
    """A layer as an image's manifest and config declare it: `origin` is where `Store.fetch` gets `descriptor`'s bytes
    from.

    An empty origin means the bytes are, or will be, put into the blob store by the caller. `created` is when it was
    made where it was made, in seconds since the epoch; without it, a layer is as old as the store's knowledge of it.
    """

    diff_id: Digest
    descriptor: Descriptor
    origin: str = ""
    created: float | None = None


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What is known of a layer without touching its files.

    `declared`: it came with an image, else it was made here. `diff_id` and `size` (bytes of the uncompressed tar) are
    None until somebody needed them; a declared layer has its diff id from the start. `ready`: the directory is there.
    `opaque`: it hides all layers below it. `sources` are a declared layer's blobs, as (descriptor, origin).
    """

    id: Layer
    declared: bool
    diff_id: Digest | None
    size: int | None
    ready: bool
    opaque: bool
    created: float
    used: float
    sources: tuple[tuple[Descriptor, str], ...]
    description: str


@dataclass(frozen=True, slots=True)
class State:
    """What stacking needs to know of a layer. `implied`: directories that it has no entry of, outermost first."""

    ready: bool
    opaque: bool
    implied: tuple[str, ...] = ()


def mark_used(rows: sqlite3.Connection, layers: Iterable[Layer], now: float) -> bool:
    """Mark layers as used, in the caller's transaction; False when one of them is gone."""
    return all(rows.execute("UPDATE layers SET used = ? WHERE id = ?", (now, layer)).rowcount == 1 for layer in layers)


class LayerRecords:
    """The rows of layers. Every method is atomic."""

    def __init__(self, root: Path, database: Database, lease: Lease) -> None:
        self._directories, self._trash = root / "layers", root / "trash"
        self._database, self._lease = database, lease
        self.wrote = False  # a directory was added through this object: Store.flush has something to do

    def directory(self, layer: Layer) -> Path:
        """Where the layer's directory is once it is ready."""
        return self._directories / layer

    # ---- coming and going --------------------------------------------------------------------------------------------

    def declare(self, layers: Sequence[Declared]) -> list[Layer]:
        now = self._lease.now()
        with self._database.transaction() as rows:
            return [_declare(rows, declared, now) for declared in layers]

    def publish(self, directory: Path, description: str) -> Layer:
        """Make `directory` a new layer: a rename. Raises StoreError and leaves it where it is when that fails."""
        now = self._lease.now()
        self.wrote = True
        # The rename is inside the transaction: a sweep, which holds one too, sees both or neither.
        with self._database.transaction() as rows, translated("keep a layer"):
            layer = self._place(rows, directory)
            try:
                rows.execute(
                    "INSERT INTO layers (id, state, created, used, boot, description) VALUES (?, ?, ?, ?, ?, ?)",
                    (layer, READY, now, now, _boot(), description),
                )
            except BaseException:
                os.rename(self.directory(layer), directory)
                raise
        return layer

    def _place(self, rows: sqlite3.Connection, directory: Path) -> Layer:
        while True:
            layer = _new_id(rows)
            if not self.directory(layer).exists():  # after a power failure the counter may lag behind the directories
                os.rename(directory, self.directory(layer))
                return layer

    def fill(self, layer: Layer, directory: Path, size: int, opaque: bool, implied: Sequence[str] = ()) -> None:
        """Make `directory` that of a lazy layer whose lock the caller holds; `size` is its tar's."""
        names = json.dumps(implied) if implied else None
        self.wrote = True
        with self._database.transaction() as rows, translated("keep a layer"):
            if self.directory(layer).exists():  # somebody was killed at this very point
                os.rename(self.directory(layer), self._trash / self._lease.new_name())
            os.rename(directory, self.directory(layer))
            rows.execute(
                "UPDATE layers SET state = ?, size = ?, opaque = ?, implied = ?, boot = ?, bytes = NULL, used = ? "
                "WHERE id = ?",
                (READY, size, opaque, names, _boot(), self._lease.now(), layer),
            )

    def unsynced(self) -> list[Layer]:
        """Layers not known to be on disk."""
        return [Layer(row[0]) for row in self._database.rows("SELECT id FROM layers WHERE boot IS NOT NULL")]

    def synced(self, layers: list[Layer]) -> None:
        """The file system was synced after these were written."""
        with self._database.transaction(durable=True) as rows:
            rows.executemany("UPDATE layers SET boot = NULL WHERE id = ?", [(layer,) for layer in layers])

    # ---- asking ------------------------------------------------------------------------------------------------------

    def use(self, layers: Sequence[Layer]) -> dict[Layer, State]:
        """Mark layers as used and tell their state. Raises NotFound when one is not there.

        What was used a moment ago, under our lease, is not marked again: a step uses the layer that the one before it
        made, and so does who writes that layer's tar.
        """
        now = self._lease.now()
        fresh = max(self._lease.start, now - _MOMENT)
        found = {layer: self._state(layer) for layer in layers}
        if any(used < fresh for _, used in found.values()):
            with self._database.transaction() as rows:
                rows.executemany("UPDATE layers SET used = ? WHERE id = ?", [(now, layer) for layer in layers])
            found = {layer: self._state(layer) for layer in layers}  # one may have gone before it was marked
        return {layer: state for layer, (state, _) in found.items()}

    def _state(self, layer: Layer) -> tuple[State, float]:
        """A layer's state, and when it was last used."""
        row = self._database.row("SELECT state, opaque, implied, used FROM layers WHERE id = ?", layer)
        if row is None:
            raise NotFound(f"the store has no layer {layer}")
        return State(row[0] == READY, bool(row[1]), tuple(json.loads(row[2] or "[]"))), row[3]

    def info(self, layer: Layer) -> LayerInfo:
        row = self._database.row(
            "SELECT diff_id, size, state, opaque, created, used, description FROM layers WHERE id = ?", layer
        )
        if row is None:
            raise NotFound(f"the store has no layer {layer}")
        diff_id, size, state, opaque, created, used, description = row
        declared, ready = diff_id is not None, state == READY
        if not declared and (tar := self.form(layer, tar_form(None))):
            diff_id, size = tar.digest, tar.size
        sources = self.sources(layer) if declared else ()
        return LayerInfo(layer, declared, diff_id, size, ready, bool(opaque), created, used, sources, description)

    def find(self, diff_id: Digest) -> Layer | None:
        row = self._database.row("SELECT id FROM layers WHERE diff_id = ?", diff_id) or self._database.row(
            "SELECT layer FROM forms WHERE digest = ? AND form LIKE 'tar:%'", diff_id
        )
        return row and Layer(row[0])

    def described(self, description: str) -> Layer | None:
        """The layer, made here, with that very description."""
        row = self._database.row("SELECT id FROM layers WHERE description = ? AND state = ?", description, READY)
        return row and Layer(row[0])

    def sources(self, layer: Layer) -> tuple[tuple[Descriptor, str], ...]:
        """Where a declared layer's bytes come from."""
        rows = self._database.rows("SELECT media_type, digest, size, origin FROM sources WHERE layer = ?", layer)
        return tuple((Descriptor(kind, Digest(digest), size), origin) for kind, digest, size, origin in rows)

    def tars_of(self, digest: Digest) -> list[tuple[Layer, int | None]]:
        """Layers made here whose tar has the digest, with the clamp it has it by."""
        rows = self._database.rows("SELECT layer, form FROM forms WHERE digest = ? AND form LIKE 'tar:%'", digest)
        return [(Layer(layer), int(form[4:]) if form[4:] else None) for layer, form in rows]

    def sources_of_blob(self, digest: Digest) -> list[tuple[Descriptor, str]]:
        rows = self._database.rows("SELECT media_type, digest, size, origin FROM sources WHERE digest = ?", digest)
        return [(Descriptor(kind, Digest(digest), size), origin) for kind, digest, size, origin in rows]

    # ---- forms -------------------------------------------------------------------------------------------------------

    def form(self, layer: Layer, form: str) -> Descriptor | None:
        row = self._database.row("SELECT media_type, digest, size FROM forms WHERE layer = ? AND form = ?", layer, form)
        return row and Descriptor(row[0], Digest(row[1]), row[2])

    def remember_forms(self, layer: Layer, forms: dict[str, Descriptor]) -> None:
        with self._database.transaction() as rows:
            for form, made in forms.items():
                rows.execute(
                    "INSERT OR REPLACE INTO forms VALUES (?, ?, ?, ?, ?)",
                    (layer, form, made.media_type, made.digest, made.size),
                )

    def forms_of_blob(self, digest: Digest) -> list[tuple[Layer, str]]:
        return [
            (Layer(layer), form)
            for layer, form in self._database.rows("SELECT layer, form FROM forms WHERE digest = ?", digest)
        ]


def tar_form(clamp: int | None) -> str:
    """The name of a layer's uncompressed tar among its forms."""
    return f"tar:{'' if clamp is None else clamp}"


def _declare(rows: sqlite3.Connection, declared: Declared, now: float) -> Layer:
    values = (now, declared.diff_id)
    found = rows.execute("UPDATE layers SET used = ? WHERE diff_id = ? RETURNING id", values).fetchone()
    if not found:  # perhaps one made here, whose tar is these very bytes
        same = "SELECT layer FROM forms WHERE digest = ? AND form = 'tar:'"
        found = rows.execute(f"UPDATE layers SET used = ? WHERE id = ({same}) RETURNING id", values).fetchone()
    layer = Layer(found[0]) if found else _new_id(rows)
    if not found:
        rows.execute(
            "INSERT INTO layers (id, diff_id, state, created, used) VALUES (?, ?, ?, ?, ?)",
            (layer, declared.diff_id, LAZY, now if declared.created is None else declared.created, now),
        )
    blob = declared.descriptor
    if not declared.origin and found and _makes(rows, layer, blob.digest):
        return layer  # an image made here names its layers by what they are made into on demand
    rows.execute(
        "INSERT OR REPLACE INTO sources (layer, digest, media_type, size, origin) VALUES (?, ?, ?, ?, ?)",
        (layer, blob.digest, blob.media_type, blob.size, declared.origin),
    )
    return layer


def _makes(rows: sqlite3.Connection, layer: Layer, digest: Digest) -> bool:
    row = rows.execute("SELECT 1 FROM forms WHERE layer = ? AND digest = ?", (layer, digest)).fetchone()
    return row is not None


def _new_id(rows: sqlite3.Connection) -> Layer:
    """The next short name: a number in base 36."""
    number = rows.execute("UPDATE meta SET value = value + 1 WHERE key = 'last_layer' RETURNING value").fetchone()[0]
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return Layer(digits)


@cache
def _boot() -> str | None:
    return this_boot() or None
