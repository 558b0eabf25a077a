"""Cache mounts from elsewhere: `--cache-mount-from`.

Owns the artifact's form (a manifest whose first layer is the index and whose others are packs, all zstd) and bringing
its packs ahead of their use. Does not know what is in a pack (`storage.mount_packs`).
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kedge.model.cache_document import LARGEST
from kedge.model.digest import parse_digest
from kedge.model.errors import IntegrityError, InvalidInput, NotFound
from kedge.model.image import Descriptor, Manifest
from kedge.model.reference import parse_reference
from kedge.sources.cache import InLayout, InRegistry

if TYPE_CHECKING:
    from kedge.registry.client import Registry

MOUNT_ARTIFACT: Final = "application/vnd.kedge.cachemount.v1"
MOUNT_CONFIG: Final = "application/vnd.kedge.cachemount.config.v1+json"
MOUNT_INDEX: Final = "application/vnd.kedge.cachemount.index.v1+json+zstd"
MOUNT_PACK: Final = "application/vnd.kedge.cachemount.pack.v1+zstd"
_AHEAD: Final = 4


def fill_mount(kind: str, attributes: Mapping[str, str], registry: "Registry", directory: Path) -> int:
    """Put a cache mount's files into an empty directory; returns how many. Blocks.

    Raises NotFound, RegistryError, IntegrityError; the directory then holds a part.
    """
    if kind == "registry":
        return _fill(InRegistry(registry, parse_reference(attributes["ref"])), directory)
    from kedge.sources.oci_layout import open_layout

    digest = parse_digest(attributes["digest"]) if attributes.get("digest") else None
    with open_layout(str(Path(attributes["src"]).absolute())) as layout:
        return _fill(InLayout(layout, attributes.get("tag", "latest"), digest), directory)


def check(kind: str, attributes: Mapping[str, str], place: str) -> None:
    """Raise InvalidInput unless the attributes name an id and a place; `place` is src or dest."""
    needed = {"registry": "ref", "local": place}.get(kind)
    if needed is None:
        raise InvalidInput(f"cache mounts cannot travel by type {kind[:40]!r}", hint="Use registry or local.")
    for name in ("id", needed):
        if not attributes.get(name):
            raise InvalidInput(f"a cache mount of type {kind} needs {name}=…")


def is_meant(id: str, mount_id: str) -> bool:
    """Does the `id` that a user wrote mean a mount's, which has a namespace before it?"""
    return mount_id == id or mount_id.partition("/")[2] == id


def _fill(documents: "InRegistry | InLayout", directory: Path) -> int:
    from kedge.storage.mount_packs import MOST, MountIndex, unpack_mount

    root, data = documents.root()
    manifest = Manifest.from_bytes(data, root.media_type)
    if manifest.config.media_type != MOUNT_CONFIG or not manifest.layers:
        raise NotFound("there is no cache mount, but something else")
    index = MountIndex.from_bytes(_plain(documents.blob(manifest.layers[0]), LARGEST * 4))
    by_digest = {layer.digest: layer for layer in manifest.layers[1:]}
    missing = [digest for digest in index.packs if digest not in by_digest]
    if missing:
        raise IntegrityError(f"the cache mount's manifest lacks {missing[0]}")
    layers = [by_digest[digest] for digest in index.packs]
    with ThreadPoolExecutor(_AHEAD, "cache-mount") as pool:
        coming: dict[int, Future[bytes]] = {}

        def fetch(layer: Descriptor) -> bytes:
            return _plain(documents.blob(layer), MOST)

        def pack(number: int) -> bytes:
            for ahead in range(number, min(number + _AHEAD, len(layers))):
                if ahead not in coming:
                    coming[ahead] = pool.submit(fetch, layers[ahead])
            return coming.pop(number).result()

        unpack_mount(index, pack, directory)
    return len(index.files)


def _plain(data: bytes, limit: int) -> bytes:
    """Decompressed, at most `limit` bytes."""
    import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data) as reader:
            plain = reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"a pack of a cache mount cannot be decompressed: {error}") from None
    if len(plain) > limit:
        raise IntegrityError("a pack of a cache mount is too large")
    return plain
