"""Forgetting bytes that turned out not to be had: what a cache promised and did not, or could not, keep.

Owns that one removal. Does not know who promised.
"""

from collections.abc import Iterable

from kedge.model.digest import Digest
from kedge.storage.blobs import BlobStore
from kedge.storage.database import Database
from kedge.storage.results import forget


def forget_origins(database: Database, blobs: BlobStore, origins: Iterable[str]) -> int:
    """Forget where layers could be had from, and results that need those of them that are not here. Returns how many
    results went.

    A layer that has another origin, such as a base image's registry, keeps it; a blob that did not unpack to its layer
    is removed, so that the same bytes are not tried again.
    """
    gone: set[str] = set()
    with database.transaction() as rows:
        for origin in origins:
            found = rows.execute(
                "SELECT layer, digest FROM sources JOIN layers ON layer = id WHERE origin = ? AND state = 0", (origin,)
            ).fetchall()
            rows.execute("DELETE FROM sources WHERE origin = ?", (origin,))
            for layer, digest in found:
                gone |= {key for (key,) in rows.execute("SELECT key FROM result_layers WHERE layer = ?", (layer,))}
                if not rows.execute("SELECT 1 FROM sources WHERE digest = ?", (digest,)).fetchone():
                    blobs.delete(Digest(digest))
        forget(rows, gone)
    return len(gone)
