"""A root file system tar becomes an image: `kedge import`.

Owns the one-layer image and the instructions that may shape its config (`--change`). Does not know where the tar
comes from.
"""

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from kedge.dockerfile.lower import lower
from kedge.dockerfile.options import LowerOptions
from kedge.dockerfile.parser import parse
from kedge.dockerfile.stages import read_stages
from kedge.exporters.assemble import Stage
from kedge.exporters.image import Exported, Steps, export_image
from kedge.exporters.options import ImageOptions
from kedge.images.changes import check_changes
from kedge.model.errors import InvalidInput
from kedge.model.image import OCI_LAYER, Descriptor, History, ImageConfig
from kedge.model.platform import Platform
from kedge.model.reference import Reference
from kedge.model.value import replace
from kedge.storage.compression import decompressed
from kedge.storage.store import Store

_CHUNK = 1 << 20


def import_root(
    store: Store,
    stream: BinaryIO,
    platform: Platform,
    steps: Steps,
    names: Sequence[Reference] = (),
    changes: Sequence[str] = (),
    message: str = "",
    labels: Mapping[str, str] | None = None,
) -> Exported:
    """Make an image of the tar in `stream` (plain, gzip, bzip2, xz or zstd): one layer, and the config the changes
    give.

    Raises InvalidInput for a change that is no instruction of `changes.CHANGES`, IntegrityError for what is no tar,
    StoreError.
    """
    config = _config(platform, changes, labels or {})
    layer_blob = _ingest(store, stream)
    layer = store.layers.declare(layer_blob.digest, layer_blob)
    store.layers.directory(layer)  # unpacked now: a damaged archive must fail here, not in the build that uses it
    history = (History("", message or "Imported from a root file system archive"),)
    stage = Stage(replace(config, history=history), (layer,))
    return export_image(store, [stage], ImageOptions(names=tuple(names)), steps)


def _ingest(store: Store, stream: BinaryIO) -> Descriptor:
    """Keep the plain tar as a blob, whose digest is then the layer's diff id."""
    plain = decompressed(stream)
    size = 0
    with store.blobs.writer() as writer:
        while chunk := plain.read(_CHUNK):
            writer.write(chunk)
            size += len(chunk)
        if not size:
            raise InvalidInput("the archive to import is empty")
        return Descriptor(OCI_LAYER, writer.commit(), size)


def _config(platform: Platform, changes: Sequence[str], labels: Mapping[str, str]) -> ImageConfig:
    """The changes are read as the Dockerfile they would be."""
    check_changes(changes)
    text = "\n".join(["FROM scratch", *changes]) + "\n"
    file = read_stages(parse(text, "--change"))
    options = LowerOptions(labels=dict(labels), target_platform=platform, build_platform=platform)
    return lower(file, options, {}).config
