"""Images out of an archive: `kedge load`.

Owns both formats that are met: OCI image layouts and `docker save` archives of every age, told apart by the files in
them. Streams: every file of the archive becomes a verified blob, then the documents say what the blobs are. Nothing
gets a name unless all of its image is there. Does not unpack layers.
"""

import json
import posixpath
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from kedge.model.digest import Digest, hex_part, parse_digest
from kedge.model.errors import IntegrityError, InvalidDigest, InvalidReference
from kedge.model.image import (
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    referring,
)
from kedge.model.reference import parse_reference
from kedge.model.value import dataclass, field
from kedge.storage import tar_format
from kedge.storage.compression import decompressed, detect
from kedge.storage.images import ImageRecord
from kedge.storage.layers import Declared
from kedge.storage.store import Store
from kedge.storage.tar_reader import Limits, TarReader

_DOCUMENT_LIMIT = 16 << 20  # bytes; no image document is longer
_FOLLOWED = 8  # symlinks from one layer.tar to the next, in archives of old Docker versions
_LAYER_TYPES = {"uncompressed": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image that was loaded: its names in full form (none: it is known by its id only)."""

    id: Digest
    target: Descriptor
    names: tuple[str, ...]


@dataclass(slots=True)
class _Contents:
    """The archive's files by normalized path: digest and size of each, and where links point."""

    files: dict[str, tuple[Digest, int]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def load(store: Store, stream: BinaryIO) -> list[Loaded]:
    """Load every image of the archive in `stream`, plain or compressed.

    Raises IntegrityError for an archive that is damaged, incomplete or holds no image, StoreError.
    """
    contents = _ingest(store, stream)
    found = list(_images(store, contents))
    if not found:
        raise IntegrityError("the archive holds no image", hint="Expected an OCI layout or what `docker save` writes.")
    for image in found:
        _record(store, image)
    for subject, listed in _referrers(store, contents):
        store.images.add_referrer(subject, listed)
    return found


def _ingest(store: Store, stream: BinaryIO) -> _Contents:
    contents = _Contents()
    reader = TarReader(decompressed(stream), Limits())
    for entry in reader:
        path = posixpath.normpath(entry.name.decode("utf-8", "surrogateescape")).lstrip("/")
        if entry.kind in (tar_format.SYMLINK, tar_format.HARD_LINK):
            target = entry.link.decode("utf-8", "surrogateescape")
            base = posixpath.dirname(path) if entry.kind == tar_format.SYMLINK else ""
            contents.links[path] = posixpath.normpath(posixpath.join(base, target)).lstrip("/")
        elif entry.kind == tar_format.FILE:
            with store.blobs.writer(_promise(path, entry.size)) as writer:
                writer.restart()
                for piece in reader.read_data():
                    writer.write(piece)
                contents.files[path] = (writer.commit(), entry.size)
    return contents


def _promise(path: str, size: int) -> Descriptor | None:
    """What a file of a layout's blobs folder must be; None for files that promise nothing."""
    parts = path.split("/")
    if len(parts) != 3 or parts[0] != "blobs":
        return None
    try:
        return Descriptor("", parse_digest(f"{parts[1]}:{parts[2]}"), size)
    except InvalidDigest:
        return None


def _images(store: Store, contents: _Contents) -> Iterator[Loaded]:
    docker = list(_docker_images(store, contents)) if "manifest.json" in contents.files else []
    if "index.json" not in contents.files:
        yield from docker
        return
    names = {image.id: image.names for image in docker}
    loaded: dict[Digest, Loaded] = {}
    for entry in Index.from_bytes(_read(store, contents, "index.json")).manifests:
        image = None if _about(store, entry) else _layout_image(store, entry, names)
        if image is None:
            continue
        known = loaded.get(image.target.digest)
        both = dict.fromkeys((*(known.names if known else ()), *image.names))
        loaded[image.target.digest] = Loaded(image.id, image.target, tuple(both))
    yield from loaded.values()


def _referrers(store: Store, contents: _Contents) -> Iterator[tuple[Digest, Descriptor]]:
    """What the archive holds about its images, whole: subjects, and manifests about them."""
    entries = Index.from_bytes(_read(store, contents, "index.json")).manifests if "index.json" in contents.files else ()
    for entry in entries:
        if about := _about(store, entry):
            manifest = Manifest.from_bytes(store.blobs.read(entry.digest, _DOCUMENT_LIMIT))
            if all(store.blobs.has(blob.digest) for blob in (manifest.config, *manifest.layers)):
                yield about


def _about(store: Store, entry: Descriptor) -> tuple[Digest, Descriptor] | None:
    if entry.media_type not in MANIFESTS or not store.blobs.has(entry.digest):
        return None
    return referring(entry, store.blobs.read(entry.digest, _DOCUMENT_LIMIT))


def _read(store: Store, contents: _Contents, path: str) -> bytes:
    for _ in range(_FOLLOWED):
        if path in contents.files:
            return store.blobs.read(contents.files[path][0], _DOCUMENT_LIMIT)
        path = contents.links.get(path, "")
    raise IntegrityError("the archive lacks a file that its own documents name")


# ---- OCI layout ----


def _layout_image(store: Store, entry: Descriptor, docker_names: dict[Digest, tuple[str, ...]]) -> Loaded | None:
    """One entry of index.json, with its layers declared; None for what is no image (an attestation, an artifact)."""
    notes = dict(entry.annotations)
    target = Descriptor(entry.media_type, entry.digest, entry.size)
    manifests = list(_declare(store, target))
    if not manifests:
        return None
    id = manifests[0].config.digest
    name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name", "")
    return Loaded(id, target, tuple(dict.fromkeys((*_full_names([name]), *docker_names.get(id, ())))))


def _full_names(texts: Sequence[str]) -> list[str]:
    """Those that name an image: a bare tag, as layouts use it, has no repository to belong to."""
    names = []
    for text in texts:
        if "/" in text or ":" in text:
            try:
                names.append(str(parse_reference(text)))
            except InvalidReference:
                continue
    return names


def _declare(store: Store, target: Descriptor) -> Iterator[Manifest]:
    if not store.blobs.has(target.digest):
        return
    data = store.blobs.read(target.digest, _DOCUMENT_LIMIT)
    if target.media_type in INDEXES:
        for child in Index.from_bytes(data, target.media_type).manifests:
            yield from _declare(store, child)
        return
    if target.media_type not in MANIFESTS:
        return
    manifest = Manifest.from_bytes(data, target.media_type)
    if not store.blobs.has(manifest.config.digest) or manifest.artifact_type:
        return
    config = store.blobs.read(manifest.config.digest, _DOCUMENT_LIMIT)
    if b'"diff_ids"' in config and "in-toto" not in manifest.config.media_type:
        _declare_layers(store, ImageConfig.from_bytes(config), manifest)
        yield manifest


def _declare_layers(store: Store, config: ImageConfig, manifest: Manifest) -> None:
    if len(config.diff_ids) != len(manifest.layers):
        raise IntegrityError("an image's config and manifest do not agree on the number of layers")
    pairs = list(zip(config.diff_ids, manifest.layers, strict=True))
    for diff_id, layer in pairs:
        if not store.blobs.has(layer.digest) and store.layers.find(diff_id) is None:
            raise IntegrityError(f"the archive lacks the layer {layer.digest}")
    store.layers.declare_all(Declared(diff_id, layer) for diff_id, layer in pairs)


# ---- docker save ----


def _docker_images(store: Store, contents: _Contents) -> Iterator[Loaded]:
    try:
        entries = json.loads(_read(store, contents, "manifest.json"))
        for entry in entries:
            yield _docker_image(store, contents, entry)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise IntegrityError("the archive's manifest.json is malformed") from None


def _docker_image(store: Store, contents: _Contents, entry: dict[str, Any]) -> Loaded:
    data = _read(store, contents, posixpath.normpath(entry["Config"]))
    config = ImageConfig.from_bytes(data)
    layers = tuple(_layer(store, contents, posixpath.normpath(path)) for path in entry["Layers"] or ())
    manifest = Manifest(Descriptor(OCI_CONFIG, store.blobs.put(data), len(data)), layers, OCI_MANIFEST)
    _declare_layers(store, config, manifest)
    document = manifest.to_bytes()
    target = Descriptor(OCI_MANIFEST, store.blobs.put(document), len(document))
    return Loaded(manifest.config.digest, target, tuple(_full_names(entry.get("RepoTags") or ())))


def _layer(store: Store, contents: _Contents, path: str) -> Descriptor:
    for _ in range(_FOLLOWED):
        if found := contents.files.get(path):
            digest, size = found
            with store.blobs.open(digest) as stream:
                kind = detect(stream.read(6))
            if kind not in _LAYER_TYPES:
                short = hex_part(digest)[:12]
                raise IntegrityError(f"layer {short} is compressed in a way that images do not use: {kind}")
            return Descriptor(_LAYER_TYPES[kind], digest, size)
        path = contents.links.get(path, "")
    raise IntegrityError("the archive lacks a layer that its manifest.json names")


def _record(store: Store, image: Loaded) -> None:
    now = time.time()
    for name in image.names or (image.id,):
        store.images.set(ImageRecord(name, image.target, image.id, now))
