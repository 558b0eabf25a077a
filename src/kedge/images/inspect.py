"""An image as the JSON that `docker image inspect` prints.

Owns the shape of that document (Docker Engine API, ImageInspect). Does not print it.
"""

from typing import Any

from kedge.exporters.assemble import timestamp
from kedge.images.lookup import StoredImage, shown_name
from kedge.model.image import container_config_json
from kedge.model.reference import parse_reference
from kedge.storage.store import Store


def image_size(store: Store, image: StoredImage) -> int:
    """Bytes of all layers' uncompressed tars, as far as they are known; of layers never unpacked, the blob's size."""
    total = 0
    for diff_id, blob in zip(image.config.diff_ids, image.manifest.layers, strict=True):
        layer = store.layers.find(diff_id)
        info = store.layers.info(layer) if layer else None
        total += blob.size if info is None or info.size is None else info.size
    return total


def inspect(store: Store, image: StoredImage) -> dict[str, Any]:
    """The document for one image."""
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": [shown_name(name) for name in image.names],
        "RepoDigests": _digests(image),
        "Parent": "",
        "Comment": config.history[-1].comment if config.history else "",
        "Created": config.created,
        "Author": config.author,
        "Architecture": config.platform.architecture,
        **({"Variant": config.platform.variant} if config.platform.variant else {}),
        "Os": config.platform.os,
        "Size": image_size(store, image),
        "Config": container_config_json(config),
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "Metadata": {"LastTagTime": timestamp(int(image.record.created_at))},
        "Descriptor": image.record.target.to_json(),
    }


def _digests(image: StoredImage) -> list[str]:
    """Names pinned by digest, for images that a registry knows under it: built ones are none until they are pushed."""
    repositories = {parse_reference(name).repository_only for name in image.names}
    return sorted(f"{r.familiar_name}@{image.record.target.digest}" for r in repositories)
