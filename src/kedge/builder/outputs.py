"""What becomes of the built stages: each `--output` through its exporter.

Owns the choice of exporters and the summary of what they made. Does not know formats.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.builder.parts import Parts
from kedge.builder.request import BuildRequest, BuiltImage, BuiltLayer, Output
from kedge.builder.steps import step
from kedge.dockerfile.lower import Target
from kedge.exporters.assemble import Assembled, Stage
from kedge.exporters.image import Exported
from kedge.exporters.options import ImageOptions, read_flag, read_options
from kedge.model.errors import InvalidInput
from kedge.model.graph import Snapshot
from kedge.model.image import Descriptor
from kedge.model.value import dataclass, field, replace
from kedge.sources.handler import Work

if TYPE_CHECKING:
    from kedge.builder.attestations import Attestor
    from kedge.builder.scans import Scan
    from kedge.exporters.attest import AttestationOptions, Predicate
    from kedge.storage.store import Store


@dataclass
class Built:
    """What all exporters made, summed up."""

    images: tuple[BuiltImage, ...] = ()
    names: tuple[str, ...] = ()
    target: Descriptor | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    exported: list[Exported | None] = field(default_factory=list)  # of each output; None where it is no image


_INLINE_CACHE = "moby.buildkit.cache.v0"
_TITLES = {
    "image": "exporting to image",
    "registry": "exporting to image",
    "oci": "exporting to oci image format",
    "docker": "exporting to docker image format",
    "local": "exporting to client directory",
    "tar": "exporting to client tarball",
}


def read_outputs(request: BuildRequest) -> None:
    """Raise what is wrong with the outputs, such as a name that is none: before anything is built."""
    for output in request.outputs or (Output("image"),):
        options = _options(request, output)
        if output.kind in ("oci", "docker", "local", "tar") and not _goes_to_engine(output):
            _check_destination(output, options.tar and output.kind != "local")


def _check_destination(output: Output, is_file: bool) -> None:
    """Raise what can be told of a place without writing to it."""
    place = output.destination
    if place is None:
        wanted = "dest=FILE, or dest=- for standard output" if is_file else "dest=DIRECTORY"
        raise InvalidInput(f"an output of type {output.kind} needs {wanted}")
    if not isinstance(place, Path):
        if not is_file:
            raise InvalidInput(f"an output of type {output.kind} that is a directory cannot go to a stream")
        return
    try:
        if is_file and place.is_dir():
            raise InvalidInput(f"cannot write {place}: Is a directory", hint="Name a file.")
        if is_file:
            place.parent.stat()
        elif place.exists() and not place.is_dir():
            raise InvalidInput(f"cannot write to {place}: Not a directory", hint="Name a directory.")
    except OSError as error:
        raise InvalidInput(f"cannot write {place}: {error.strerror}") from None


def attested(request: BuildRequest) -> "tuple[AttestationOptions, ...]":
    """The attestations that are asked for and that some output has a place for."""
    if not request.attestations:
        return ()
    from kedge.exporters.attest import read_attestations

    outputs = request.outputs or (Output("image"),)
    asked = read_attestations(request.attestations)
    return tuple(one for one in asked if any(_takes(output, one) for output in outputs))


def _takes(output: Output, attestation: "AttestationOptions") -> bool:
    """Whether the output has a place for the attestation, and it is meant for such an output."""
    if output.kind == "cacheonly" or _goes_to_engine(output):
        return False
    inline = output.kind in ("image", "registry")
    return not attestation.inline_only or read_flag(dict(output.attrs), "attestation-inline", inline)


def _goes_to_engine(output: Output) -> bool:
    return output.kind == "docker" and output.destination is None


def export(
    parts: Parts,
    targets: Sequence[Target],
    snapshots: Sequence[Snapshot],
    scans: "Sequence[Scan]" = (),
    given: "Sequence[Sequence[Predicate]]" = (),
) -> Built:
    """Make every output; `scans` as `scans.scan` has them, `given` are attestations that came with each target. Raises
    KedgeError; an output that failed leaves nothing whole behind.
    """
    outputs = parts.request.outputs or (Output("image"),)
    stages = [
        Stage(target.config, snapshot, target.base, target.epoch, parts.recorded_times)
        for target, snapshot in zip(targets, snapshots, strict=True)
    ]
    if parts.request.cache_to or any(_INLINE_CACHE in dict(stage.config.extra) for stage in stages):
        stages = [parts.caches.with_inline(stage) for stage in stages]
    built = Built()
    attestor = _attestor(parts, targets, stages, scans, given)
    with ExitStack() as stack:
        for output in outputs:
            if output.kind == "cacheonly":
                built.exported.append(None)
                continue
            title = _TITLES.get(output.kind)
            if title is None:
                raise InvalidInput(f"unknown output type {output.kind[:40]!r}")
            work = stack.enter_context(step(parts.report, parts.trunk.cancel, title))
            exported = _export(parts, output, stages, work, attestor)
            stack.close()
            built.exported.append(exported)
            if exported is not None:
                _note(parts, built, exported, stages)
    built.metadata |= attestor.metadata if attestor else {}
    return built


def _attestor(
    parts: Parts,
    targets: Sequence[Target],
    stages: Sequence[Stage],
    scans: "Sequence[Scan]",
    given: "Sequence[Sequence[Predicate]]",
) -> "Attestor | None":
    if not parts.request.attestations and not any(given):
        return None
    from kedge.builder.attestations import Attestor
    from kedge.exporters.attest import read_attestations

    asked = read_attestations(parts.request.attestations)
    return Attestor(parts, asked, targets, stages, scans, given) if asked or any(given) else None


def _export(
    parts: Parts, output: Output, stages: list[Stage], work: Work, attestor: "Attestor | None"
) -> Exported | None:
    options = _options(parts.request, output)
    asked = attestor.asked if attestor else ()
    if _goes_to_engine(output) and not all(one.inline_only for one in asked):
        work.log(b"attestations are left out: they do not go to an engine\n")
    if attestor:
        attestor = attestor.narrowed([one for one in asked if _takes(output, one)])
    return _EXPORTERS[output.kind](_Job(parts, output, stages, options, work, attestor))


def _options(request: BuildRequest, output: Output) -> ImageOptions:
    annotations = tuple(
        (key if key.startswith("annotation") else _annotation(key), value) for key, value in request.annotations
    )
    options = read_options((*annotations, *output.attrs), request.tags)
    return replace(options, index=request.multi_platform and output.kind in _INDEXED)


def _annotation(key: str) -> str:
    """`--annotation [TYPE:]KEY` as an output attribute: `annotation[-TYPE].KEY`."""
    kind, colon, name = key.partition(":")
    return f"annotation-{kind}.{name}" if colon and kind.split("[")[0] in _ANNOTATED else f"annotation.{key}"


_INDEXED = ("image", "registry", "oci")  # what is made for Docker holds one image
_ANNOTATED = ("manifest", "index", "manifest-descriptor", "index-descriptor")


@dataclass
class _Job:
    """One output to be made."""

    parts: Parts
    output: Output
    stages: list[Stage]
    options: ImageOptions
    work: Work
    attestor: "Attestor | None"

    def attach(self, exported: Exported) -> Exported:
        """The export with its attestations."""
        return self.attestor.attach(exported, self.options) if self.attestor else exported

    @property
    def store(self) -> "Store":
        return self.parts.store


Exporter = Callable[[_Job], Exported | None]


def _image(job: _Job) -> Exported | None:
    if job.options.push:
        return _registry(job)
    from kedge.exporters.image import assemble_all, layer_compression, record_image

    # What is attested is named by its digest, which must not change when it is pushed: then layers are packed now.
    compression = layer_compression(job.options) or ("gzip" if job.attestor else None)
    exported = job.attach(assemble_all(job.store, job.stages, job.options, compression, job.work))
    if job.options.store:
        record_image(job.store, exported, job.work)
    return exported


def _registry(job: _Job) -> Exported | None:
    """Push; an output of type image is put into the store under its names as well.

    With push-by-digest, names are repositories only: nothing gets a tag, and the metadata tells the digest.
    """
    from kedge.exporters.image import assemble_all, layer_compression, record_image
    from kedge.exporters.push import publishable, push

    options, compression = job.options, layer_compression(job.options) or "gzip"
    if not options.names:
        raise InvalidInput("an image without a name cannot be pushed", hint="Name it: -t REGISTRY/NAME:TAG.")
    if options.push_by_digest:
        options = replace(options, names=tuple(dict.fromkeys(name.repository_only for name in options.names)))
    exported = job.attach(assemble_all(job.store, job.stages, options, compression, job.work))
    if (
        job.output.kind == "image" and options.store and not options.push_by_digest
    ):  # in the store as it is pushed: one digest everywhere
        record_image(job.store, exported, job.work)
    registry = job.parts.insecure_registry(options.names) if options.insecure else job.parts.registry
    published = publishable(job.store, exported.target, exported.documents, compression, options.level)
    push(job.store, registry, published, exported.names, job.work, referrers=exported.referrers)
    return exported


def _archive(job: _Job) -> Exported | None:
    from kedge.exporters.archive import export_archive

    docker = job.output.kind == "docker"
    if job.output.destination is not None:
        attach = job.attach if job.attestor else None
        return export_archive(
            job.store, job.stages, job.options, job.output.destination, job.work, docker=docker, attach=attach
        )
    from kedge.exporters.engine import loading
    from kedge.exporters.load import find_engine

    if engine := find_engine():
        from kedge.exporters.archive import load_into

        return load_into(engine, job.store, job.stages, job.options, job.work)
    with loading(job.work) as stream:
        return export_archive(job.store, job.stages, job.options, stream, job.work, docker=True)


def _local(job: _Job) -> Exported | None:
    from kedge.exporters.files import export_local

    assert isinstance(job.output.destination, Path)  # `_check_destination`
    beside = job.attestor.beside_files if job.attestor else None
    export_local(job.store, job.stages, job.options, job.output.destination, job.work, beside)
    return None


def _tar(job: _Job) -> Exported | None:
    from kedge.exporters.files import export_tar

    assert job.output.destination is not None  # `_check_destination`
    beside = job.attestor.beside_files if job.attestor else None
    export_tar(job.store, job.stages, job.options, job.output.destination, job.work, beside)
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
