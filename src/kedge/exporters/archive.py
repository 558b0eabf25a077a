"""Images as one archive or directory: an OCI image layout that is a `docker save` archive too.

Owns the layout (OCI image-layout.md; Docker's manifest.json beside it) and its determinism: entries sorted, no time,
no owner. Reads blobs from the store, one at a time. Does not know how they were made.
"""

import contextlib
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from kedge.exporters.assemble import Stage, timestamp
from kedge.exporters.image import Exported, Steps, assemble_all, layer_compression
from kedge.exporters.options import Destination, ImageOptions
from kedge.model.digest import Digest, hex_part
from kedge.model.errors import InvalidInput, KedgeError, StoreError
from kedge.model.image import (
    DOCKER_CONFIG,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    canonical_json,
)
from kedge.model.reference import Reference
from kedge.model.value import dataclass, replace
from kedge.storage.store import Store

if TYPE_CHECKING:
    from kedge.exporters.load import Engine

_CHUNK = 1 << 20
_EPOCH = 0
_CREATED = "org.opencontainers.image.created"


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of an archive: its manifest or index, and the names it is to be loaded under."""

    target: Descriptor
    names: tuple[Reference, ...]


class Sink(Protocol):
    """Where the files of a layout go, in order."""

    def directory(self, path: str) -> None: ...
    def file(self, path: str, size: int, stream: BinaryIO) -> None: ...


def export_archive(
    store: Store,
    stages: Sequence[Stage],
    options: ImageOptions,
    destination: Destination,
    steps: Steps,
    *,
    docker: bool,
    attach: Callable[[Exported], Exported] | None = None,
) -> Exported:
    """Write the stages as an archive (or, with `tar=false`, a directory) that `docker load`, skopeo and umoci read.

    `docker` holds to what Docker's oldest readers know: one platform, and Docker's media types unless the options say
    otherwise or ask for what these never had: a newer compression, or something to `attach`.
    """
    if docker and len(stages) > 1:
        raise InvalidInput("output type docker holds one platform", hint="Use type=oci for several platforms.")
    if options.oci_types is None:
        newer = attach is not None or options.compression in ("zstd", "estargz")
        options = replace(options, oci_types=not docker or newer)
    exported = assemble_all(store, stages, options, layer_compression(options) or "gzip", steps)
    exported = attach(exported) if attach else exported
    exported = _annotated(exported, options, next((one.epoch for one in stages if one.epoch is not None), None))
    place = opened(destination, exported.metadata)
    label = "sending tarball" if options.tar else "copying files"
    steps.status(label)
    entries = [Entry(exported.target, exported.names), *(Entry(one.manifest, ()) for one in exported.referrers)]
    save(store, entries, place, tar=options.tar, documents=exported.documents)
    steps.status(label, done=True)
    return exported


def opened(destination: Destination, metadata: Mapping[str, Any]) -> Path | BinaryIO:
    """Where to write to; who gave a function is told now what comes."""
    if isinstance(destination, Path) or not callable(destination):
        return destination
    return destination(metadata)


def _annotated(exported: Exported, options: ImageOptions, epoch: int | None) -> Exported:
    """The export with the annotations of its entry in the layout: an index's, or those of the one manifest. It tells
    SOURCE_DATE_EPOCH, too, where there is one; without, BuildKit puts the clock there.
    """
    if exported.target.media_type in INDEXES:
        notes = options.annotations_of("index-descriptor")
    else:
        notes = options.annotations_of("manifest-descriptor", exported.images[0].config.platform)
    time = {} if epoch is None else {_CREATED: timestamp(epoch)}
    notes = time | dict(exported.target.annotations) | notes
    target = replace(exported.target, annotations=tuple(sorted(notes.items())))
    return replace(exported, document=replace(exported.document, descriptor=target))


def load_into(engine: "Engine", store: Store, stages: Sequence[Stage], options: ImageOptions, steps: Steps) -> Exported:
    """Give the stages' image to a running engine, without the layers it has. Raises KedgeError."""
    from kedge.exporters.load import known_layers

    if len(stages) > 1:
        raise InvalidInput("an engine takes one platform at a time", hint="Build with one --platform, or push.")
    podman = engine.kind == "podman"
    options = replace(options, oci_types=podman if options.oci_types is None else options.oci_types)
    # Podman finds a layer it has by its blob's digest, and that of its tar counts as one: new layers go as they are.
    compression = layer_compression(options) or ("uncompressed" if podman else "gzip")
    exported = assemble_all(store, stages, options, compression, steps)
    image = exported.images[0]
    label = f"loading into {engine.name}"
    steps.status(label)
    known = known_layers(engine, [image.config.diff_ids])
    ends = range(1, len(image.manifest.layers) + 1)
    there = [tuple(image.config.diff_ids[:end]) in known for end in ends]
    without = {layer.digest for layer, has in zip(image.manifest.layers, there, strict=True) if has}
    names = exported.names[:1] if podman else exported.names
    entries = [Entry(exported.target, names)]

    def send(without: set[Digest]) -> None:
        def write(stream: BinaryIO) -> None:
            save(store, entries, stream, documents=exported.documents, without=without, docker=not podman)

        engine.load(write)

    try:
        send(without)
    except KedgeError:
        if not without:
            raise
        send(set())  # it lost a layer meanwhile, or knows it by another form
    for name in exported.names[1:] if podman else ():
        engine.tag(str(exported.names[0]), name)
    steps.status(label, done=True)
    return exported


def save(
    store: Store,
    entries: Sequence[Entry],
    destination: Path | BinaryIO,
    *,
    tar: bool = True,
    documents: dict[Digest, bytes] | None = None,
    without: Collection[Digest] = (),
    docker: bool = True,
    referrers: bool = False,
) -> None:
    """Write images that the store holds to `destination`: a file, a stream, or with `tar=False` a directory.

    `documents` are bytes the store need not hold. `without` are blobs to leave out, for readers that have them;
    `docker` says whether Docker's manifest.json is there, too; `referrers` whether what the store knows to refer to the
    images comes along. A file appears whole or not at all. Raises StoreError,
    InvalidInput.
    """
    layout = _Layout(store, entries, documents or {}, frozenset(without), docker)
    if referrers:
        layout.add_referrers()
    if not tar:
        if not isinstance(destination, Path):
            raise InvalidInput("an image layout directory needs a path to be written to")
        layout.write(_Directory(destination))
    else:
        with written(destination) as stream:
            _write_tar(layout, stream)


def tar_stream(stream: BinaryIO) -> tarfile.TarFile:
    """A tar to be written to `stream` in large pieces: for each of its usual 16 KiB, tarfile copies all it holds."""
    archive = tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK)  # noqa: SIM115 - the caller's
    archive.copybufsize = _CHUNK  # type: ignore[attr-defined]  # which typeshed has only for the constructor
    return archive


def _write_tar(layout: "_Layout", stream: BinaryIO) -> None:
    with tar_stream(stream) as archive:
        layout.write(_Archive(archive))


@contextlib.contextmanager
def written(destination: Path | BinaryIO) -> Iterator[BinaryIO]:
    """What to write to: a stream as it is, or a file that takes its name when all is written.

    Special files such as /dev/stdout are written in place. Raises StoreError for what cannot be written; a pipe whose
    reader is gone stays BrokenPipeError.
    """
    try:
        if not isinstance(destination, Path):
            yield destination
        elif _is_special(destination):
            with destination.open("wb") as stream:
                yield stream
        else:
            with _whole_file(destination) as stream:
                yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        where = destination if isinstance(destination, Path) else "the output"
        raise StoreError(f"cannot write {where}: {error.strerror}") from None


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode)


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    fd, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as stream:
            yield stream
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


# ---- layout ----


class _Layout:
    """The files of an image layout over some images: what each is, then the writing of all."""

    def __init__(
        self,
        store: Store,
        entries: Sequence[Entry],
        documents: dict[Digest, bytes],
        without: frozenset[Digest],
        docker: bool,
    ) -> None:
        self._without, self._with_docker = without, docker
        self._store = store
        self._entries = list(entries)
        self._documents = dict(documents)
        self._blobs: dict[Digest, Descriptor] = {}
        self._docker: list[dict[str, Any]] = []
        for entry in entries:
            self._gather(entry.target, entry.names)

    def _read(self, descriptor: Descriptor) -> bytes:
        if descriptor.digest not in self._documents:
            self._documents[descriptor.digest] = self._store.blobs.read(descriptor.digest)
        return self._documents[descriptor.digest]

    def _gather(self, target: Descriptor, names: Sequence[Reference]) -> None:
        self._blobs[target.digest] = target
        if target.media_type in INDEXES:
            for child in Index.from_bytes(self._read(target)).manifests:
                if child.digest in self._documents or self._store.blobs.has(child.digest):
                    self._gather(child, names)  # platforms that were never pulled are left out
        elif target.media_type in MANIFESTS:
            manifest = Manifest.from_bytes(self._read(target))
            self._blobs[manifest.config.digest] = manifest.config
            self._blobs |= {layer.digest: layer for layer in manifest.layers}
            if manifest.config.media_type in (OCI_CONFIG, DOCKER_CONFIG) and not _is_attestation(target):
                self._docker.append(_docker_entry(manifest, names))

    def add_referrers(self) -> None:
        """Take along what the store knows to refer to what is gathered, and to that again."""
        todo = list(self._documents)
        while todo:
            for manifest in self._store.images.referrers(todo.pop()):
                if manifest.digest not in self._blobs and self._store.blobs.has(manifest.digest):
                    self._gather(manifest, ())
                    self._entries.append(Entry(manifest, ()))
                    todo.append(manifest.digest)

    def write(self, sink: Sink) -> None:
        sink.directory("blobs")
        for algorithm in sorted({digest.partition(":")[0] for digest in self._blobs}):
            sink.directory(f"blobs/{algorithm}")
        for digest in sorted(self._blobs.keys() - self._without):
            self._write_blob(sink, self._blobs[digest])
        _write_bytes(sink, "index.json", self._index().to_bytes())
        if self._with_docker:
            _write_bytes(sink, "manifest.json", canonical_json(self._docker))
        _write_bytes(sink, "oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"}))

    def _write_blob(self, sink: Sink, blob: Descriptor) -> None:
        path = _blob_path(blob.digest)
        if blob.digest in self._documents:
            _write_bytes(sink, path, self._documents[blob.digest])
            return
        self._store.layers.fetch_blob(blob)
        with self._store.blobs.open(blob.digest) as stream:
            sink.file(path, blob.size, stream)

    def _index(self) -> Index:
        entries = []
        for entry in self._entries:
            for name in entry.names or (None,):
                notes = dict(entry.target.annotations)
                if name:
                    # containerd's name is what Docker loads by, the reference name is the layout's own word for a
                    # tag.
                    notes |= {
                        "io.containerd.image.name": str(name),
                        "org.opencontainers.image.ref.name": name.tag or "",
                    }
                entries.append(replace(entry.target, annotations=tuple(sorted(notes.items()))))
        return Index(tuple(entries), OCI_INDEX)


def _is_attestation(entry: Descriptor) -> bool:
    return bool(entry.artifact_type) or (entry.platform is not None and entry.platform.os == "unknown")


def _docker_entry(manifest: Manifest, names: Sequence[Reference]) -> dict[str, Any]:
    return {
        "Config": _blob_path(manifest.config.digest),
        "RepoTags": [name.familiar for name in names] or None,
        "Layers": [_blob_path(layer.digest) for layer in manifest.layers],
    }


def _blob_path(digest: Digest) -> str:
    return f"blobs/{digest.partition(':')[0]}/{hex_part(digest)}"


def _write_bytes(sink: Sink, path: str, data: bytes) -> None:
    sink.file(path, len(data), io.BytesIO(data))


class _Archive:
    """A layout as a tar: one fixed header for every file."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    def directory(self, path: str) -> None:
        self._archive.addfile(self._entry(path, tarfile.DIRTYPE, 0o755))

    def file(self, path: str, size: int, stream: BinaryIO) -> None:
        entry = self._entry(path, tarfile.REGTYPE, 0o644)
        entry.size = size
        self._archive.addfile(entry, stream)

    @staticmethod
    def _entry(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.mtime = kind, mode, _EPOCH
        return entry


class _Directory:
    """A layout as files; blobs that are there already stay."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.directory("")

    def directory(self, path: str) -> None:
        try:
            (self._root / path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {self._root / path}: {error.strerror}") from None

    def file(self, path: str, size: int, stream: BinaryIO) -> None:
        target = self._root / path
        if path.startswith("blobs/") and target.is_file() and target.stat().st_size == size:
            return
        with written(target) as out:
            while chunk := stream.read(_CHUNK):
                out.write(chunk)
