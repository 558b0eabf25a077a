"""Does the store hold what it says? Hashes every blob again, and compares records with the disk and each other.

Owns the questions. Changes nothing but what `gc.Collector.sweep` removes first. Does not know how to mend.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kedge.model.digest import Digest
from kedge.model.errors import KedgeError
from kedge.model.graph import Layer
from kedge.model.image import INDEXES, Descriptor, ImageConfig, Index, Manifest
from kedge.storage.accounts import Accounts
from kedge.storage.blobs import BlobStore
from kedge.storage.database import Database
from kedge.storage.images import ImageStore
from kedge.storage.layer_records import READY, LayerRecords

_CHUNK = 1 << 20


class Verifier:
    """Answers with one sentence for each fault."""

    def __init__(
        self,
        root: Path,
        database: Database,
        records: LayerRecords,
        blobs: BlobStore,
        images: ImageStore,
        accounts: Accounts,
    ) -> None:
        self._root, self._database, self._records = root, database, records
        self._blobs, self._images, self._accounts = blobs, images, accounts

    def faults(self) -> list[str]:
        return [
            *self._database_faults(),
            *self._blob_faults(),
            *self._layer_faults(),
            *self._result_faults(),
            *self._image_faults(),
        ]

    def _database_faults(self) -> Iterator[str]:
        for (answer,) in self._database.rows("PRAGMA quick_check"):
            if answer != "ok":
                yield f"the database is damaged: {answer}"

    def _blob_faults(self) -> Iterator[str]:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(thread_name_prefix="kedge-verify") as pool:
            digests = [digest for digest, _ in self._blobs.list()]
            for digest, actual in zip(digests, pool.map(self._rehash, digests), strict=True):
                if actual not in ("", digest):
                    yield f"blob {digest} has other content: {actual}"

    def _rehash(self, digest: Digest) -> str:
        """The digest of the blob's bytes, "" when it has gone meanwhile."""
        algorithm, _, hexadecimal = digest.partition(":")
        hasher = hashlib.new(algorithm)
        try:
            with open(self._root / "blobs" / algorithm / hexadecimal, "rb") as file:
                while data := file.read(_CHUNK):
                    hasher.update(data)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        return f"{algorithm}:{hasher.hexdigest()}"

    def _layer_faults(self) -> Iterator[str]:
        for layer, state in self._database.rows("SELECT id, state FROM layers"):
            if state == READY:
                if not self._records.directory(Layer(layer)).is_dir() and self._still(layer, READY):
                    yield f"layer {layer} has no directory"
            elif not self._records.sources(Layer(layer)) and self._still(layer, state):
                yield f"layer {layer} has neither a directory nor a source"

    def _still(self, layer: str, state: int) -> bool:
        """Is the row as it was read? Others may have collected it meanwhile."""
        return bool(self._database.row("SELECT 1 FROM layers WHERE id = ? AND state = ?", layer, state))

    def _result_faults(self) -> Iterator[str]:
        orphans = "SELECT DISTINCT key, layer FROM result_layers WHERE layer NOT IN (SELECT id FROM layers)"
        for key, layer in self._database.rows(orphans):
            yield f"result {key} holds layer {layer}, which is gone"
        for key, layer in self._database.rows(
            "SELECT key, layer FROM result_layers WHERE key NOT IN (SELECT key FROM results)"
        ):
            yield f"layer {layer} is held by result {key}, which is gone"

    def _image_faults(self) -> Iterator[str]:
        for record in self._images.list():
            for fault in self._target_faults(record.target):
                yield f"image {record.name}: {fault}"

    def _target_faults(self, target: Descriptor) -> Iterator[str]:
        try:
            data = self._accounts.peek(target.digest)
            if target.media_type in INDEXES:
                for child in Index.from_bytes(data).manifests:
                    with suppress(OSError):  # an index may name platforms that were never fetched
                        self._accounts.peek(child.digest)
                        yield from self._target_faults(child)
                return
            manifest = Manifest.from_bytes(data)
            config = ImageConfig.from_bytes(self._accounts.peek(manifest.config.digest))
        except (OSError, KedgeError) as error:
            yield f"{target.digest} cannot be read ({error})"
            return
        for blob, diff_id in zip(manifest.layers, config.diff_ids, strict=False):
            if not (self._records.find(diff_id) or self._here(blob.digest)):
                yield f"layer {diff_id} is not in the store"

    def _here(self, digest: Digest) -> bool:
        algorithm, _, hexadecimal = digest.partition(":")
        return (self._root / "blobs" / algorithm / hexadecimal).is_file()
