"""From a name's target to one image: the platform's pick out of an index, its config, its layers.

Owns the checks that hold wherever an image comes from. Does not know registries or layouts: `Documents` brings the
bytes.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from kedge.model.digest import Digest, digest_of, sha256
from kedge.model.errors import IntegrityError, InvalidInput, NotFound, Unsupported
from kedge.model.image import (
    COMPRESSION_OF,
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_LAYER,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
)
from kedge.model.platform import Platform, best_match, normalize
from kedge.model.value import dataclass, replace

if TYPE_CHECKING:
    from kedge.model.graph import Snapshot
    from kedge.storage.store import Store

_CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG, ""})
_DEEPEST: Final = 4  # indexes within indexes
_LAYERS: Final = 10_000
_DIGITS: Final = 10
# Layers that were once meant to come from elsewhere. Their URLs are never followed (CVE-2020-15157): the registry has
# them or not.
_FOREIGN: Final = {
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": DOCKER_LAYER_GZIP,
    "application/vnd.oci.image.layer.nondistributable.v1.tar": OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": OCI_LAYER + "+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": OCI_LAYER + "+zstd",
}


class Documents(Protocol):
    """Where manifests and configs come from. Both block, verify, and are idempotent."""

    def manifest(self, descriptor: Descriptor) -> bytes: ...
    def config(self, descriptor: Descriptor) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PickedImage:
    """An image for one platform. `target` is what the name points at (an index or a manifest): what to pin the name by.

    `descriptor` is the manifest picked out of it; `config_data` are the config's bytes as published. `limit` is to how
    many of its layers it was limited, if it was.
    """

    name: str
    target: Descriptor
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    config_data: bytes
    limit: int = 0

    @property
    def key(self) -> Digest:
        """What the image's files are: equal for all images with the same layers, however those are compressed."""
        return digest_of(("layers", self.config.diff_ids))


def limited(image: PickedImage, limit: str) -> PickedImage:
    """The image with its lowest layers only, as many as `limit` says; all if it is empty. Raises InvalidInput."""
    if not limit:
        return image
    layers = image.manifest.layers
    if not (limit.isascii() and limit.isdigit() and len(limit) < _DIGITS and int(limit)):
        raise InvalidInput(f"invalid layer limit {limit[:40]!r}")
    if int(limit) > len(layers):
        raise InvalidInput(f"layer limit {limit} is greater than the number of layers in the image {len(layers)}")
    count = int(limit)
    manifest = replace(image.manifest, layers=layers[:count])
    config = replace(image.config, diff_ids=image.config.diff_ids[:count])
    return replace(image, manifest=manifest, config=config, limit=count)


def buildkit_names(image: PickedImage, platform: Platform) -> tuple[str, ...]:
    """What BuildKit calls the image (source/containerimage): by its layers, and by its manifest for a platform."""
    plain = normalize(platform.os, platform.architecture, platform.variant)
    fields: dict[str, str | int] = {"Digest": image.target.digest, "OS": plain.os, "Arch": plain.architecture}
    fields |= {"Variant": plain.variant} if plain.variant else {}
    fields |= {"Limit": image.limit} if image.limit else {}
    manifest = sha256(json.dumps(fields, separators=(",", ":")).encode())
    chain = ""  # OCI image specification, config.md, Layer ChainID
    for diff_id in image.config.diff_ids:
        chain = sha256(f"{chain} {diff_id}".encode()) if chain else diff_id
    return (chain, manifest) if chain else (manifest,)


def pick_image(name: str, target: Descriptor, documents: Documents, platform: Platform) -> PickedImage:
    """The image for `platform` that `target` is or lists; `name` is for messages.

    Raises NotFound for a platform that is not offered, Unsupported for an artifact that is no image, IntegrityError.
    """
    descriptor, manifest = _pick_manifest(name, target, documents, platform)
    if manifest.config.media_type not in _CONFIGS:
        raise Unsupported(f"{name} is no image but an artifact of type {manifest.config.media_type[:100]}")
    data = documents.config(manifest.config)
    config = ImageConfig.from_bytes(data)
    if len(config.diff_ids) != len(manifest.layers):
        raise IntegrityError(f"{name} lists {len(manifest.layers)} layers, but its config {len(config.diff_ids)}")
    layers = tuple(_usable_layer(name, layer) for layer in manifest.layers)
    return PickedImage(name, target, descriptor, replace(manifest, layers=layers), config, data)


def _pick_manifest(
    name: str, target: Descriptor, documents: Documents, platform: Platform
) -> tuple[Descriptor, Manifest]:
    descriptor = target
    for _ in range(_DEEPEST):
        data = documents.manifest(descriptor)
        if descriptor.media_type in MANIFESTS:
            manifest = Manifest.from_bytes(data, descriptor.media_type)
            if len(manifest.layers) > _LAYERS:
                raise IntegrityError(f"{name} has more than {_LAYERS} layers")
            return descriptor, manifest
        if descriptor.media_type not in INDEXES:
            break
        descriptor = _pick_entry(name, Index.from_bytes(data, descriptor.media_type).manifests, platform)
    raise Unsupported(f"{name} is no image but a {descriptor.media_type[:100]}")


def _pick_entry(name: str, entries: Sequence[Descriptor], platform: Platform) -> Descriptor:
    images = [entry for entry in entries if entry.media_type in MANIFESTS | INDEXES]
    images = [entry for entry in images if entry.platform is None or entry.platform.os != "unknown"]  # attestations
    offered = [entry.platform or Platform("", "") for entry in images]
    index = best_match(platform, offered)
    if index is not None:
        return images[index]
    if len(images) == 1 and images[0].platform is None:
        return images[0]  # an index of one that does not say for which platform
    names = ", ".join(dict.fromkeys(str(one) for one in offered if one.os)) or "none"
    raise NotFound(f"{name} has no image for {platform}", hint=f"It has: {names}.")


def _usable_layer(name: str, layer: Descriptor) -> Descriptor:
    layer = replace(layer, media_type=_FOREIGN.get(layer.media_type, layer.media_type))
    if layer.media_type not in COMPRESSION_OF:
        raise Unsupported(
            f"{name} has a layer of type {layer.media_type[:100]}, which is no image layer Kedge can read"
        )
    return layer


def declare_layers(store: "Store", image: PickedImage, origin: str) -> "Snapshot":
    """The image's layers in the store, without their bytes, which `Store.fetch` gets from `origin` when they are
    needed.
    """
    from kedge.storage.layers import Declared

    def source(diff_id: Digest, layer: Descriptor) -> str:
        """No origin for what was made or loaded here: its name may mean nothing, or something else, to a registry."""
        ours = store.blobs.has(layer.digest) or (layer.digest == diff_id and store.layers.find(diff_id) is not None)
        return "" if ours and not store.layers.origins(layer.digest) else origin

    pairs = zip(image.config.diff_ids, image.manifest.layers, strict=True)
    return store.layers.declare_all([Declared(diff_id, layer, source(diff_id, layer)) for diff_id, layer in pairs])
