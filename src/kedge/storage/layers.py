"""Layers: immutable directories in overlayfs form, by short id, each made or fetched once.

Owns `layers/<id>` and which directories make up a snapshot. Does not know ops, images or registries: bytes that are not
here come through the store's `fetch`. Records are in `layer_records`, coming into being in `unpacking` and `drafts`,
bytes in `layer_bytes`.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.model.digest import Digest
from kedge.model.errors import InvalidInput, NotFound, StoreError
from kedge.model.graph import Layer, Snapshot
from kedge.model.image import Descriptor
from kedge.model.value import dataclass, field
from kedge.storage import overlay
from kedge.storage.drafts import Draft
from kedge.storage.layer_bytes import Compression, Estargz, LayerBytes
from kedge.storage.layer_records import Declared, LayerInfo, LayerRecords, State
from kedge.storage.tree import Filter, Tree
from kedge.storage.unpacking import Progress, Unpacker

if TYPE_CHECKING:
    from kedge.storage.implied import Stack
    from kedge.storage.packing import Writable

__all__ = ["Compression", "Declared", "Draft", "LayerInfo", "LayerStore", "Progress"]
_AT_ONCE = 6  # layers fetched and unpacked at the same time: waiting for the network most of it


@dataclass(slots=True)
class _Adopted:
    """A client's directory, and the layer it was copied into once something had to mount it."""

    directory: Path
    patterns: Filter | None
    copy: Layer | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class LayerStore:
    """Layers of one store. Every method may be called by several threads and processes at once."""

    def __init__(
        self,
        root: Path,
        records: LayerRecords,
        unpacker: Unpacker,
        layer_bytes: LayerBytes,
        complete: "Callable[[Stack], tuple[Path, ...]]",
        start_draft: Callable[[tuple[Path, ...]], Draft],
    ) -> None:
        self._root, self._records = root, records
        self._unpacker, self._bytes, self._start_draft = unpacker, layer_bytes, start_draft
        self._complete = complete  # puts into a stack what implied directories take from below
        self.watch: Progress | None = None  # told of fetching and unpacking where the caller gives no progress
        self._ready: dict[Layer, State] = {}  # known to be ready, and kept so by our lease
        self._adopted: dict[Layer, _Adopted] = {}

    # ---- coming into being -------------------------------------------------------------------------------------------

    def declare(self, diff_id: Digest, descriptor: Descriptor, origin: str = "") -> Layer:
        """The layer with that diff id; made lazy, without any bytes, if it is new. Idempotent; touches no network."""
        return self._records.declare([Declared(diff_id, descriptor, origin)])[0]

    def declare_all(self, layers: Iterable[Declared]) -> Snapshot:
        """`declare` for an image's layers, bottom first, in one transaction."""
        return tuple(self._records.declare(list(layers)))

    def draft(self, snapshot: Snapshot = (), progress: Progress | None = None) -> Draft:
        """A new layer on top of `snapshot`, whose directories are fetched and unpacked if need be."""
        return self._start_draft(self.directories(snapshot, progress))

    def adopt(self, directory: Path, patterns: Filter | None = None) -> Layer:
        """A layer that stands for a client's directory, seen through a filter, for as long as this store is open.

        It is read in place by `mounted` when alone in its snapshot; else, and by `directory`, copied first, once.
        """
        layer = Layer(f"~{len(self._adopted) + 1}")
        self._adopted[layer] = _Adopted(directory, patterns)
        return layer

    # ---- use as files ------------------------------------------------------------------------------------------------

    def directory(self, layer: Layer, progress: Progress | None = None) -> Path:
        """The layer's directory; fetched, verified and unpacked on demand, once for all threads and processes.

        Raises IntegrityError when the bytes are not what was declared, StoreError, NotFound, and what `Store.fetch`
        raises.
        """
        layer = self._materialized(layer)
        self._have((layer,), progress)
        return self._records.directory(layer)

    def directories(self, snapshot: Snapshot, progress: Progress | None = None) -> tuple[Path, ...]:
        """Directories to stack, bottom first; fetched and unpacked in parallel. Layers that one above hides are left
        out, what `implied` directories take from below is put in.
        """
        layers = tuple(map(self._materialized, snapshot))
        self._have(layers, progress)
        # A layer twice in a stack (a merge may do that) would be refused by the kernel; the upper one decides.
        visible: dict[Layer, tuple[Path, tuple[str, ...]]] = {}
        for layer in reversed(layers):
            state = self._ready[layer]
            visible.setdefault(layer, (self._records.directory(layer), state.implied))
            if state.opaque:
                break
        stack = tuple(reversed(visible.values()))
        return self._complete(stack) if any(implied for _, implied in stack) else tuple(path for path, _ in stack)

    def kept(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with layers of this store in place of a client's directories, which are copied first, once."""
        return tuple(map(self._materialized, snapshot))

    @contextmanager
    def mounted(self, snapshot: Snapshot, progress: Progress | None = None) -> Iterator[Tree]:
        """The merged, read-only tree of a snapshot, by a mount that is attached nowhere."""
        if len(snapshot) == 1 and (adopted := self._adopted.get(snapshot[0])):
            with _opened(adopted.directory) as fd:
                yield Tree(fd, adopted.patterns, in_place=True)
            return
        with self.seen(self.directories(snapshot, progress)) as tree:
            yield tree

    @contextmanager
    def seen(self, directories: Sequence[Path]) -> Iterator[Tree]:
        """The merged, read-only tree of directories in overlayfs form, bottom first; the last may be an upper one of a
        mount that lives, whose changes may be seen or not.
        """
        if not directories:
            with _opened(self._root / "empty") as fd:
                yield Tree(fd)
            return
        if len(directories) == 1:  # a read-only overlay needs two; alone, a layer might show its whiteouts
            directories = (self._root / "empty", *directories)
        with overlay.merged(directories) as fd:
            yield Tree(fd)

    # ---- use as bytes ------------------------------------------------------------------------------------------------

    def info(self, layer: Layer) -> LayerInfo:
        """What is known without touching files. Raises NotFound."""
        return self._records.info(self._materialized(layer))

    def find(self, diff_id: Digest) -> Layer | None:
        """The layer with that diff id, clamped or not."""
        return self._records.find(diff_id)

    def diff_id(
        self, layer: Layer, *, clamp: int | None = None, progress: Progress | None = None
    ) -> tuple[Digest, int]:
        """Digest and size of the layer's tar: as declared, else written and hashed once, then remembered.

        The size of a declared layer is -1 while it was never unpacked: asking costs no byte of it.
        `clamp` lowers later times to that many seconds since the epoch; it leaves declared layers alone.
        """
        return self._bytes.diff_id(self._materialized(layer), clamp, progress)

    def knows_diff_id(self, layer: Layer, *, clamp: int | None = None) -> bool:
        """Would `diff_id` answer at once?"""
        return self._bytes.knows_diff_id(self._materialized(layer), clamp)

    def blob(
        self,
        layer: Layer,
        compression: Compression = "gzip",
        level: int | None = None,
        *,
        clamp: int | None = None,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Descriptor:
        """The layer as a blob in the blob store: made on first demand in one pass, then remembered, else found.

        A declared layer keeps the blob it came as, whatever its compression, unless `force` and another is wanted; the
        bytes of what it came as may not be in the blob store: see `fetch_blob`. What is made is a function of the tree
        and the options. Raises InvalidInput for a level that is none.
        """
        return self._bytes.blob(self._materialized(layer), compression, level, clamp, force, progress)

    def estargz(
        self, layer: Layer, level: int | None = None, *, clamp: int | None = None, progress: Progress | None = None
    ) -> Estargz:
        """The layer in eStargz form, whose tar is another than the layer's own: made once, in one pass, remembered."""
        return self._bytes.estargz(self._materialized(layer), level, clamp, progress)

    def packed(
        self, diff_id: Digest, compression: Compression, level: int | None = None, *, progress: Progress | None = None
    ) -> Descriptor | None:
        """`blob`, forced, for the layer whose tar (clamped or not) is `diff_id`; None when there is no such layer."""
        return self._bytes.packed(diff_id, compression, level, progress)

    def origins(self, digest: Digest) -> list[str]:
        """Where a layer's blob was declared to come from."""
        return [origin for _, origin in self._records.sources_of_blob(digest) if origin]

    def fetch_blob(self, descriptor: Descriptor, progress: Progress | None = None) -> None:
        """Have the bytes of a layer's blob in the blob store: found, made again, or fetched from where it was declared.

        Raises NotFound for a blob that belongs to no layer.
        """
        self._bytes.fetch_blob(descriptor, progress or self.watch)

    def write_tar(self, layer: Layer, out: "Writable", *, clamp: int | None = None) -> None:
        """Write the layer's uncompressed tar to `out`, without keeping it."""
        self._bytes.write_tar(self._materialized(layer), out, clamp)

    # ---- having directories ------------------------------------------------------------------------------------------

    def _have(self, layers: tuple[Layer, ...], progress: Progress | None) -> None:
        """Make the layers ready, several at a time."""
        progress = progress or self.watch
        unknown = [layer for layer in dict.fromkeys(layers) if layer not in self._ready]
        if not unknown:
            return
        states = self._records.use(unknown)
        lazy = [layer for layer, state in states.items() if not state.ready]
        if len(lazy) == 1:
            self._unpacker.make_ready(lazy[0], progress)
        elif lazy:
            self._make_ready(lazy, progress)
        self._ready |= states | (self._records.use(lazy) if lazy else {})

    def _make_ready(self, lazy: list[Layer], progress: Progress | None) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(_AT_ONCE, len(lazy)), "kedge-layer") as pool:
            jobs = [pool.submit(self._unpacker.make_ready, layer, progress) for layer in lazy]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                for job in jobs:
                    job.cancel()
                raise

    def _materialized(self, layer: Layer) -> Layer:
        """The layer itself, or the copy of a client's directory."""
        if not layer.startswith("~"):
            return layer
        adopted = self._adopted.get(layer)
        if adopted is None:
            raise NotFound(f"no directory was adopted as {layer}")
        with adopted.lock:
            if adopted.copy is None:
                adopted.copy = self._copy(layer, adopted)
            return adopted.copy

    def _copy(self, layer: Layer, adopted: _Adopted) -> Layer:
        from kedge.model import ops
        from kedge.storage.copy import copy

        everything = ops.Copy("/", "/", contents_only=True, create_dest_path=True)
        with self.draft() as draft:
            with self.mounted((layer,)) as source, draft.tree() as dest:
                copy(everything, source, dest.fd)
            return draft.commit(f"copy of {adopted.directory}")


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{directory} is no directory") from None
    except PermissionError:
        raise InvalidInput(f"{directory} may not be read") from None
    except OSError as error:
        raise StoreError(f"cannot open {directory}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)
