"""A checker of images: every document well formed, every blob what its name says, every layer what its config says.

Owns what is looked at: ships with the package, for tests and for those who doubt an archive. Does not know where an
image is (it reads through a function from descriptor to stream), and does not repair.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

from kedge.model.errors import IntegrityError, KedgeError
from kedge.model.image import COMPRESSION_OF, INDEXES, MANIFESTS, Descriptor, ImageConfig, Index, Manifest
from kedge.storage.compression import decompressed

Open: TypeAlias = Callable[[Descriptor], BinaryIO]
_CHUNK = 1 << 20
_DOCUMENT_LIMIT = 16 << 20


def validate_layout(directory: Path) -> list[str]:
    """The faults of an OCI image layout directory, one sentence each; empty when it is sound."""

    def blob(descriptor: Descriptor) -> BinaryIO:
        algorithm, _, digits = descriptor.digest.partition(":")
        return (directory / "blobs" / algorithm / digits).open("rb")

    try:
        index = Index.from_bytes((directory / "index.json").read_bytes())
    except (OSError, KedgeError) as error:
        return [f"index.json: {error}"]
    return [fault for entry in index.manifests for fault in validate(entry, blob)]


def validate(target: Descriptor, open_blob: Open) -> list[str]:
    """The faults of an image (manifest or index) and of all it refers to."""
    return list(_faults(target, open_blob))


def _faults(target: Descriptor, open_blob: Open) -> Iterator[str]:
    try:
        data = _document(target, open_blob)
        if target.media_type in INDEXES:
            for child in Index.from_bytes(data, target.media_type).manifests:
                yield from _faults(child, open_blob)
        elif target.media_type in MANIFESTS:
            yield from _image_faults(Manifest.from_bytes(data, target.media_type), open_blob)
        else:
            yield f"{target.digest}: {target.media_type} is neither a manifest nor an index"
    except (KedgeError, OSError) as error:
        yield f"{target.digest}: {error}"


def _document(descriptor: Descriptor, open_blob: Open) -> bytes:
    with open_blob(descriptor) as stream:
        data = stream.read(_DOCUMENT_LIMIT + 1)
    if len(data) != descriptor.size:
        raise IntegrityError(f"has {len(data)} bytes instead of {descriptor.size}")
    if hashlib.new(descriptor.digest.partition(":")[0], data).hexdigest() != descriptor.digest.partition(":")[2]:
        raise IntegrityError("has another digest")
    return data


def _image_faults(manifest: Manifest, open_blob: Open) -> Iterator[str]:
    config_data = _document(manifest.config, open_blob)
    if b"in-toto" in manifest.config.media_type.encode() or manifest.artifact_type:
        return
    config = ImageConfig.from_bytes(config_data)
    made_layers = sum(not entry.empty_layer for entry in config.history)
    if config.history and made_layers != len(manifest.layers):
        yield f"{manifest.config.digest}: history speaks of {made_layers} layers, not {len(manifest.layers)}"
    if len(config.diff_ids) != len(manifest.layers):
        yield f"{manifest.config.digest}: config and manifest do not agree on the number of layers"
        return
    for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
        yield from _layer_faults(layer, diff_id, open_blob)


class _Hashing:
    """A stream that hashes what is read through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.hash.update(data)
        self.size += len(data)
        return data


def _layer_faults(layer: Descriptor, diff_id: str, open_blob: Open) -> Iterator[str]:
    kind = COMPRESSION_OF.get(layer.media_type)
    if kind is None:
        yield f"{layer.digest}: {layer.media_type} is no layer"
        return
    plain = hashlib.sha256()
    try:
        with open_blob(layer) as stream:
            hashing = _Hashing(stream)
            reader = decompressed(hashing, format=kind)
            while chunk := reader.read(_CHUNK):
                plain.update(chunk)
            while hashing.read(_CHUNK):
                pass
    except (KedgeError, OSError) as error:
        yield f"{layer.digest}: {error}"
        return
    if (hashing.size, "sha256:" + hashing.hash.hexdigest()) != (layer.size, layer.digest):
        yield f"{layer.digest}: the blob is not what its descriptor says"
    if "sha256:" + plain.hexdigest() != diff_id:
        yield f"{layer.digest}: the config's diff id is {diff_id}, the layer's sha256:{plain.hexdigest()}"
