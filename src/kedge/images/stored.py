"""Images of the store as lists show them: every name with its documents.

Owns which platform of an index a list shows. Does not know how images are found by name
(`kedge.images`).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kedge.images.lookup import StoredImage, platforms_of, read_image
from kedge.model.errors import InvalidReference, KedgeError, NotFound
from kedge.model.reference import Reference, parse_reference

if TYPE_CHECKING:
    from kedge.storage.images import ImageRecord
    from kedge.storage.store import Store


def name_of(record: "ImageRecord") -> Reference | None:
    """The record's name as a reference; None where only its id names it."""
    try:
        return None if record.name.startswith("sha256:") else parse_reference(record.name)
    except InvalidReference:
        return None


def opened(store: "Store", record: "ImageRecord") -> StoredImage:
    """The image whose id the record bears. Raises NotFound, IntegrityError for a damaged store."""
    for descriptor, _ in platforms_of(store, record):
        image = read_image(store, record, descriptor)
        if image.id == record.id:
            return image
    raise NotFound(f"the store holds no image {record.id}, though {record.name} should name it")


def all_images(store: "Store") -> Iterator[StoredImage]:
    """Every name in the store, newest first; damaged images are left out (`kedge du --verify` tells)."""
    for record in store.images.list():
        try:
            yield opened(store, record)
        except KedgeError:
            continue
