"""From a lazy layer to its directory: fetch, verify, decompress, unpack, once.

Owns nothing that lasts. Does not know tar (`tar_read`), compression (`compression`) or registries (`fetch` is given). A
blob is verified when it comes in; here the diff id is, in the same pass that unpacks. A large blob is unpacked while it
comes in, into a draft that becomes the layer's directory only after both were found right.
"""

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

from kedge.model.digest import Digest
from kedge.model.errors import IntegrityError, KedgeError, NotFound, StoreError
from kedge.model.graph import Layer
from kedge.model.image import Descriptor
from kedge.storage.arriving import Arriving
from kedge.storage.blobs import BlobStore, BlobWriter
from kedge.storage.budget import Budget
from kedge.storage.disk import remove_tree, translated
from kedge.storage.layer_records import LayerInfo, LayerRecords
from kedge.storage.locks import Lease, Locks

if TYPE_CHECKING:
    from kedge.storage.compression import Decompressed, Source

_T = TypeVar("_T")
_CHUNK = 1 << 20
_AHEAD = 4  # chunks decompressed ahead of the unpacking
_SMALL = 256 << 10  # a compressed layer below this is not worth a thread
_LARGE = 1 << 20  # one from this on is unpacked while it comes in


class Progress(Protocol):
    """Told of long work, from any thread, at most some times a second: fast, never raises (but to stop the work)."""

    def __call__(
        self, action: Literal["fetching", "unpacking", "packing"], digest: Digest, current: int, total: int
    ) -> None:
        """`current` of `total` bytes (0: unknown) of a blob are done; packing gives the layer's diff id, if known."""


FetchProgress: TypeAlias = Callable[[int, int], None]
# fetch(origin, descriptor, writer, progress): write the blob's bytes from `writer.offset` on (or `restart()` it) and
# commit. `progress(current, total)` in bytes. Blocks; called on any thread, for several blobs at once.
Fetch: TypeAlias = Callable[[str, Descriptor, BlobWriter, FetchProgress], None]


class Unpacker:
    """Makes lazy layers ready."""

    def __init__(
        self,
        root: Path,
        records: LayerRecords,
        blobs: BlobStore,
        locks: Locks,
        lease: Lease,
        budget: Budget,
        fetch: Callable[[], Fetch | None],
    ) -> None:
        self._drafts, self._trash = root / "drafts", root / "trash"
        self._records, self._blobs, self._locks, self._lease = records, blobs, locks, lease
        self._budget, self._fetch = budget, fetch
        self.remake: Callable[[Digest], bool] = lambda digest: False  # set by who can make layers' blobs again

    def make_ready(self, layer: Layer, progress: Progress | None) -> None:
        """Have the layer's directory, waiting for another thread or process that is at it."""
        with self._locks.held(f"layer:{layer}"):
            info = self._records.info(layer)
            if info.ready:
                return
            if not info.sources:
                raise StoreError(f"layer {layer} is damaged: it has neither files nor a source")
            here = self._here(info)
            if here is None:
                here = self._from_any(info, lambda blob, origin: self._receive(info, blob, origin, progress))
            if here is not None:
                with self._blobs.open(here.digest) as blob:
                    self._unpack(info, here, blob, progress)

    def have(self, descriptor: Descriptor, origin: str, progress: Progress | None) -> None:
        """Have a blob in the blob store, made again or fetched from `origin`, once for all. Raises NotFound."""
        with self._coming(descriptor, origin, progress) as coming:
            if coming:
                coming[1]()

    def have_any(self, info: LayerInfo, progress: Progress | None) -> Descriptor:
        """Have one of the layer's blobs: one that is here, else the first that can be fetched."""

        def fetched(descriptor: Descriptor, origin: str) -> Descriptor:
            self.have(descriptor, origin, progress)
            return descriptor

        return self._here(info) or self._from_any(info, fetched)

    def _here(self, info: LayerInfo) -> Descriptor | None:
        return next((descriptor for descriptor, _ in info.sources if self._blobs.has(descriptor.digest)), None)

    def _from_any(self, info: LayerInfo, obtain: Callable[[Descriptor, str], _T]) -> _T:
        """What `obtain` gives for the first of the layer's sources for which it does not fail."""
        for index, (descriptor, origin) in enumerate(info.sources, 1):
            try:
                return obtain(descriptor, origin)
            except KedgeError:
                if index == len(info.sources):
                    raise
        raise NotFound(f"layer {info.id} has no source")

    @contextmanager
    def _coming(
        self, descriptor: Descriptor, origin: str, progress: Progress | None
    ) -> "Iterator[tuple[BlobWriter, Callable[[], None]] | None]":
        """A writer for a blob and what fills and commits it, while no one else is at it; None when the blob is here."""
        with self._locks.held(f"blob:{descriptor.digest}"):
            if self._blobs.has(descriptor.digest) or self.remake(descriptor.digest):
                yield None
                return
            fetch = self._fetch()
            if not origin or fetch is None:
                raise NotFound(f"the store has no blob {descriptor.digest}, and nowhere to fetch it from")

            def report(current: int, total: int) -> None:
                if progress:
                    progress("fetching", descriptor.digest, current, total or descriptor.size)

            def fill() -> None:
                fetch(origin, descriptor, writer, report)
                if writer.digest is None:
                    writer.commit()

            with self._blobs.writer(descriptor) as writer:
                if _whole(writer):
                    yield None
                else:
                    yield writer, fill

    def _receive(
        self, info: LayerInfo, descriptor: Descriptor, origin: str, progress: Progress | None
    ) -> Descriptor | None:
        """Have one blob of the layer, and its directory too if it could be unpacked on the way: then None is returned,
        else the descriptor of the blob, which is to be unpacked (again, if that failed on the way: then for certain
        reasons).
        """
        with self._coming(descriptor, origin, progress) as coming:
            if coming is None:
                return descriptor
            writer, fill = coming
            if descriptor.size < _LARGE:
                fill()
                return descriptor
            with Arriving(writer, fill) as blob:
                try:
                    self._unpack(info, descriptor, blob, progress, blob)
                except (IntegrityError, _Disturbed):
                    blob.leave()
                    blob.join()
                    return descriptor
                except BaseException:
                    blob.stop()
                    raise
        return None

    def _unpack(
        self,
        info: LayerInfo,
        descriptor: Descriptor,
        blob: "Source",
        progress: Progress | None,
        arriving: Arriving | None = None,
    ) -> None:
        """Unpack `blob`, and make what came out the layer's directory; of one `arriving`, after it was verified."""
        from kedge.storage.tar_read import unpack

        draft = self._drafts / self._lease.new_name()
        with translated("unpack a layer"):
            draft.mkdir(0o755)
            fd = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        reservation = self._budget.reserve(descriptor.size)

        def report(done: int) -> None:
            reservation.cover(done)
            if progress:
                progress("unpacking", descriptor.digest, stream.consumed, descriptor.size)

        try:
            with verified(blob, descriptor, arriving.leave if arriving else None) as stream:
                unpacked = unpack(stream, fd, layer=True, progress=report)
                stream.finish(info.diff_id)
            if arriving:
                arriving.join()
                if not arriving.undisturbed:
                    raise _Disturbed
            self._records.fill(info.id, draft, stream.size, unpacked.opaque_root, unpacked.implied)
        except BaseException:
            _discard(draft, self._trash)
            raise
        finally:
            os.close(fd)
            reservation.settle(0)


class _Disturbed(Exception):
    """A blob started anew while it was unpacked."""


def _whole(writer: BlobWriter) -> bool:
    """Did an earlier attempt write every byte, and die before it could say so?"""
    if not writer.expected or writer.offset < writer.expected.size or not writer.offset:
        return False
    try:
        writer.commit()
    except IntegrityError:
        return False
    return True


def _discard(draft: Path, trash: Path) -> None:
    try:
        os.rename(draft, trash / draft.name)
    except OSError:
        return
    remove_tree(trash / draft.name)


# ---- the stream ------------------------------------------------------------------------------------------------------


class VerifiedStream:
    """The plain bytes of a compressed layer, decompressed and hashed one step ahead of who reads them.

    `size` counts bytes out, `consumed` compressed bytes in. A context manager; `left` is called when it is left, to end
    a read that waits.
    """

    def __init__(self, source: "Decompressed", ahead: bool, left: Callable[[], None] | None = None) -> None:
        self._left = left
        self._source, self._hash = source, hashlib.sha256()
        self._current, self._position = b"", 0
        self._queue: queue.Queue[bytes | BaseException] | None = queue.Queue(_AHEAD) if ahead else None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="kedge-decompress", daemon=True) if ahead else None
        self.size = 0

    @property
    def consumed(self) -> int:
        return self._source.consumed

    def read(self, size: int, /) -> bytes:
        if self._position >= len(self._current):
            self._current, self._position = self._next(), 0
        data = self._current[self._position : self._position + size]
        self._position += len(data)
        return data

    def finish(self, expected: Digest | None) -> None:
        """Read to the end; raises IntegrityError unless all bytes together have the `expected` digest."""
        while self._next():
            pass
        digest = f"sha256:{self._hash.hexdigest()}"
        if expected and digest != expected:
            raise IntegrityError(f"a layer's content is {digest} and not {expected}, as the image's config promises")

    def __enter__(self) -> "VerifiedStream":
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._left:
            self._left()
        if self._thread and self._queue:
            while self._thread.is_alive():
                try:
                    self._queue.get(timeout=0.05)
                except queue.Empty:
                    continue
            self._thread.join()

    def _next(self) -> bytes:
        if self._queue is None:
            return self._make()
        item = self._queue.get()
        if isinstance(item, BaseException) or not item:
            self._queue.put(item)  # who asks again gets the same answer
        if isinstance(item, BaseException):
            raise item
        return item

    def _make(self) -> bytes:
        data = self._source.read(_CHUNK)
        self._hash.update(data)
        self.size += len(data)
        return data

    def _work(self) -> None:
        assert self._queue is not None
        data: bytes | BaseException = b"-"
        while data and not isinstance(data, BaseException) and not self._stopped.is_set():
            try:
                data = self._make()
            except BaseException as error:  # handed to the reader
                data = error
            self._queue.put(data)


def verified(blob: "Source", descriptor: Descriptor, left: Callable[[], None] | None = None) -> VerifiedStream:
    """The stream of a layer blob. Its first bytes tell how it is compressed: media types of real images lie."""
    from kedge.storage.compression import decompressed

    return VerifiedStream(decompressed(blob), descriptor.size >= _SMALL, left)
