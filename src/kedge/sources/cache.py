"""Caches that travel, as they are read: `--cache-from type=registry|local|s3`, and the inline cache of an image.

Owns finding a cache's document and its blobs, and the origins by which the store gets these later. Only documents are
fetched here. Does not know what a record means, nor how it is looked up.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.model.cache_document import (
    CACHE_CONFIG,
    INLINE_FIELD,
    LARGEST,
    CacheDocument,
    CacheLayer,
    read_records,
)
from kedge.model.digest import Digest, parse_digest
from kedge.model.errors import IntegrityError, InvalidDigest, InvalidInput, NotFound
from kedge.model.image import COMPRESSION_OF, INDEXES, MANIFESTS, Descriptor, ImageConfig, Index, Manifest
from kedge.model.reference import parse_reference
from kedge.model.value import dataclass, replace
from kedge.sources.fetch import CACHE_ORIGIN

if TYPE_CHECKING:
    from kedge.model.reference import Reference
    from kedge.registry.client import Registry

UNCOMPRESSED = "containerd.io/uncompressed"  # annotation: the diff id of a layer
CREATED = "buildkit/createdat"  # annotation: when a layer was made
Attributes = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CacheBlob:
    """A layer of a cache: its blob and its diff id, which is checked when the blob is unpacked.

    `created` is when it was made, in seconds since the epoch, as far as the cache says.
    """

    descriptor: Descriptor
    diff_id: Digest
    created: float | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """An imported cache. Records are looked up in `document`; `blobs` are what its layers' digests mean.

    `origin` is what `Store.fetch` gets a blob by.
    """

    name: str
    document: CacheDocument
    blobs: Mapping[Digest, CacheBlob]
    origin: str


def title(kind: str, attributes: Attributes) -> str:
    """What a step that reads the cache is called."""
    match kind:
        case "registry" | "inline":
            return f"importing cache manifest from {attributes.get('ref', '')}"
        case "s3":
            return f"importing cache manifest from s3:{attributes.get('bucket', '')}"
        case _:
            return f"importing cache manifest from {kind}:{attributes.get('src', '')}"


def open_cache(kind: str, attributes: Attributes, registry: "Registry") -> list[Cache]:
    """The caches that `--cache-from` names; several where an index has images with inline caches. Blocks.

    Raises InvalidInput for attributes that are wrong, NotFound, RegistryError, IntegrityError.
    """
    match kind:
        case "registry" | "inline":
            if not attributes.get("ref"):
                raise InvalidInput(f"a cache of type {kind} needs ref=IMAGE to be read from")
            reference = parse_reference(attributes["ref"])
            origin = f"{CACHE_ORIGIN}docker-image://{reference.name}"
            return _read(reference.familiar, InRegistry(registry, reference), origin)
        case "local":
            return _read_local(attributes)
        case "s3":
            from kedge.sources.s3_cache import read_s3

            return [read_s3(attributes)]
        case _:
            raise InvalidInput(f"unknown cache type {kind[:40]!r}")


# ---- documents -------------------------------------------------------------------------------------------------------


class InRegistry:
    """A repository's documents."""

    def __init__(self, registry: "Registry", reference: "Reference") -> None:
        self._registry, self._reference = registry, reference

    def root(self) -> tuple[Descriptor, bytes]:
        document = self._registry.manifest(self._reference)
        return document.descriptor, document.data

    def manifest(self, descriptor: Descriptor) -> bytes:
        pinned = self._reference.with_digest(descriptor.digest)
        return self._registry.manifest(pinned, replace(descriptor, platform=None, annotations=())).data

    def blob(self, descriptor: Descriptor) -> bytes:
        return self._registry.read_blob(self._reference, descriptor, LARGEST)


class InLayout:
    """A directory's documents."""

    def __init__(self, layout: Any, tag: str, digest: Digest | None) -> None:
        self._layout, self._tag, self._digest = layout, tag, digest

    def root(self) -> tuple[Descriptor, bytes]:
        descriptor = self._layout.find("" if self._digest else self._tag, self._digest)
        return descriptor, self._layout.read(descriptor)

    def manifest(self, descriptor: Descriptor) -> bytes:
        data: bytes = self._layout.read(descriptor)
        return data

    def blob(self, descriptor: Descriptor) -> bytes:
        data: bytes = self._layout.read(descriptor, LARGEST)
        return data


def _read_local(attributes: Attributes) -> list[Cache]:
    from kedge.sources.oci_layout import open_layout

    if not attributes.get("src"):
        raise InvalidInput("a cache of type local needs src=DIRECTORY to be read from")
    path = Path(attributes["src"]).absolute()
    digest = parse_digest(attributes["digest"]) if attributes.get("digest") else None
    with open_layout(str(path)) as layout:
        documents = InLayout(layout, attributes.get("tag", "latest"), digest)
        return _read(str(path), documents, f"{CACHE_ORIGIN}oci-layout://{path}")


def _read(name: str, documents: "InRegistry | InLayout", origin: str) -> list[Cache]:
    root, data = documents.root()
    if root.media_type in INDEXES:
        entries = Index.from_bytes(data, root.media_type).manifests
        config = next((entry for entry in entries if entry.media_type == CACHE_CONFIG), None)
        layers = [entry for entry in entries if entry.media_type != CACHE_CONFIG]
        if config is None:
            return list(_read_inline(name, documents, root, data, origin))
    elif root.media_type in MANIFESTS:
        manifest = Manifest.from_bytes(data, root.media_type)
        if manifest.config.media_type != CACHE_CONFIG:
            return list(_read_inline(name, documents, root, data, origin))
        config, layers = manifest.config, list(manifest.layers)
    else:
        raise IntegrityError(f"{name} is neither a cache nor an image")
    return [Cache(name, CacheDocument.from_bytes(documents.blob(config)), _blobs(layers), origin)]


def _blobs(layers: list[Descriptor]) -> dict[Digest, CacheBlob]:
    """The layers that say what they are when unpacked; others cannot be checked, and are left out."""
    blobs = {}
    for layer in layers:
        notes = dict(layer.annotations)
        if notes.get(UNCOMPRESSED) and layer.media_type in COMPRESSION_OF:
            blobs[layer.digest] = cache_blob(layer, parse_digest(notes[UNCOMPRESSED]), notes.get(CREATED, ""))
    return blobs


def cache_blob(layer: Descriptor, diff_id: Digest, created: str = "") -> CacheBlob:
    """A layer of a cache, without what is only said about it; `created` as RFC 3339."""
    return CacheBlob(replace(layer, annotations=(), platform=None), diff_id, _seconds(created))


def _seconds(text: str) -> float | None:
    """A time as seconds since the epoch; None for what is none, which costs nobody anything."""
    import datetime

    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


# ---- inline ----------------------------------------------------------------------------------------------------------


def _read_inline(
    name: str, documents: "InRegistry | InLayout", root: Descriptor, data: bytes, origin: str
) -> Iterator[Cache]:
    """The caches in the configs of an image's platforms. Raises NotFound when there is none at all."""
    manifests = [(root, data)]
    if root.media_type in INDEXES:
        entries = [e for e in Index.from_bytes(data, root.media_type).manifests if e.media_type in MANIFESTS]
        entries = [e for e in entries if e.platform is None or e.platform.os != "unknown"]
        manifests = [(entry, documents.manifest(entry)) for entry in entries[:50]]
    found = False
    for descriptor, document in manifests:
        manifest = Manifest.from_bytes(document, descriptor.media_type)
        config = ImageConfig.from_bytes(documents.blob(manifest.config))
        text = dict(config.extra).get(INLINE_FIELD)
        if text and len(config.diff_ids) == len(manifest.layers):
            found = True
            yield _inline_cache(name, text, config, manifest, origin)
    if not found:
        raise NotFound(f"{name} is an image without a cache in it", hint="Write one with --cache-to type=inline.")


def _inline_cache(name: str, text: str, config: ImageConfig, manifest: Manifest, origin: str) -> Cache:
    layers = tuple(CacheLayer(layer.digest, index - 1) for index, layer in enumerate(manifest.layers))
    chains = [tuple(range(index + 1)) for index in range(len(layers))]
    try:
        entries = json.loads(base64.b64decode(json.loads(text), validate=True))
        records = read_records(entries, chains)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidDigest) as error:
        raise IntegrityError(f"the cache in {name} cannot be read: {error}") from None
    times = [entry.created for entry in config.history if not entry.empty_layer]
    times += [""] * (len(layers) - len(times))
    parts = zip(manifest.layers, config.diff_ids, times, strict=False)
    blobs = {layer.digest: cache_blob(layer, diff_id, created) for layer, diff_id, created in parts}
    return Cache(name, CacheDocument(layers, records), blobs, origin)


__all__ = ["Cache", "CacheBlob", "cache_blob", "open_cache", "title"]
