"""Images from one place to another without unpacking: registry, layout directory or archive, store.

Owns the order (blobs before manifests, children before parents, the name last), parallelism and deduplication. Does
not know how any one place keeps its bytes: `places` holds the readers and writers.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import BinaryIO, Final, Protocol, TypeAlias

from kedge.model.digest import Digest, sha256
from kedge.model.errors import Cancelled, InvalidInput, NotFound
from kedge.model.image import INDEXES, MANIFESTS, Descriptor, Index, Manifest
from kedge.model.platform import Platform, best_match
from kedge.model.reference import Reference
from kedge.model.value import dataclass, field, replace

OpenAt: TypeAlias = Callable[[int], BinaryIO]  # a blob's bytes from an offset on
Progress: TypeAlias = Callable[[int, int], None]  # bytes so far, bytes in all

WORKERS: Final = 6
_DEEPEST: Final = 4  # indexes within indexes
_BETWEEN: Final = 0.1  # seconds between two reports of one blob


class Reader(Protocol):
    """A place images are read from. Blocking, safe for many threads, idempotent."""

    @property
    def partial(self) -> bool:
        """Whether it may rightly lack some images of an index: those platforms are then left out of a copy."""
        ...

    def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest's or index's bytes, verified. Raises NotFound."""
        ...

    def open(self, descriptor: Descriptor, offset: int = 0) -> BinaryIO:
        """A blob's bytes from `offset` on. Raises NotFound."""
        ...

    def repository(self, descriptor: Descriptor) -> Reference | None:
        """A repository known to hold the blob, to mount it from; None if there is none."""
        ...


class Writer(Protocol):
    """A place images are written to. Blocking, safe for many threads, idempotent. What it is given is verified where
    it enters.
    """

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    def has(self, manifest: Descriptor) -> bool:
        """Whether it has this manifest with all it refers to."""
        ...

    def put_blob(self, blob: Descriptor, open_at: OpenAt, origin: Reference | None, progress: Progress) -> bool:
        """Have a blob; False when its bytes need not be sent."""
        ...

    def put_manifest(self, manifest: Descriptor, data: bytes) -> None:
        """Have a manifest or index whose parts are there already."""
        ...

    def publish(self, root: Descriptor, data: bytes) -> None:
        """Have `root`, whose parts are there, under the names it was sent here for. Atomic."""
        ...


class Steps(Protocol):
    """Where a copy tells how far it is (`sources.handler.Work` is one)."""

    def status(
        self, id: str, current: int = 0, total: int = 0, *, started: float | None = None, done: bool = False
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Tree:
    """An image, or an index and its images: `documents` hold children before parents, the root last."""

    documents: tuple[tuple[Descriptor, bytes], ...]
    blobs: tuple[Descriptor, ...]

    @property
    def root(self) -> Descriptor:
        return self.documents[-1][0]


@dataclass(slots=True)
class _Gathering:
    documents: dict[Digest, tuple[Descriptor, bytes]] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)


def gather(source: Reader, root: Descriptor, platforms: Sequence[Platform] = ()) -> Tree:
    """All that `root` refers to. `platforms` narrows an index: to one image's manifest, or to an index of several.

    Images that a partial source lacks are left out in the same way. Raises NotFound, IntegrityError.
    """
    root, data = _narrowed(source, root, platforms)
    found = _Gathering()
    _gather(source, root, data, found, 0)
    return Tree(tuple(found.documents.values()), tuple(found.blobs.values()))


def _gather(source: Reader, descriptor: Descriptor, data: bytes, found: _Gathering, depth: int) -> None:
    if descriptor.digest in found.documents:
        return
    if descriptor.media_type in INDEXES and depth < _DEEPEST:
        for child in Index.from_bytes(data, descriptor.media_type).manifests:
            if child.media_type in MANIFESTS | INDEXES:
                _gather(source, child, source.manifest(child), found, depth + 1)
            else:
                found.blobs.setdefault(child.digest, child)
    elif descriptor.media_type in MANIFESTS:
        manifest = Manifest.from_bytes(data, descriptor.media_type)
        for blob in (*manifest.layers, manifest.config):  # the small config last: large blobs start first
            found.blobs.setdefault(blob.digest, blob)
    else:
        raise InvalidInput(f"{descriptor.digest} is no image but a {descriptor.media_type[:100]}")
    found.documents[descriptor.digest] = (descriptor, data)


def _narrowed(source: Reader, root: Descriptor, platforms: Sequence[Platform]) -> tuple[Descriptor, bytes]:
    data = source.manifest(root)
    if root.media_type not in INDEXES or not (platforms or source.partial):
        return root, data
    index = Index.from_bytes(data, root.media_type)
    kept = index.manifests
    if platforms:
        kept = _chosen(kept, platforms)
    if source.partial:
        kept = tuple(entry for entry in kept if _has(source, entry))
        images = [entry for entry in kept if not _is_attestation(entry)]
        if not images:
            raise NotFound(f"no image of {root.digest} is whole here")
    if kept == index.manifests:
        return root, data
    if len(kept) == 1:
        return replace(kept[0], platform=None, annotations=()), source.manifest(kept[0])
    data = replace(index, manifests=kept).to_bytes()
    return Descriptor(root.media_type, sha256(data), len(data)), data


def _chosen(entries: Sequence[Descriptor], platforms: Sequence[Platform]) -> tuple[Descriptor, ...]:
    """The images for the platforms, and with several what attests to them."""
    offered = [entry.platform or Platform("", "") for entry in entries]
    chosen = set[Digest]()
    for platform in platforms:
        index = best_match(platform, offered)
        if index is None:
            names = ", ".join(str(one) for one in offered if one.os not in ("", "unknown")) or "none"
            raise NotFound(f"there is no image for {platform}", hint=f"There are: {names}.")
        chosen.add(entries[index].digest)
    if len(chosen) > 1:
        about = {e.digest for e in entries if dict(e.annotations).get("vnd.docker.reference.digest") in chosen}
        chosen |= about
    return tuple(entry for entry in entries if entry.digest in chosen)


def _is_attestation(entry: Descriptor) -> bool:
    return entry.platform is not None and entry.platform.os == "unknown"


def _has(source: Reader, entry: Descriptor) -> bool:
    try:
        source.manifest(entry)
        return True
    except NotFound:
        return False


# ---- copying ---------------------------------------------------------------------------------------------------------


def copy_image(
    source: Reader,
    destinations: Sequence[Writer],
    root: Descriptor,
    steps: Steps,
    *,
    platforms: Sequence[Platform] = (),
    workers: int = WORKERS,
) -> Descriptor:
    """Copy `root` and all it refers to into every destination at once, then name it there; returns what was named.

    Blobs travel `workers` at a time for each destination. A failure stops everything: only a place that was complete
    by then has the name. Raises what readers and writers raise.
    """
    tree = gather(source, root, platforms)
    stop = threading.Event()
    with _pool(workers * len(destinations), "copy") as blobs, _pool(len(destinations), "copy-to") as places:
        copies = [_Copy(source, place, tree, steps, stop) for place in destinations]
        _all([places.submit(copy.run, blobs) for copy in copies], stop)
    return tree.root


def _pool(threads: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, threads), thread_name_prefix=name)


def _all(tasks: Sequence["Future[None]"], stop: threading.Event) -> None:
    """Wait for all tasks; the first failure stops the others and is raised."""
    failure: BaseException | None = None
    try:
        for task in as_completed(tasks):
            error = task.exception()
            if error and (failure is None or isinstance(failure, Cancelled)):
                failure = error
                stop.set()
    except BaseException:  # Ctrl-C, while waiting
        stop.set()
        raise
    if failure:
        raise failure


class _Copy:
    """One image on its way to one place."""

    def __init__(self, source: Reader, place: Writer, tree: Tree, steps: Steps, stop: threading.Event) -> None:
        self._source, self._place, self._tree, self._steps, self._stop = source, place, tree, steps, stop

    def run(self, pool: ThreadPoolExecutor) -> None:
        root, data = self._tree.documents[-1]
        if not self._place.has(root):
            _all([pool.submit(self._blob, blob) for blob in self._missing()], self._stop)
            for descriptor, document in self._tree.documents[:-1]:
                self._place.put_manifest(descriptor, document)
        started = time.time()
        title = f"pushing manifest for {self._place.name}"
        self._steps.status(title, started=started)
        if self._stop.is_set():
            raise Cancelled("another part of the copy failed")
        self._place.publish(root, data)
        self._steps.status(title, started=started, done=True)

    def _missing(self) -> list[Descriptor]:
        """The blobs to send: without those of images the place has already. Largest first, so that no long one starts
        last.
        """
        there = set[Digest]()
        for descriptor, data in self._tree.documents[:-1]:
            if descriptor.media_type in MANIFESTS and self._place.has(descriptor):
                manifest = Manifest.from_bytes(data, descriptor.media_type)
                there |= {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
        return sorted((b for b in self._tree.blobs if b.digest not in there), key=lambda b: b.size, reverse=True)

    def _blob(self, blob: Descriptor) -> None:
        if self._stop.is_set():
            raise Cancelled("another part of the copy failed")
        meter = _Meter(self._steps, f"copying {blob.digest} to {self._place.name}", self._stop)

        def open_at(offset: int) -> BinaryIO:
            return self._source.open(blob, offset)

        self._place.put_blob(blob, open_at, self._source.repository(blob), meter)
        meter.done(blob.size)


class _Meter:
    """Progress of one blob as status events, ten a second at most."""

    def __init__(self, steps: Steps, title: str, stop: threading.Event) -> None:
        self._steps, self._title, self._stop = steps, title, stop
        self._started, self._told = time.time(), 0.0

    def __call__(self, current: int, total: int) -> None:
        if self._stop.is_set():
            raise Cancelled("another part of the copy failed")
        now = time.monotonic()
        if now - self._told >= _BETWEEN:
            self._told = now
            self._steps.status(self._title, current, total, started=self._started)

    def done(self, total: int) -> None:
        self._steps.status(self._title, total, total, started=self._started, done=True)
