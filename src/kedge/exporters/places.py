"""Places that images are copied from and to: a registry's repository, a layout, the store.

Owns one Reader and one Writer for each. Does not know in which order things are copied (`copy_image`).
"""

import contextlib
import fcntl
import io
import os
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final

from kedge.exporters.archive import tar_stream
from kedge.exporters.copy_image import OpenAt, Progress
from kedge.model.digest import Digest
from kedge.model.errors import InvalidInput, KedgeError, NotFound, StoreError
from kedge.model.image import INDEXES, MANIFESTS, OCI_INDEX, Descriptor, ImageConfig, Index, Manifest, canonical_json
from kedge.model.reference import Reference, parse_reference, parse_repository
from kedge.model.value import dataclass, replace
from kedge.storage.blobs import verified

if TYPE_CHECKING:
    from kedge.exporters.image import Referrer
    from kedge.registry.client import Registry
    from kedge.sources.oci_layout import Layout
    from kedge.storage.store import Store

_PIECE: Final = 1 << 20
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_FULL_NAME: Final = "io.containerd.image.name"
_VERSION: Final = canonical_json({"imageLayoutVersion": "1.0.0"})


# ---- registry --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegistryReader:
    """A repository to read from."""

    registry: "Registry"
    repository_name: Reference

    @property
    def partial(self) -> bool:
        return False

    def manifest(self, descriptor: Descriptor) -> bytes:
        pinned = self.repository_name.with_digest(descriptor.digest)
        return self.registry.manifest(pinned, replace(descriptor, platform=None, annotations=())).data

    def open(self, descriptor: Descriptor, offset: int = 0) -> BinaryIO:
        return self.registry.open_blob(self.repository_name, descriptor, offset)

    def repository(self, descriptor: Descriptor) -> Reference | None:
        return self.repository_name

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        return self.registry.referrers(self.repository_name, subject).manifests


@dataclass(frozen=True, slots=True)
class RegistryWriter:
    """A repository to write to, under the tag of `reference`; under the digest alone where it has no tag."""

    registry: "Registry"
    reference: Reference

    @property
    def name(self) -> str:
        return self.reference.familiar

    def has(self, manifest: Descriptor) -> bool:
        return self.registry.has_manifest(self.reference.repository_only, manifest)

    def put_blob(self, blob: Descriptor, open_at: OpenAt, origin: Reference | None, progress: Progress) -> bool:
        siblings = [origin] if origin else []
        return self.registry.upload(self.reference, blob, open_at, progress, siblings)

    def put_manifest(self, manifest: Descriptor, data: bytes) -> None:
        if not self.has(manifest):
            self.registry.put_manifest(self.reference.repository_only, data, manifest.media_type)

    def refer(self, subject: Digest, listed: Descriptor, data: bytes) -> None:
        # Also when it is there: a copy may have been stopped before it was listed.
        self.registry.put_manifest(self.reference.repository_only, data, listed.media_type)

    def publish(self, root: Descriptor, data: bytes) -> None:
        if not self.reference.tag:
            self.put_manifest(root, data)
        elif not self.registry.has_manifest(replace(self.reference, digest=None), root):
            self.registry.put_manifest(self.reference, data, root.media_type)


# ---- layout ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayoutReader:
    """An open image layout, a directory or an archive."""

    layout: "Layout"

    @property
    def partial(self) -> bool:
        return True

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self.layout.manifest(descriptor)

    def open(self, descriptor: Descriptor, offset: int = 0) -> BinaryIO:
        return self.layout.open(descriptor.digest, offset)

    def repository(self, descriptor: Descriptor) -> Reference | None:
        return None

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        return self.layout.referrers(subject)


class LayoutWriter:
    """An image layout directory, made if need be. Other images in it stay; several processes may write to it."""

    def __init__(self, path: Path, names: Sequence[str] = ()) -> None:
        self._path, self._names = path, names

    @property
    def name(self) -> str:
        return str(self._path)

    def has(self, manifest: Descriptor) -> bool:
        return False  # its blobs are looked for one by one: that costs nothing here

    def put_blob(self, blob: Descriptor, open_at: OpenAt, origin: Reference | None, progress: Progress) -> bool:
        target = self._path / _blob_path(blob.digest)
        with _as_store_error(self._path):
            if target.is_file() and target.stat().st_size == blob.size:
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_at(0) as source, _whole_file(target) as out:
                done = 0
                for piece in verified(source, blob):
                    out.write(piece)
                    done += len(piece)
                    progress(done, blob.size)
        return True

    def put_manifest(self, manifest: Descriptor, data: bytes) -> None:
        self.put_blob(manifest, lambda offset: io.BytesIO(data[offset:]), None, _silent)

    def refer(self, subject: Digest, listed: Descriptor, data: bytes) -> None:
        self.put_manifest(listed, data)
        self._change_index(lambda known: _with_referrer(known, listed))

    def publish(self, root: Descriptor, data: bytes) -> None:
        self.put_manifest(root, data)
        self._change_index(lambda known: _with_entries(known, root, self._names))

    def _change_index(self, change: Callable[[Index], Index]) -> None:
        with _as_store_error(self._path), _locked(self._path):
            index = self._path / "index.json"
            known = Index.from_bytes(index.read_bytes()) if index.exists() else Index(())
            with _whole_file(self._path / "oci-layout") as out:
                out.write(_VERSION)
            with _whole_file(index) as out:
                out.write(change(known).to_bytes())


class ArchiveWriter:
    """A new tar of an image layout, written as the bytes come: one blob after the other. A context manager.

    The file appears whole, on leaving without an error, or not at all.
    """

    def __init__(self, path: Path, names: Sequence[str] = ()) -> None:
        self._path, self._names = path, names
        self._lock = threading.Lock()
        self._written, self._directories = set[Digest](), set[str]()
        self._index = Index(())
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "ArchiveWriter":
        if not self._path.parent.is_dir():
            raise NotFound(f"there is no directory {self._path.parent} to write {self._path.name} to")
        with _as_store_error(self._path):
            stream = self._stack.enter_context(_whole_file(self._path))
        self._tar = self._stack.enter_context(tar_stream(stream))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _as_store_error(self._path):
            if kind is not None:
                self._stack.__exit__(kind, error, trace)
                return
            with self._stack:
                self._add("index.json", self._index.to_bytes())
                self._add("oci-layout", _VERSION)

    @property
    def name(self) -> str:
        return str(self._path)

    def has(self, manifest: Descriptor) -> bool:
        return False

    def put_blob(self, blob: Descriptor, open_at: OpenAt, origin: Reference | None, progress: Progress) -> bool:
        with self._lock, _as_store_error(self._path):
            if blob.digest in self._written:
                return False
            self._written.add(blob.digest)
            self._add_directories(blob.digest)
            with open_at(0) as source:
                self._tar.addfile(
                    _tar_entry(_blob_path(blob.digest), blob.size),
                    _Pieces(verified(source, blob), progress, blob.size),
                )
        return True

    def put_manifest(self, manifest: Descriptor, data: bytes) -> None:
        self.put_blob(manifest, lambda offset: io.BytesIO(data[offset:]), None, _silent)

    def refer(self, subject: Digest, listed: Descriptor, data: bytes) -> None:
        self.put_manifest(listed, data)
        self._index = _with_referrer(self._index, listed)

    def publish(self, root: Descriptor, data: bytes) -> None:
        self.put_manifest(root, data)
        self._index = _with_entries(self._index, root, self._names)

    def _add_directories(self, digest: Digest) -> None:
        """Readers that run as an ordinary user cannot make directories that no entry makes (containers/image)."""
        for path in ("blobs", f"blobs/{digest.partition(':')[0]}"):
            if path not in self._directories:
                self._directories.add(path)
                entry = _tar_entry(path, 0)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                self._tar.addfile(entry)

    def _add(self, path: str, data: bytes) -> None:
        self._tar.addfile(_tar_entry(path, len(data)), io.BytesIO(data))


class _Pieces:
    """A file over pieces, for tarfile, which asks for sizes of its own."""

    def __init__(self, pieces: Iterator[bytes], progress: Progress, total: int) -> None:
        self._pieces, self._progress, self._total = pieces, progress, total
        self._rest, self._done = b"", 0

    def read(self, size: int = 0, /) -> bytes:
        parts, left = [], size
        while left:
            if not self._rest:
                self._rest = next(self._pieces, b"")
                if not self._rest:
                    break
            parts.append(self._rest[:left])
            self._rest = self._rest[left:]
            left -= len(parts[-1])
        self._done += size - left
        if self._done == self._total:
            next(self._pieces, None)  # lets the check at the end happen before the entry is complete
        self._progress(self._done, self._total)
        return b"".join(parts)


def _tar_entry(path: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode, entry.mtime = size, 0o644, 0
    return entry


def _with_entries(index: Index, root: Descriptor, names: Sequence[str]) -> Index:
    """An index that lists `root` under the names, each a tag or a full reference; what had these names loses them."""
    tags = {_tag_of(name) for name in names}

    def stays(entry: Descriptor) -> bool:
        tag = dict(entry.annotations).get(_REF_NAME, "")
        return tag not in tags if tag else entry.digest != root.digest

    bare = replace(root, annotations=(), platform=None)
    added = [replace(bare, annotations=_naming(name)) for name in names or ("",)]
    return Index((*filter(stays, index.manifests), *added), OCI_INDEX)


def _with_referrer(index: Index, listed: Descriptor) -> Index:
    """An index that lists a manifest about another one, without a name."""
    return Index((*(entry for entry in index.manifests if entry.digest != listed.digest), listed), OCI_INDEX)


def _tag_of(name: str) -> str:
    return parse_reference(name).tag if "/" in name else name


def _naming(name: str) -> tuple[tuple[str, str], ...]:
    if "/" not in name:
        return ((_REF_NAME, name),) if name else ()
    return tuple(sorted({_FULL_NAME: name, _REF_NAME: _tag_of(name)}.items()))


# ---- store -----------------------------------------------------------------------------------------------------------


class StoreReader:
    """Images of the store. Layers that are not there as bytes yet are made or fetched when they are opened.

    `documents` are bytes that the store need not hold, `referrers` what it does not know to refer to its images.
    """

    def __init__(
        self, store: "Store", documents: Mapping[Digest, bytes] | None = None, referrers: "Sequence[Referrer]" = ()
    ) -> None:
        self._store, self._documents, self._referrers = store, documents or {}, referrers

    partial = True

    def manifest(self, descriptor: Descriptor) -> bytes:
        known = self._documents.get(descriptor.digest)
        return known if known is not None else self._store.blobs.read(descriptor.digest)

    def open(self, descriptor: Descriptor, offset: int = 0) -> BinaryIO:
        known = self._documents.get(descriptor.digest)
        if known is not None:
            return io.BytesIO(known[offset:])
        if not self._store.blobs.has(descriptor.digest):
            self._store.layers.fetch_blob(descriptor)
        file = self._store.blobs.open(descriptor.digest)
        file.seek(offset)
        return file

    def repository(self, descriptor: Descriptor) -> Reference | None:
        for origin in self._store.layers.origins(descriptor.digest):
            scheme, _, rest = origin.removeprefix("cache+").partition("://")
            if scheme == "docker-image":
                return parse_repository(rest)
        return None

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        new = [one.manifest for one in self._referrers if one.subject == subject]
        stored = [one for one in self._store.images.referrers(subject) if one not in new]
        return [*new, *stored]


class StoreWriter:
    """The store, under names; `names` () leaves the image known by its id."""

    def __init__(self, store: "Store", names: Sequence[Reference] = ()) -> None:
        self._store, self._names = store, names

    @property
    def name(self) -> str:
        return ", ".join(name.familiar for name in self._names) or "the store"

    def has(self, manifest: Descriptor) -> bool:
        return False

    def put_blob(self, blob: Descriptor, open_at: OpenAt, origin: Reference | None, progress: Progress) -> bool:
        if self._store.blobs.has(blob.digest):
            return False
        with self._store.blobs.writer(replace(blob, annotations=(), platform=None)) as writer:
            with open_at(writer.offset) as source:
                while piece := source.read(_PIECE):
                    writer.write(piece)
                    progress(writer.offset, blob.size)
            writer.commit()
        return True

    def put_manifest(self, manifest: Descriptor, data: bytes) -> None:
        self._store.blobs.put(data)
        if manifest.media_type in MANIFESTS:
            self._declare(Manifest.from_bytes(data, manifest.media_type))

    def refer(self, subject: Digest, listed: Descriptor, data: bytes) -> None:
        self.put_manifest(listed, data)
        self._store.images.add_referrer(subject, listed)

    def publish(self, root: Descriptor, data: bytes) -> None:
        from kedge.storage.images import ImageRecord

        self.put_manifest(root, data)
        id = root.digest if root.media_type in INDEXES else Manifest.from_bytes(data, root.media_type).config.digest
        target = replace(root, annotations=(), platform=None)
        for name in [str(name) for name in self._names] or [id]:
            self._store.images.set(ImageRecord(name, target, id, time.time()))

    def _declare(self, manifest: Manifest) -> None:
        """Tell the store which layers these blobs are, so that builds and runs find them. Artifacts have none."""
        from kedge.storage.layers import Declared

        try:
            config = ImageConfig.from_bytes(self._store.blobs.read(manifest.config.digest))
            pairs = list(zip(config.diff_ids, manifest.layers, strict=True))
        except (KedgeError, ValueError):
            return
        if pairs:
            self._store.layers.declare_all([Declared(diff_id, layer) for diff_id, layer in pairs])


# ---- files -----------------------------------------------------------------------------------------------------------


def _silent(current: int, total: int) -> None:
    pass


def _blob_path(digest: Digest) -> str:
    return f"blobs/{digest.replace(':', '/')}"


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when all of it is written and on disk."""
    if path.exists() and not path.is_file():
        raise InvalidInput(f"{path} exists and is no file")
    fd, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Make room on its disk." if error.errno == 28 else ""
        raise StoreError(f"cannot write {path}: {(error.strerror or 'error').lower()}", hint=hint) from None


__all__ = [
    "ArchiveWriter",
    "LayoutReader",
    "LayoutWriter",
    "NotFound",
    "RegistryReader",
    "RegistryWriter",
    "StoreReader",
    "StoreWriter",
]
