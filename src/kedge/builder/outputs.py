"""What becomes of the built stages: each `--output` through its exporter.

Owns the choice of exporters and the summary of what they made. Does not know formats.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kedge.builder.parts import Parts
from kedge.builder.request import BuiltImage, BuiltLayer, Output
from kedge.builder.steps import step
from kedge.dockerfile.lower import Target
from kedge.exporters.assemble import Assembled, Stage
from kedge.exporters.image import Exported
from kedge.exporters.options import ImageOptions, read_options
from kedge.model.errors import InvalidInput
from kedge.model.graph import Snapshot
from kedge.model.image import Descriptor
from kedge.model.value import dataclass, field
from kedge.sources.handler import Work


@dataclass
class Built:
    """What all exporters made, summed up."""

    images: tuple[BuiltImage, ...] = ()
    names: tuple[str, ...] = ()
    target: Descriptor | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


_INLINE_CACHE = "moby.buildkit.cache.v0"
_TITLES = {
    "image": "exporting to image",
    "registry": "exporting to image",
    "oci": "exporting to oci image format",
    "docker": "exporting to docker image format",
    "local": "exporting to client directory",
    "tar": "exporting to client tarball",
}


def export(parts: Parts, targets: Sequence[Target], snapshots: Sequence[Snapshot]) -> Built:
    """Make every output. Raises KedgeError; an output that failed leaves nothing whole behind."""
    outputs = parts.request.outputs or (Output("image"),)
    stages = [
        Stage(target.config, snapshot, target.base, target.epoch)
        for target, snapshot in zip(targets, snapshots, strict=True)
    ]
    if parts.request.cache_to or any(_INLINE_CACHE in dict(stage.config.extra) for stage in stages):
        stages = [parts.caches.with_inline(stage) for stage in stages]
    built = Built()
    with ExitStack() as stack:
        for output in outputs:
            if output.kind == "cacheonly":
                continue
            title = _TITLES.get(output.kind)
            if title is None:
                raise InvalidInput(f"unknown output type {output.kind[:40]!r}")
            work = stack.enter_context(step(parts.report, parts.trunk.cancel, title))
            exported = _export(parts, output, stages, work)
            stack.close()
            if exported is not None:
                _note(parts, built, exported, stages)
    return built


def _export(parts: Parts, output: Output, stages: list[Stage], work: Work) -> Exported | None:
    request = parts.request
    annotations = tuple(
        (key if key.startswith("annotation") else _annotation(key), value) for key, value in request.annotations
    )
    options = read_options((*annotations, *output.attrs), request.tags)
    return _EXPORTERS[output.kind](parts, output, stages, options, work)


def _annotation(key: str) -> str:
    """`--annotation [TYPE:]KEY` as an output attribute: `annotation[-TYPE].KEY`."""
    kind, colon, name = key.partition(":")
    return f"annotation-{kind}.{name}" if colon and kind.split("[")[0] in _ANNOTATED else f"annotation.{key}"


_ANNOTATED = ("manifest", "index", "manifest-descriptor", "index-descriptor")

Exporter = Callable[[Parts, Output, list[Stage], ImageOptions, Work], Exported | None]


def _image(parts: Parts, output: Output, stages: list[Stage], options: ImageOptions, work: Work) -> Exported | None:
    if options.push:
        return _registry(parts, output, stages, options, work)
    from kedge.exporters.image import export_image

    return export_image(parts.store, stages, options, work)


def _registry(parts: Parts, output: Output, stages: list[Stage], options: ImageOptions, work: Work) -> Exported | None:
    """Push; an output of type image is put into the store under its names as well."""
    from kedge.exporters.image import assemble_all, layer_compression, record_image
    from kedge.exporters.push import push

    if not options.names:
        raise InvalidInput("an image without a name cannot be pushed", hint="Name it: -t REGISTRY/NAME:TAG.")
    exported = assemble_all(parts.store, stages, options, layer_compression(options) or "gzip", work)
    if output.kind == "image":  # in the store as it is pushed: one digest everywhere
        record_image(parts.store, exported, work)
    made = [document for image in exported.images for document in (image.config_document, image.manifest_document)]
    documents = {document.descriptor.digest: document.data for document in (*made, exported.document)}
    push(
        parts.store,
        parts.registry,
        exported.target,
        exported.names,
        work,
        documents=documents,
        compression=layer_compression(options) or "gzip",
        level=options.level,
    )
    return exported


def _archive(parts: Parts, output: Output, stages: list[Stage], options: ImageOptions, work: Work) -> Exported | None:
    from kedge.exporters.archive import export_archive

    docker = output.kind == "docker"
    if output.destination is not None:
        return export_archive(parts.store, stages, options, output.destination, work, docker=docker)
    if not docker:
        raise InvalidInput("an output of type oci needs dest=FILE, or dest=- for standard output")
    from kedge.exporters.engine import loading

    with loading(work) as stream:
        return export_archive(parts.store, stages, options, stream, work, docker=True)


def _local(parts: Parts, output: Output, stages: list[Stage], options: ImageOptions, work: Work) -> Exported | None:
    from kedge.exporters.files import export_local

    if not isinstance(output.destination, Path):
        raise InvalidInput("an output of type local needs dest=DIRECTORY")
    export_local(parts.store, stages, options, output.destination, work)
    return None


def _tar(parts: Parts, output: Output, stages: list[Stage], options: ImageOptions, work: Work) -> Exported | None:
    from kedge.exporters.files import export_tar

    if output.destination is None:
        raise InvalidInput("an output of type tar needs dest=FILE, or dest=- for standard output")
    export_tar(parts.store, stages, options, output.destination, work)
    return None


_EXPORTERS: dict[str, Exporter] = {
    "image": _image,
    "registry": _registry,
    "oci": _archive,
    "docker": _archive,
    "local": _local,
    "tar": _tar,
}


def _note(parts: Parts, built: Built, exported: Exported, stages: list[Stage]) -> None:
    built.images = tuple(
        _summary(parts, image, stage.clamp) for image, stage in zip(exported.images, stages, strict=True)
    )
    built.names = tuple(str(name) for name in exported.names)
    built.target = exported.target
    built.metadata |= exported.metadata


def _summary(parts: Parts, image: Assembled, clamp: int) -> BuiltImage:
    texts = [entry.created_by for entry in image.config.history if not entry.empty_layer]
    diffs = [parts.store.layers.diff_id(layer, clamp=clamp) for layer in image.layers]  # known: the export asked too
    layers = tuple(BuiltLayer(diff_id, size, text) for (diff_id, size), text in zip(diffs, texts, strict=False))
    return BuiltImage(image.id, image.config.platform, image.manifest_document.descriptor, layers)
