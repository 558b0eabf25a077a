"""Images by name.

Owns the table `images`. Does not know what a manifest says, nor registries.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence

from kedge.model.digest import Digest
from kedge.model.image import Descriptor
from kedge.model.value import dataclass
from kedge.storage.database import Database


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One name of one image.

    `name` is a full reference (`str(Reference)`), or the image's own id for an image without a name. `target` is the
    manifest or index, whose bytes are in the blob store. `id` is the config's digest, as Docker shows it (for an index:
    the one of the platform that was built or pulled). `created_at` is when this store got it, seconds since the epoch.
    """

    name: str
    target: Descriptor
    id: Digest
    created_at: float


class ImageStore:
    """Names of images. Every method is atomic; names survive a power failure once `set` has returned."""

    def __init__(self, database: Database, flush: Callable[[], None]) -> None:
        """`flush` makes layers written so far durable: what a name needs must not be lost before the name."""
        self._database, self._flush = database, flush
        self.keeps_replaced = False  # an image whose last name moves to another stays, under its id

    def get(self, name: str) -> ImageRecord | None:
        """The image of that exact name."""
        row = self._database.row(f"{_SELECT} WHERE name = ?", name)
        return row and _read(row)

    def set(self, record: ImageRecord) -> ImageRecord | None:
        """Give the name to the image, which is no longer without; returns the record that had it before.

        An image that has the name already keeps the time it got here.
        """
        before = self.get(record.name)
        if before and (before.target, before.id) == (record.target, record.id):
            return before
        self._flush()
        target = json.dumps(record.target.to_json())
        with self._database.transaction(durable=True) as rows:
            before = rows.execute(f"{_SELECT} WHERE name = ?", (record.name,)).fetchone()
            rows.execute(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?)",
                (record.name, target, record.target.digest, record.id, record.created_at),
            )
            if record.name != record.id:
                rows.execute("DELETE FROM images WHERE name = id AND digest = ?", (record.target.digest,))
            if before and self.keeps_replaced:
                _keep(rows, _read(before))
        return before and _read(before)

    def remove(self, name: str) -> bool:
        """Forget a name; False when there was none. What only this name held becomes garbage for `Store.prune`."""
        with self._database.transaction(durable=True) as rows:
            return rows.execute("DELETE FROM images WHERE name = ?", (name,)).rowcount == 1

    def add_referrer(self, subject: Digest, manifest: Descriptor) -> None:
        """Remember a manifest, whose blobs are in the store, that is about another one: held as long as that is."""
        text = json.dumps(manifest.to_json())
        with self._database.transaction(durable=True) as rows:
            rows.execute("INSERT OR REPLACE INTO referrers VALUES (?, ?, ?)", (subject, manifest.digest, text))

    def referrers(self, subject: Digest) -> "tuple[Descriptor, ...]":
        """The manifests about another one, in the order of their digests."""
        rows = self._database.rows("SELECT manifest FROM referrers WHERE subject = ? ORDER BY digest", subject)
        return tuple(Descriptor.from_json(json.loads(row[0])) for row in rows)

    def list(self) -> Sequence[ImageRecord]:
        """All records, newest first."""
        return [_read(row) for row in self._database.rows(f"{_SELECT} ORDER BY created DESC, name")]

    def names(self, target: Digest) -> Sequence[str]:
        """The names of the records with that target, sorted."""
        return [row[0] for row in self._database.rows("SELECT name FROM images WHERE digest = ? ORDER BY name", target)]

    def find(self, prefix: str) -> Sequence[ImageRecord]:
        """Records whose id or target's digest starts with the hexadecimal `prefix` (with or without `sha256:`)."""
        digits = prefix.removeprefix("sha256:")
        if not digits or digits.strip("0123456789abcdef"):
            return []
        pattern = f"sha256:{digits}%"
        found = self._database.rows(f"{_SELECT} WHERE id LIKE ? OR digest LIKE ? ORDER BY name", pattern, pattern)
        return [_read(row) for row in found]


_SELECT = "SELECT name, target, id, created FROM images"


def _keep(rows: sqlite3.Connection, image: ImageRecord) -> None:
    """Let an image without a name be found by its id."""
    if rows.execute("SELECT 1 FROM images WHERE digest = ?", (image.target.digest,)).fetchone() is None:
        target = json.dumps(image.target.to_json())
        row = (image.id, target, image.target.digest, image.id, image.created_at)
        rows.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)", row)


def _read(row: tuple[str, str, str, float]) -> ImageRecord:
    name, target, image, created = row
    return ImageRecord(name, Descriptor.from_json(json.loads(target)), Digest(image), created)
