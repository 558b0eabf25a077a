"""An image as the JSON that `docker image inspect` prints.

Owns the shape of that document (Docker Engine API, ImageInspect). Does not print it.
"""

from collections.abc import Iterable
from typing import Any

from kedge.exporters.assemble import timestamp
from kedge.images.lookup import StoredImage, shown_name
from kedge.model.digest import Digest
from kedge.model.image import container_config_json
from kedge.model.reference import parse_reference
from kedge.storage.store import Store


def image_size(store: Store, image: StoredImage) -> int:
    """Bytes of all layers' uncompressed tars, as far as they are known; of layers never unpacked, the blob's size."""
    return sum(layer_size(store, image, diff_id) for diff_id in image.config.diff_ids)


def layer_size(store: Store, image: StoredImage, diff_id: Digest) -> int:
    """Bytes of one of its layers, as `image_size` counts them."""
    blob = image.manifest.layers[image.config.diff_ids.index(diff_id)]
    layer = store.layers.find(diff_id)
    info = store.layers.info(layer) if layer else None
    return blob.size if info is None or info.size is None else info.size


def inspect(store: Store, image: StoredImage) -> dict[str, Any]:
    """The document for one image."""
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": [shown_name(name) for name in image.names if "@" not in name],
        "RepoDigests": repo_digests(image.names, image.record.target.digest),
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


def repo_digests(names: Iterable[str], target: Digest) -> list[str]:
    """Names pinned by digest: those that registries are known to have it under, which a push may have made anew; for
    repositories without, by the digest it has here.
    """
    references = [parse_reference(name) for name in names]
    pinned = {f"{each.familiar_name}@{each.digest}" for each in references if each.digest}
    told = {each.familiar_name for each in references if each.digest}
    return sorted(pinned | {f"{each.familiar_name}@{target}" for each in references if each.familiar_name not in told})
