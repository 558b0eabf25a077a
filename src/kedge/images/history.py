"""What each instruction added: the rows of `kedge history`.

Owns how history entries and layers are laid side by side. Does not know how rows are printed.
"""

from typing import Final

from kedge.images.lookup import StoredImage
from kedge.model.digest import Digest
from kedge.model.value import dataclass
from kedge.storage.store import Store

# Times up to this one, `exporters.assemble.DEFAULT_EPOCH`, say that an image was made without a clock. RFC 3339 in UTC
# compares as text.
NO_TIME: Final = "1980-01-01T00:00:01Z"


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One entry, newest first. `id` is the image's on the first row, else None. `size` in bytes of the layer's tar.

    `created` is seconds since the epoch by the store's own records, for entries the image gives no meaningful time.
    """

    id: Digest | None
    created: float | None
    created_text: str
    created_by: str
    comment: str
    size: int
    diff_id: Digest | None


def history(store: Store, image: StoredImage) -> list[HistoryRow]:
    """The image's history, newest first."""
    rows: list[HistoryRow] = []
    diff_ids = iter(image.config.diff_ids)
    blobs = {d: blob.size for d, blob in zip(image.config.diff_ids, image.manifest.layers, strict=False)}
    inherited = True
    for entry in image.config.history:
        diff_id = None if entry.empty_layer else next(diff_ids, None)
        layer = store.layers.find(diff_id) if diff_id else None
        info = store.layers.info(layer) if layer else None
        inherited = inherited and (info is None or bool(info.sources))
        created = info.created if info and not info.sources else image.record.created_at
        size = blobs.get(diff_id, 0) if diff_id else 0
        rows.append(
            HistoryRow(
                None,
                None if inherited and entry.created > NO_TIME else created,
                entry.created,
                entry.created_by,
                entry.comment,
                info.size if info and info.size else size,
                diff_id,
            )
        )
    rows.reverse()
    if rows:
        first = rows[0]
        rows[0] = HistoryRow(image.id, first.created, first.created_text, first.created_by, first.comment, first.size,
                             first.diff_id)  # fmt: skip
    return rows
