"""Sending images of the store to registries: `kedge push`, `--push` and `-o type=registry`.

Owns what becomes of layers that the store knows only uncompressed: they are published compressed, so the manifest that
is pushed may differ from the one in the store. Does not know the wire protocol, nor in which order things are sent
(`copy_image`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from kedge.exporters.copy_image import Steps, copy_image
from kedge.exporters.image import Referrer
from kedge.exporters.places import RegistryWriter, StoreReader
from kedge.model.digest import Digest, sha256
from kedge.model.errors import NotFound
from kedge.model.image import (
    COMPRESSION_OF,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Descriptor,
    Index,
    Manifest,
)
from kedge.model.platform import Platform
from kedge.model.reference import Reference
from kedge.model.value import dataclass, replace

if TYPE_CHECKING:
    from kedge.registry.client import Registry
    from kedge.storage.packing import Compression
    from kedge.storage.store import Store

_LAYER_TYPES: Final = {
    ("gzip", True): OCI_LAYER_GZIP,
    ("zstd", True): OCI_LAYER_ZSTD,
    ("gzip", False): DOCKER_LAYER_GZIP,
    ("zstd", False): DOCKER_LAYER_ZSTD,
}


@dataclass(frozen=True, slots=True)
class Published:
    """An image as it goes out: its root document's descriptor, and the bytes of the documents that are new."""

    target: Descriptor
    documents: Mapping[Digest, bytes]


def push(
    store: "Store",
    registry: "Registry",
    published: Published,
    names: Sequence[Reference],
    steps: Steps,
    *,
    referrers: Sequence[Referrer] = (),
    platforms: Sequence[Platform] = (),
) -> Descriptor:
    """Push an image to every name at once; returns the descriptor of what was pushed, which a name is pinned by.

    Images of an index that the store lacks are left out. With the image go the manifests about it: `referrers`, and
    those that the store knows. Raises RegistryError, Unauthorized, StoreError, NotFound.
    """
    reader = StoreReader(store, published.documents, referrers)
    writers = [RegistryWriter(registry, name) for name in names]
    return copy_image(reader, writers, published.target, steps, platforms=platforms)


def publishable(
    store: "Store",
    target: Descriptor,
    documents: Mapping[Digest, bytes] | None = None,
    compression: "Compression" = "gzip",
    level: int | None = None,
) -> Published:
    """The image with those layers compressed, once, that the store made itself and knows as uncompressed tars.

    `documents` are manifests and configs that the store need not hold.
    """
    made = dict(documents or {})
    reader = StoreReader(store, dict(made))
    if target.media_type in INDEXES:
        index = Index.from_bytes(reader.manifest(target), target.media_type)
        entries = tuple(_entry(store, reader, entry, made, compression, level) for entry in index.manifests)
        entries = _attestations_follow(index.manifests, entries)
        if entries == index.manifests:
            return Published(target, made)
        data = replace(index, manifests=entries).to_bytes()
        return Published(_keep(made, target, data), made)
    return Published(_entry(store, reader, target, made, compression, level), made)


def _entry(
    store: "Store",
    reader: StoreReader,
    entry: Descriptor,
    made: dict[Digest, bytes],
    compression: "Compression",
    level: int | None,
) -> Descriptor:
    if entry.media_type not in MANIFESTS:
        return entry
    try:
        manifest = Manifest.from_bytes(reader.manifest(entry), entry.media_type)
    except NotFound:
        return entry  # a platform that was never pulled: the copy leaves it out
    layers = tuple(_layer(store, layer, manifest, compression, level) for layer in manifest.layers)
    if layers == manifest.layers:
        return entry
    return _keep(made, entry, replace(manifest, layers=layers).to_bytes())


def _layer(
    store: "Store", layer: Descriptor, manifest: Manifest, compression: "Compression", level: int | None
) -> Descriptor:
    if COMPRESSION_OF.get(layer.media_type) != "uncompressed" or store.layers.origins(layer.digest):
        return layer
    packed = store.layers.packed(layer.digest, compression, level)
    if packed is None:
        return layer
    kind = COMPRESSION_OF.get(packed.media_type, "")
    media_type = _LAYER_TYPES.get((kind, manifest.media_type != DOCKER_MANIFEST), packed.media_type)
    return replace(packed, media_type=media_type, annotations=layer.annotations)


def _keep(made: dict[Digest, bytes], like: Descriptor, data: bytes) -> Descriptor:
    digest = sha256(data)
    made[digest] = data
    return replace(like, digest=digest, size=len(data))


def _attestations_follow(before: Sequence[Descriptor], after: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    """Attestations name by digest the image they are about: when that changes, so does what they say."""
    changed = {old.digest: new.digest for old, new in zip(before, after, strict=True)}
    key = "vnd.docker.reference.digest"

    def follow(entry: Descriptor) -> Descriptor:
        notes = dict(entry.annotations)
        if notes.get(key) not in changed:
            return entry
        return replace(entry, annotations=tuple(sorted((notes | {key: changed[Digest(notes[key])]}).items())))

    return tuple(follow(entry) for entry in after)
