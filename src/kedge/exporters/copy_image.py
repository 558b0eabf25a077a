"""Images from one place to another without unpacking: registry, layout directory or archive, store.

Owns the order (blobs before manifests, children before parents, the name last), parallelism and deduplication. Does
not know how any one place keeps its bytes: `places` holds the readers and writers.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import BinaryIO, Final, Protocol, TypeAlias

from kedge.exporters.gather import Reader, Tree, gather
from kedge.exporters.referrers import Referring, find_referrers, subjects_of
from kedge.model.digest import Digest
from kedge.model.errors import Cancelled
from kedge.model.image import MANIFESTS, Descriptor, Manifest
from kedge.model.platform import Platform
from kedge.model.reference import Reference

OpenAt: TypeAlias = Callable[[int], BinaryIO]  # a blob's bytes from an offset on
Progress: TypeAlias = Callable[[int, int], None]  # bytes so far, bytes in all

WORKERS: Final = 6
_BETWEEN: Final = 0.1  # seconds between two reports of one blob


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

    def refer(self, subject: Digest, listed: Descriptor, data: bytes) -> None:
        """Have a manifest about `subject`, whose parts are there already, and list it as such."""
        ...

    def publish(self, root: Descriptor, data: bytes) -> None:
        """Have `root`, whose parts are there, under the names it was sent here for. Atomic."""
        ...


class Steps(Protocol):
    """Where a copy tells how far it is (`sources.handler.Work` is one)."""

    def status(
        self, id: str, current: int = 0, total: int = 0, *, started: float | None = None, done: bool = False
    ) -> None: ...


# ---- copying ---------------------------------------------------------------------------------------------------------


def copy_image(
    source: Reader,
    destinations: Sequence[Writer],
    root: Descriptor,
    steps: Steps,
    *,
    platforms: Sequence[Platform] = (),
    referrers: bool = True,
    workers: int = WORKERS,
) -> Descriptor:
    """Copy `root` and all it refers to into every destination at once, then name it there; returns what was named.

    With `referrers`, what refers to it and to its images (attestations, signatures) comes along, before the name.
    Blobs travel `workers` at a time for each destination. A failure stops everything: only a place that was complete
    by then has the name. Raises what readers and writers raise.
    """
    tree = gather(source, root, platforms)
    about = _find(source, subjects_of(tree), steps) if referrers else []
    stop = threading.Event()
    with _pool(workers * len(destinations), "copy") as blobs, _pool(len(destinations), "copy-to") as places:
        copies = [_Copy(source, place, steps, stop, blobs) for place in destinations]
        _all([places.submit(copy.image, tree, about) for copy in copies], stop)
    return tree.root


def copy_referrers(source: Reader, destination: Writer, subjects: Sequence[Digest], steps: Steps) -> None:
    """Copy what refers to manifests that are there already. Raises what reader and writer raise."""
    about = _find(source, subjects, steps)
    with _pool(WORKERS, "copy") as blobs:
        copy = _Copy(source, destination, steps, threading.Event(), blobs)
        for one in about:
            copy.referrer(one)


def _find(source: Reader, subjects: Sequence[Digest], steps: Steps) -> list[Referring]:
    return find_referrers(source, subjects, lambda text: steps.status(f"left out: {text}", done=True))


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
    """What goes to one place."""

    def __init__(
        self, source: Reader, place: Writer, steps: Steps, stop: threading.Event, pool: ThreadPoolExecutor
    ) -> None:
        self._source, self._place, self._steps, self._stop, self._pool = source, place, steps, stop, pool

    def image(self, tree: Tree, about: Sequence[Referring]) -> None:
        """An image, then what refers to it, then its name."""
        root, data = tree.documents[-1]
        if not self._place.has(root):
            self._parts(tree)
        if about:
            self._place.put_manifest(root, data)
        for one in about:
            self.referrer(one)
        started = time.time()
        title = f"pushing manifest for {self._place.name.partition('@')[0]}@{root.digest}"
        self._steps.status(title, started=started)
        self._go_on()
        self._place.publish(root, data)
        self._steps.status(title, started=started, done=True)

    def referrer(self, one: Referring) -> None:
        """A manifest about one that is there."""
        started, title = time.time(), f"copying what refers to {one.subject} to {self._place.name}"
        self._steps.status(title, started=started)
        manifest, data = one.tree.documents[-1]
        if not self._place.has(manifest):
            self._parts(one.tree)
        self._go_on()
        self._place.refer(one.subject, one.listed, data)
        self._steps.status(title, started=started, done=True)

    def _parts(self, tree: Tree) -> None:
        _all([self._pool.submit(self._blob, blob) for blob in self._missing(tree)], self._stop)
        for descriptor, document in tree.documents[:-1]:
            self._place.put_manifest(descriptor, document)

    def _missing(self, tree: Tree) -> list[Descriptor]:
        """The blobs to send: without those of images the place has already. Largest first, so that no long one starts
        last.
        """
        there = set[Digest]()
        for descriptor, data in tree.documents[:-1]:
            if descriptor.media_type in MANIFESTS and self._place.has(descriptor):
                manifest = Manifest.from_bytes(data, descriptor.media_type)
                there |= {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
        return sorted((b for b in tree.blobs if b.digest not in there), key=lambda b: b.size, reverse=True)

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Cancelled("another part of the copy failed")

    def _blob(self, blob: Descriptor) -> None:
        self._go_on()
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
