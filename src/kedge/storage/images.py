"""Images by name. Owns the table of names; does not know what a manifest says, nor registries."""

from collections.abc import Sequence
from dataclasses import dataclass

from kedge.model.digest import Digest
from kedge.model.image import Descriptor
from kedge.storage.database import Database


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One name of one image.

    `name` is a full reference (`str(Reference)`), or the image's own id for an image without a name. `target` is the manifest
    or index, whose bytes are in the blob store. `id` is the config's digest, as Docker shows it (for an index: the one of the
    platform that was built or pulled). `created_at` is when this store got it, seconds since the epoch.
    """

    name: str
    target: Descriptor
    id: Digest
    created_at: float


class ImageStore:
    """Names of images. Every method is atomic; names survive a power failure once `set` has returned."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> ImageRecord | None:
        """The image of that exact name."""
        raise NotImplementedError

    def set(self, record: ImageRecord) -> ImageRecord | None:
        """Give the name to the image; returns the record that had it before."""
        raise NotImplementedError

    def remove(self, name: str) -> bool:
        """Forget a name; False when there was none. What only this name held becomes garbage for `Store.prune`."""
        raise NotImplementedError

    def list(self) -> Sequence[ImageRecord]:
        """All records, newest first."""
        raise NotImplementedError

    def find(self, prefix: str) -> Sequence[ImageRecord]:
        """Records whose image id or manifest digest starts with the hexadecimal `prefix` (with or without `sha256:`)."""
        raise NotImplementedError
