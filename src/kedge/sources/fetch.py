"""The store's way to bytes it was only told of: from the origin of a lazy layer to its blob.

Owns the choice by the origin's scheme. Does not know when the store asks.
"""

from typing import TYPE_CHECKING

from kedge.model.errors import NotFound
from kedge.model.image import Descriptor
from kedge.model.reference import parse_repository

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedge.registry.client import Registry
    from kedge.storage.blobs import BlobWriter
    from kedge.storage.store import Fetch


CACHE_ORIGIN = "cache+"  # before the scheme of an origin: bytes that a cache offered, and a build can do without


def store_fetch(registry: "Registry") -> "Fetch":
    """A `Store.fetch` that knows `docker-image://registry/repository`, `oci-layout://path` and `s3://…`.

    Blocks; safe for several blobs at once. Raises NotFound, RegistryError, IntegrityError.
    """

    def fetch(
        origin: str, descriptor: Descriptor, writer: "BlobWriter", progress: "Callable[[int, int], None]"
    ) -> None:
        scheme, _, rest = origin.removeprefix(CACHE_ORIGIN).partition("://")
        if scheme == "docker-image":
            registry.download(parse_repository(rest), descriptor, writer, progress)
        elif scheme == "oci-layout":
            from kedge.sources.oci_layout import open_layout

            with open_layout(rest) as layout:
                layout.copy(descriptor, writer, progress)
        elif scheme == "s3":
            from kedge.sources.s3_cache import download

            download(rest, descriptor, writer, progress)
        else:
            raise NotFound(
                f"the bytes of {descriptor.digest} are not in the store, nor is known where they could be had"
            )

    return fetch
