"""From a built stage to an image's documents: config, manifest, index.

Owns history, diff ids, times, media types and annotations of new images. Does not know where documents and blobs go,
nor what made the files.

Times. New layers' file times are lowered to `DEFAULT_EPOCH` and new documents carry it, unless SOURCE_DATE_EPOCH
says otherwise: so two builds give the same digests without being asked to. Layers and history of the base image stay
as they were published. Where a service stands in for BuildKit's, documents carry the times at which the store came to
have the layers: there is a clock in them then, but the same store makes the same documents again.
"""

import datetime
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from kedge.exporters.options import ImageOptions
from kedge.model.digest import Digest, sha256
from kedge.model.errors import IntegrityError
from kedge.model.graph import Layer, Snapshot
from kedge.model.image import (
    COMPRESSION_OF,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    History,
    ImageConfig,
    Index,
    Manifest,
)
from kedge.model.value import dataclass, replace
from kedge.storage.layer_bytes import Compression
from kedge.storage.store import Store
from kedge.storage.unpacking import Progress

# Late enough for zip archives, which know nothing before 1980; the time Cloud Native Buildpacks chose too. In
# seconds.
DEFAULT_EPOCH: Final = 315532801
T = TypeVar("T")
REWRITTEN: Final = "buildkit/rewritten-timestamp"
EMPTY_COMMENT: Final = "kedge.exporter.image"

_OCI_LAYERS: Final[dict[str, str]] = {"uncompressed": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_DOCKER_LAYERS: Final[dict[str, str]] = {
    "uncompressed": DOCKER_LAYER,
    "gzip": DOCKER_LAYER_GZIP,
    "zstd": DOCKER_LAYER_ZSTD,
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A built stage, ready to become one platform's image.

    `config` lacks diff ids and times; its history's entries that are not `empty_layer` stand in the order of
    `snapshot`. `base` is the config of the image it started from. `epoch` is SOURCE_DATE_EPOCH in seconds.
    `recorded`: without an epoch, documents carry the times of the store's own records. `extra_config` are top-level
    config fields as (key, JSON text), such as an inline cache.
    """

    config: ImageConfig
    snapshot: Snapshot
    base: ImageConfig | None = None
    epoch: int | None = None
    recorded: bool = False
    extra_config: tuple[tuple[str, str], ...] = ()

    @property
    def clamp(self) -> int:
        """What later file times in new layers are lowered to."""
        return DEFAULT_EPOCH if self.epoch is None else self.epoch


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON document and the descriptor that names it."""

    descriptor: Descriptor
    data: bytes


@dataclass(frozen=True, slots=True)
class Assembled:
    """One platform's image: its documents, and the layer behind each descriptor in the manifest."""

    config: ImageConfig
    config_document: Document
    manifest: Manifest
    manifest_document: Document
    layers: Snapshot

    @property
    def id(self) -> Digest:
        """The config's digest, which Docker calls the image's id."""
        return self.config_document.descriptor.digest


def assemble(
    store: Store, stage: Stage, options: ImageOptions, compression: Compression | None, progress: Progress | None = None
) -> Assembled:
    """The documents of `stage` as an image. Makes layer blobs in `compression`, or with None only names them
    uncompressed.

    Layers that came from a registry keep the blob they came as, unless the options force another compression. Writes
    no document anywhere. Raises IntegrityError, StoreError.
    """
    oci = options.oci_types is not False
    made = _each(store, stage, lambda layer: _layer(store, layer, stage, options, compression, progress))
    blobs = [_marked(store, layer, blob, stage, options) for layer, (blob, _) in zip(stage.snapshot, made, strict=True)]
    recorded = stage.recorded and stage.epoch is None
    times = [store.layers.info(layer).created for layer in stage.snapshot] if recorded else []
    config = complete_config(stage, [diff_id for _, diff_id in made], times)
    config_document = document(OCI_CONFIG if oci else DOCKER_CONFIG, config.to_bytes())
    manifest = Manifest(
        config_document.descriptor,
        tuple(replace(blob, media_type=_media_type(blob, oci)) for blob in blobs),
        OCI_MANIFEST if oci else DOCKER_MANIFEST,
        tuple(sorted(options.annotations_of("manifest", config.platform).items())),
    )
    return Assembled(
        config, config_document, manifest, document(manifest.media_type, manifest.to_bytes()), stage.snapshot
    )


def _marked(store: Store, layer: Layer, blob: Descriptor, stage: Stage, options: ImageOptions) -> Descriptor:
    """A new layer's descriptor says to which time its files were set, where that was asked for."""
    if not options.rewrite_timestamp or stage.epoch is None or store.layers.info(layer).sources:
        return blob
    return replace(blob, annotations=(*blob.annotations, (REWRITTEN, str(stage.epoch))))


def _each(store: Store, stage: Stage, function: Callable[[Layer], T]) -> list[T]:
    """`function` of all layers at the same time; one after the other where all are remembered and nothing is to do."""
    if all(store.layers.knows_diff_id(layer, clamp=stage.clamp) for layer in stage.snapshot):
        return [function(layer) for layer in stage.snapshot]
    from concurrent.futures import ThreadPoolExecutor  # imports logging: not for a cached build

    with ThreadPoolExecutor(thread_name_prefix="layers") as pool:
        return list(pool.map(function, stage.snapshot))


def _layer(
    store: Store,
    layer: Layer,
    stage: Stage,
    options: ImageOptions,
    compression: Compression | None,
    progress: Progress | None,
) -> tuple[Descriptor, Digest]:
    """A layer's blob and diff id. That of eStargz is its own: the table of contents is part of its tar."""
    if options.compression == "estargz" and (options.force_compression or not store.layers.info(layer).sources):
        made = store.layers.estargz(layer, options.level, clamp=stage.clamp, progress=progress)
        return made.descriptor, made.diff_id
    blob = _layer_descriptor(store, layer, stage, options, compression, progress)
    return blob, store.layers.diff_id(layer, clamp=stage.clamp)[0]


def _layer_descriptor(
    store: Store,
    layer: Layer,
    stage: Stage,
    options: ImageOptions,
    compression: Compression | None,
    progress: Progress | None,
) -> Descriptor:
    force = options.force_compression and compression is not None
    declared = store.layers.info(layer).sources
    if declared and not force:
        return declared[0][0]
    if compression is None:
        digest, size = store.layers.diff_id(layer, clamp=stage.clamp, progress=progress)
        return Descriptor(OCI_LAYER, digest, size)
    return store.layers.blob(layer, compression, options.level, clamp=stage.clamp, force=force, progress=progress)


def _media_type(blob: Descriptor, oci: bool) -> str:
    kind = COMPRESSION_OF.get(blob.media_type)
    if kind is None:  # foreign or encrypted layers keep their own word
        return blob.media_type
    return (_OCI_LAYERS if oci else _DOCKER_LAYERS)[kind]


def document(media_type: str, data: bytes) -> Document:
    """Name a document's bytes."""
    return Document(Descriptor(media_type, sha256(data), len(data)), data)


def index_document(images: Sequence[Document], options: ImageOptions, platforms: Sequence[ImageConfig]) -> Document:
    """The index over one manifest for each platform, in the given order."""
    oci = options.oci_types is not False
    entries = []
    for image, config in zip(images, platforms, strict=True):
        notes = options.annotations_of("manifest-descriptor", config.platform)
        entries.append(replace(image.descriptor, platform=config.platform, annotations=tuple(sorted(notes.items()))))
    notes = options.annotations_of("index")
    index = Index(tuple(entries), OCI_INDEX if oci else DOCKER_LIST, tuple(sorted(notes.items())))
    return document(index.media_type, index.to_bytes())


# ---- config
# ------------------------------------------------------------------------------------------------------------


def complete_config(stage: Stage, diff_ids: Sequence[Digest], times: Sequence[float] = ()) -> ImageConfig:
    """The stage's config with its layers, a history entry for each of them, and times: `times` of the layers in
    seconds, or without any the stage's limit.
    """
    history = _aligned(stage.config.history, len(diff_ids))
    inherited = _common_length(history, stage.base.history if stage.base else ())
    before = [entry.created for entry in history[:inherited]]
    text = timestamp(stage.clamp)
    if times:
        dated = _recorded(history, inherited, times)
        created = stage.config.created or (dated[-1].created if dated else before[-1])
    else:
        dated = [replace(entry, created=_earlier(entry.created, text)) for entry in history[inherited:]]
        created = _earlier(stage.config.created, text) if dated or not before else stage.config.created or before[-1]
    return replace(
        stage.config,
        diff_ids=tuple(diff_ids),
        history=(*history[:inherited], *dated),
        created=created,
        extra=tuple(sorted((dict(stage.config.extra) | dict(stage.extra_config)).items())),
    )


def _recorded(history: Sequence[History], inherited: int, times: Sequence[float]) -> list[History]:
    """New entries with the times of their layers, unless they have one. One that made no layer has the time of that
    below it, or if that is the base's, of the first new one.
    """
    left = iter(times)
    texts = ["" if entry.empty_layer else _moment(next(left)) for entry in history]
    current = next(filter(None, texts[inherited:]), next(filter(None, reversed(texts)), ""))
    dated = []
    for entry, text in zip(history[inherited:], texts[inherited:], strict=True):
        current = entry.created or text or current
        dated.append(replace(entry, created=current))
    return dated


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")


def _aligned(history: Sequence[History], layers: int) -> list[History]:
    """A history with one entry that made a layer for each layer: some base images keep none, or too many."""
    aligned, seen = [], 0
    for entry in history:
        if not entry.empty_layer and seen == layers:
            entry = replace(entry, empty_layer=True)
        seen += not entry.empty_layer
        aligned.append(entry)
    return aligned + [History("", EMPTY_COMMENT)] * (layers - seen)


def _common_length(history: Sequence[History], base: Sequence[History]) -> int:
    count = 0
    for ours, theirs in zip(history, base, strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def timestamp(seconds: int) -> str:
    """RFC 3339 in UTC, as image documents write it."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment.year >= 1000 else moment.isoformat().replace("+00:00", "Z")


def _earlier(created: str, limit: str) -> str:
    """The earlier of two times; the limit where there is none."""
    if not created:
        return limit
    try:
        ours, other = (datetime.datetime.fromisoformat(text) for text in (created, limit))
    except ValueError:
        raise IntegrityError(f"image config has a time that cannot be read: {created[:40]!r}") from None
    return created if ours.astimezone(datetime.UTC) <= other else limit
