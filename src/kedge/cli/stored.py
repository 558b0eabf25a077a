"""Images of the store as a person asks for them: by name, by the start of an id, with their documents.

Owns the search order (a name before an id, as Docker) and the sizes that lists show. Does not know how images are made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kedge.cli.parse import nearest
from kedge.model.digest import Digest
from kedge.model.errors import InvalidInput, InvalidReference, KedgeError, NotFound
from kedge.model.image import INDEXES, Descriptor, ImageConfig, Index, Manifest
from kedge.model.reference import Reference, parse_reference

if TYPE_CHECKING:
    from kedge.storage.images import ImageRecord
    from kedge.storage.store import Store

LARGEST_DOCUMENT: Final = 16 << 20  # bytes of a manifest or config


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image with its documents. `config` and `manifest` are of the platform that the record's id names."""

    record: "ImageRecord"
    descriptor: Descriptor  # of `manifest`
    manifest: Manifest
    config: ImageConfig
    layer_sizes: tuple[int, ...]  # bytes of the uncompressed tars where known, else as transferred; bottom first

    @property
    def size(self) -> int:
        return sum(self.layer_sizes)

    @property
    def reference(self) -> Reference | None:
        """Its name; None for an image that has only its id."""
        return name_of(self.record)


def name_of(record: "ImageRecord") -> Reference | None:
    """The record's name as a reference; None where only the id names it."""
    if "/" not in record.name:
        return None
    return parse_reference(record.name)


def find(store: "Store", text: str) -> "ImageRecord":
    """The image that `text` names; raises NotFound with the nearest name, InvalidInput for an ambiguous id."""
    try:
        record = store.images.get(str(parse_reference(text)))
    except InvalidReference as error:
        invalid: KedgeError | None = error
        record = None
    else:
        invalid = None
    if record:
        return record
    prefix = text.removeprefix("sha256:").lower()
    found = store.images.find(prefix) if prefix and all(c in "0123456789abcdef" for c in prefix) else ()
    if len({item.id for item in found}) > 1:
        raise InvalidInput(f"the id {text} is ambiguous: {len(found)} images start with it", hint="Write more of its digits.")
    if found:
        return found[0]
    if invalid and not prefix:
        raise invalid
    names = [name.familiar for item in store.images.list() if (name := name_of(item))]
    guess = nearest(parse_reference(text).familiar, names) if not invalid else ""
    raise NotFound(f"no such image: {text}", hint=f"Did you mean {guess}?" if guess else "`kedge images` lists what there is.")


def opened(store: "Store", record: "ImageRecord") -> StoredImage:
    """The image behind a record with its documents read. Raises IntegrityError, NotFound for a damaged store."""
    descriptor, manifest = _manifest(store, record)
    config = ImageConfig.from_bytes(store.blobs.read(manifest.config.digest, LARGEST_DOCUMENT))
    sizes = tuple(
        _layer_size(store, diff_id, layer)
        for diff_id, layer in zip(config.diff_ids, manifest.layers, strict=False)
    )
    return StoredImage(record, descriptor, manifest, config, sizes)


def all_images(store: "Store") -> Iterator[StoredImage]:
    """Every image in the store, newest first; damaged ones are left out (`kedge du --verify` tells)."""
    for record in store.images.list():
        try:
            yield opened(store, record)
        except KedgeError:
            continue


def _manifest(store: "Store", record: "ImageRecord") -> tuple[Descriptor, Manifest]:
    data = store.blobs.read(record.target.digest, LARGEST_DOCUMENT)
    if record.target.media_type not in INDEXES:
        return record.target, Manifest.from_bytes(data, record.target.media_type)
    for entry in Index.from_bytes(data, record.target.media_type).manifests:
        if store.blobs.has(entry.digest):
            manifest = Manifest.from_bytes(store.blobs.read(entry.digest, LARGEST_DOCUMENT), entry.media_type)
            if manifest.config.digest == record.id:
                return entry, manifest
    raise NotFound(f"the index {record.target.digest} holds no image {record.id}")


def _layer_size(store: "Store", diff_id: Digest, blob: Descriptor) -> int:
    if diff_id == blob.digest:
        return blob.size
    layer = store.layers.find(diff_id)
    size = store.layers.info(layer).size if layer else None
    return blob.size if size is None else size
