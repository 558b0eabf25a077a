"""Writing caches that travel: `--cache-to type=inline|registry|local|s3`.

Owns what a cache's document and manifest hold (BuildKit, cache/remotecache), which layers go along, and sending those
that are missing, several at once. Does not know the graph: it is given steps.
"""

import base64
import datetime
import io
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

from kedge.exporters.image import Steps
from kedge.exporters.options import Compression, ImageOptions, read_flag, read_options
from kedge.exporters.places import LayoutWriter, RegistryWriter, StoreReader
from kedge.model.cache_document import CACHE_CONFIG, CacheDocument, CacheLayer, CacheRecord, CacheResult, Step
from kedge.model.cache_document import write_record as write_record
from kedge.model.digest import Digest
from kedge.model.errors import Cancelled, InvalidInput
from kedge.model.graph import Layer, Snapshot
from kedge.model.image import (
    COMPRESSION_OF,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LIST,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
)
from kedge.model.reference import Reference, parse_reference
from kedge.model.value import dataclass, replace

if TYPE_CHECKING:
    from kedge.registry.client import Registry
    from kedge.storage.store import Store

UNCOMPRESSED = "containerd.io/uncompressed"
CREATED = "buildkit/createdat"
WORKERS = 6
_OCI = {"uncompressed": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_DOCKER = {"uncompressed": DOCKER_LAYER, "gzip": DOCKER_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_KNOWN = frozenset(
    "ref registry.insecure dest tag mode oci-mediatypes image-manifest compression compression-level force-compression "
    "ignore-error bucket region prefix name manifests_prefix blobs_prefix endpoint_url use_path_style access_key_id "
    "secret_access_key session_token upload_parallelism touch_refresh retry_mode retry_max_attempts "
    "disable_accept_encoding timeout".split()
)


@dataclass(frozen=True, slots=True)
class CacheTarget:
    """One `--cache-to`, read."""

    kind: str
    attributes: Mapping[str, str]
    mode: Literal["min", "max"] = "min"
    compression: Compression = "gzip"
    level: int | None = None
    force_compression: bool = False
    oci: bool = True
    image_manifest: bool = True
    must_succeed: bool = False

    @property
    def title(self) -> str:
        """What the step that writes it is called."""
        names = {"registry": "registry", "local": "client directory", "s3": "Amazon S3", "inline": "the image's config"}
        return f"exporting cache to {names[self.kind]}"


def read_target(kind: str, attributes: Mapping[str, str]) -> CacheTarget:
    """A `--cache-to` as typed values. Raises InvalidInput, InvalidReference."""
    if kind not in ("inline", "registry", "local", "s3"):
        raise InvalidInput(f"unknown cache type {kind[:40]!r}")
    for name in attributes:
        if name not in _KNOWN:
            raise InvalidInput(f"a cache of type {kind} has no attribute {name[:40]!r}")
    for kind_, needed, example in (("registry", "ref", "IMAGE"), ("local", "dest", "DIRECTORY")):
        if kind == kind_ and not attributes.get(needed):
            raise InvalidInput(f"a cache of type {kind} needs {needed}={example} to be written to")
    mode = attributes.get("mode", "min")
    if mode not in ("min", "max"):
        raise InvalidInput(f"cache attribute mode={mode[:40]}: expected min or max")
    names = ("compression", "compression-level", "force-compression", "oci-mediatypes")
    options: ImageOptions = read_options([(n, attributes[n]) for n in names if n in attributes])
    oci = options.oci_types is not False
    image_manifest = read_flag(attributes, "image-manifest", oci)
    if image_manifest and not oci:
        raise InvalidInput("a cache as an image manifest has OCI media types", hint="Leave out oci-mediatypes=false.")
    return CacheTarget(
        kind,
        attributes,
        "max" if mode == "max" else "min",
        options.compression or "gzip",
        options.level,
        options.force_compression,
        oci,
        image_manifest,
        must_succeed(attributes),
    )


def must_succeed(attributes: Mapping[str, str]) -> bool:
    """Is a cache that cannot be written to fail the build? Only where that is asked for."""
    return "ignore-error" in attributes and not read_flag(attributes, "ignore-error", True)


class CachePlace(Protocol):
    """Where a cache's blobs and its root go (`places` has some). Methods block and are safe from several threads."""

    def put_blob(
        self,
        blob: Descriptor,
        open_at: Callable[[int], BinaryIO],
        origin: Reference | None,
        progress: Callable[[int, int], None],
    ) -> bool: ...

    def publish(self, root: Descriptor, data: bytes) -> None: ...


def place_of(target: CacheTarget, registry: "Registry") -> CachePlace:
    """The place a registry's or local cache goes to."""
    if target.kind == "registry":
        return RegistryWriter(registry, parse_reference(target.attributes["ref"]))
    from pathlib import Path

    return LayoutWriter(Path(target.attributes["dest"]).absolute(), (target.attributes.get("tag", "latest"),))


# ---- which layers go along -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Packed:
    """A cache ready to be sent: its document, and each layer's blob with what is said of it."""

    document: CacheDocument
    layers: tuple[Descriptor, ...]


class _Collector:
    """Layers and chains of layers, each once."""

    def __init__(self, blob: Callable[[Layer], Descriptor]) -> None:
        self._blob = blob
        self.layers: list[CacheLayer] = []
        self.descriptors: list[Descriptor] = []
        self._chains: dict[tuple[Digest, int], int] = {}

    def chain(self, snapshot: Snapshot) -> tuple[int, ...]:
        """Indexes of the snapshot's layers, each on the one below."""
        way, below = [], -1
        for layer in snapshot:
            blob = self._blob(layer)
            index = self._chains.get((blob.digest, below))
            if index is None:
                index = self._chains[blob.digest, below] = len(self.layers)
                self.layers.append(CacheLayer(blob.digest, below))
                self.descriptors.append(blob)
            way.append(index)
            below = index
        return tuple(way)


def pack(
    store: "Store",
    steps: Sequence[Step],
    finals: Sequence[Snapshot],
    target: CacheTarget,
    clamp: int,
    work: Steps,
) -> Packed:
    """The cache as it will be sent. Makes the blobs of layers that have none yet, several at once.

    mode=min carries only results that are part of a final image's layers; all steps are told of in either.
    """
    carried = [_is_carried(step.snapshot, finals, target.mode) for step in steps]
    wanted = dict.fromkeys(
        layer for step, yes in zip(steps, carried, strict=True) if yes and step.snapshot for layer in step.snapshot
    )
    started = time.time()
    work.status("preparing build cache for export", started=started)
    with ThreadPoolExecutor(WORKERS, "cache-pack") as pool:
        made = dict(zip(wanted, pool.map(lambda layer: _blob(store, layer, target, clamp), wanted), strict=True))
    collector = _Collector(made.__getitem__)
    records = []
    for step, yes in zip(steps, carried, strict=True):
        results: tuple[CacheResult, ...] = ()
        if yes and step.snapshot:
            created = _time(store.layers.info(step.snapshot[-1]).created)
            results = (CacheResult(collector.chain(step.snapshot), created),)
        records.append(CacheRecord(step.digest, step.inputs, results))
    work.status("preparing build cache for export", started=started, done=True)
    return Packed(CacheDocument(tuple(collector.layers), tuple(records)), tuple(collector.descriptors))


def _is_carried(snapshot: Snapshot | None, finals: Sequence[Snapshot], mode: str) -> bool:
    if not snapshot:
        return False
    return mode == "max" or any(final[: len(snapshot)] == snapshot for final in finals)


def _blob(store: "Store", layer: Layer, target: CacheTarget, clamp: int) -> Descriptor:
    compression = "gzip" if target.compression == "estargz" else target.compression
    made = store.layers.blob(layer, compression, target.level, clamp=clamp, force=target.force_compression)
    diff_id, _ = store.layers.diff_id(layer, clamp=clamp)
    kind = COMPRESSION_OF.get(made.media_type)
    media_type = made.media_type if kind is None else (_OCI if target.oci else _DOCKER)[kind]
    notes = ((CREATED, _time(store.layers.info(layer).created)), (UNCOMPRESSED, diff_id))
    return replace(made, media_type=media_type, annotations=notes, platform=None)


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")


# ---- sending ---------------------------------------------------------------------------------------------------------


def send(
    store: "Store", packed: Packed, target: CacheTarget, place: CachePlace, work: Steps, stop: threading.Event
) -> Descriptor:
    """Send what the place lacks, then the document, then its manifest. Returns that one's descriptor."""
    send_blobs(store, packed.layers, place, work, stop)
    data = packed.document.to_bytes()
    config = _descriptor(CACHE_CONFIG, data)
    _told(work, f"writing config {config.digest}", lambda: put_bytes(place, config, data))
    layers = tuple(dict.fromkeys(packed.layers))
    if target.image_manifest:
        root_data = Manifest(config, layers, OCI_MANIFEST).to_bytes()
        root = _descriptor(OCI_MANIFEST, root_data)
    else:
        kind = OCI_INDEX if target.oci else DOCKER_LIST
        root_data = Index((*layers, config), kind).to_bytes()
        root = _descriptor(kind, root_data)
    label = "cache image manifest" if target.image_manifest else "cache manifest"
    _told(work, f"writing {label} {root.digest}", lambda: place.publish(root, root_data))
    return root


def send_blobs(
    store: "Store",
    blobs: Iterable[Descriptor],
    place: CachePlace,
    work: Steps,
    stop: threading.Event,
    reader: StoreReader | None = None,
) -> None:
    """Have the place have these blobs; the first failure is raised and stops the others."""
    source = reader or StoreReader(store)

    def put(blob: Descriptor) -> None:
        started = time.time()
        title = f"writing layer {blob.digest}"

        def progress(current: int, total: int) -> None:
            if stop.is_set():
                raise Cancelled("the cache's export was given up")
            work.status(title, current, total, started=started)

        progress(0, blob.size)
        bare = replace(blob, annotations=())
        place.put_blob(bare, lambda offset: source.open(bare, offset), source.repository(bare), progress)
        work.status(title, blob.size, blob.size, started=started, done=True)

    unique = sorted({blob.digest: blob for blob in blobs}.values(), key=lambda blob: blob.size, reverse=True)
    with ThreadPoolExecutor(WORKERS, "cache-send") as pool:
        jobs = [pool.submit(put, blob) for blob in unique]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            stop.set()
            for job in jobs:
                job.cancel()
            raise


def put_bytes(place: CachePlace, descriptor: Descriptor, data: bytes) -> None:
    """Store a small document."""
    place.put_blob(descriptor, lambda offset: io.BytesIO(data[offset:]), None, lambda current, total: None)


def _told(work: Steps, title: str, do: Callable[[], object]) -> None:
    started = time.time()
    work.status(title, started=started)
    do()
    work.status(title, started=started, done=True)


def _descriptor(media_type: str, data: bytes) -> Descriptor:
    from kedge.model.digest import sha256

    return Descriptor(media_type, sha256(data), len(data))


# ---- inline ----------------------------------------------------------------------------------------------------------


def inline(steps: Sequence[Step], image: Snapshot) -> str | None:
    """The value of the config field that carries the cache inside of an image, as JSON text; None without results.

    Layers are named by their place in the image, so no blob is needed to know it.
    """
    place = {layer: index for index, layer in enumerate(image)}
    entries, any_result = [], False
    for step in steps:
        results: tuple[CacheResult, ...] = ()
        if step.snapshot and all(layer in place for layer in step.snapshot):
            results = (CacheResult(tuple(place[layer] for layer in step.snapshot)),)
            any_result = True
        record = CacheRecord(step.digest, step.inputs, results)
        entries.append(write_record(record, _top_of_prefix))
    if not any_result:
        return None
    return json.dumps(base64.b64encode(json.dumps(entries, separators=(",", ":")).encode()).decode())


def _top_of_prefix(layers: tuple[int, ...]) -> int | None:
    return layers[-1] if layers == tuple(range(len(layers))) else None


__all__ = ["CachePlace", "CacheTarget", "Packed", "inline", "pack", "place_of", "put_bytes", "read_target", "send"]
