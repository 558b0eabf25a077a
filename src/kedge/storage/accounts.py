"""What is on disk, to the block, and what of it an image holds.

Owns no file. Sizes of immutable layers are measured once and remembered. Does not know what may go (`gc`).
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from kedge.model.digest import Digest
from kedge.model.errors import KedgeError
from kedge.model.graph import Layer
from kedge.model.image import INDEXES, Descriptor, ImageConfig, Index, Manifest
from kedge.model.value import dataclass, field
from kedge.storage.blobs import BlobStore
from kedge.storage.database import Database
from kedge.storage.disk import measure
from kedge.storage.images import ImageStore
from kedge.storage.layer_records import IMPLIED, READY, LayerRecords
from kedge.storage.locks import living_leases

Kind: TypeAlias = Literal["layer", "blob", "cache-mount", "log", "source", "draft", "store"]
_TRANSIENT = ("drafts", "ingest", "trash")
_FIXED = (
    "blobs",
    "blobs/sha256",
    "blobs/sha512",
    "layers",
    "cache-mounts",
    "logs",
    "git",
    "leases",
    "empty",
    *_TRANSIENT,
)
_OWN = {part.partition("/")[0] for part in _FIXED}


@dataclass(frozen=True, slots=True)
class Usage:
    """One thing on disk. `size` is what it takes there, in bytes (blocks, not lengths); what hard links share counts
    once.

    `in_use`: needed by a named image, a running build or container; prune leaves it. `shared`: an image holds it. Kind
    `source` is a copy of a remote repository, `draft` what is on its way in or out, `store` the database, the
    directories themselves and small things of others.
    """

    id: str
    kind: Kind
    size: int
    created: float
    last_used: float
    in_use: bool
    shared: bool
    description: str


@dataclass(slots=True)
class Held:
    """What images need: blobs and layers."""

    blobs: set[Digest] = field(default_factory=set)
    layers: set[Layer] = field(default_factory=set)


class Accounts:
    """Counts one store."""

    def __init__(
        self, root: Path, database: Database, records: LayerRecords, blobs: BlobStore, images: ImageStore
    ) -> None:
        self._root, self._database, self._records, self._blobs, self._images = root, database, records, blobs, images

    def usage(self, *, unnamed: bool = True) -> list[Usage]:
        """Everything, most recently used first. `unnamed`: images without a name hold what they need."""
        held, since = self.held(unnamed=unnamed), self.protected_since()
        seen: set[tuple[int, int]] = set()
        found = [
            *self._layers(held, since, seen),
            *self._blob_files(held, since),
            *self._cache_mounts(since, seen),
            *self._logs(since),
            *self._sources(since, seen),
            *self._transient(seen),
            self._frame(),
        ]
        return sorted(found, key=lambda usage: (-usage.last_used, usage.kind, usage.id))

    def protected_since(self) -> float:
        """What was used since then belongs to somebody who still works."""
        return min(living_leases(self._root).values(), default=float("inf"))

    def count(self) -> int:
        """Bytes on disk without what is being written, which is reserved."""
        seen: set[tuple[int, int]] = set()
        held, never = Held(), float("inf")
        parts = (
            self._layers(held, never, seen),
            self._blob_files(held, never),
            self._cache_mounts(never, seen),
            self._logs(never),
            self._sources(never, seen),
        )
        return sum(usage.size for part in parts for usage in part) + self._frame().size + self._partial()

    # ---- images ------------------------------------------------------------------------------------------------------

    def held(self, *, unnamed: bool = True) -> Held:
        """What images, those without a name if `unnamed`, and those that containers stand on need to be whole."""
        held = Held()
        for record in self._images.list():
            if unnamed or record.name != record.id:
                self._hold(record.target, held)
        for path in self._root.glob("containers/*/target.json"):  # the image that a container stands on
            with suppress(KedgeError, OSError, ValueError):
                self._hold(Descriptor.from_json(json.loads(path.read_bytes())), held)
        self._hold_implied(held)
        return held

    def _hold_implied(self, held: Held) -> None:
        """Layers of implied directories are held as long as there is one that may have needed them: they are tiny."""
        needing = {row[0] for row in self._database.rows("SELECT id FROM layers WHERE implied IS NOT NULL")}
        if needing & held.layers:
            made = self._database.rows("SELECT id FROM layers WHERE description LIKE ?", f"{IMPLIED} %")
            held.layers |= {Layer(row[0]) for row in made}

    def _hold(self, target: Descriptor, held: Held) -> None:
        if target.digest in held.blobs:
            return
        held.blobs.add(target.digest)
        for about in self._images.referrers(target.digest):
            self._hold(about, held)
        # A part of an image that is not here, or damaged, holds nothing.
        with suppress(KedgeError, OSError):
            data = self.peek(target.digest)
            if target.media_type in INDEXES:
                for child in Index.from_bytes(data).manifests:
                    self._hold(child, held)
                return
            manifest = Manifest.from_bytes(data)
            layers = [layer.digest for layer in manifest.layers]
            made = {each for each in layers if self._database.row("SELECT 1 FROM forms WHERE digest = ?", each)}
            held.blobs |= {manifest.config.digest, *layers} - made  # what is made of a layer can be made again
            self._hold_layers(layers, held)
            self._hold_layers(ImageConfig.from_bytes(self.peek(manifest.config.digest)).diff_ids, held)

    def _hold_layers(self, digests: Iterable[Digest], held: Held) -> None:
        """Hold the layers that have one of the digests: as diff id, as a form, or as what they were declared to come
        as.
        """
        for digest in digests:
            for statement in (
                "SELECT id FROM layers WHERE diff_id = ?",
                "SELECT layer FROM forms WHERE digest = ?",
                "SELECT layer FROM sources WHERE digest = ?",
            ):
                held.layers |= {Layer(row[0]) for row in self._database.rows(statement, digest)}

    def peek(self, digest: Digest) -> bytes:
        """A small blob's bytes, read without marking it as used."""
        algorithm, _, hexadecimal = digest.partition(":")
        with open(self._root / "blobs" / algorithm / hexadecimal, "rb") as file:
            return file.read(16 << 20)

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _layers(self, held: Held, since: float, seen: set[tuple[int, int]]) -> Iterator[Usage]:
        rows = self._database.rows(
            "SELECT id, bytes, created, used, description, diff_id FROM layers WHERE state = ?", READY
        )
        measured = []
        for layer, size, created, used, description, diff_id in rows:
            if size is None:
                measure_ = measure(self._records.directory(Layer(layer)), seen)
                size = measure_.bytes
                if not measure_.linked:
                    measured.append((size, layer))
            shared = layer in held.layers
            yield Usage(
                layer, "layer", size, created, used, shared or used >= since, shared, description or diff_id or ""
            )
        if measured:
            with self._database.transaction() as connection:
                connection.executemany("UPDATE layers SET bytes = ? WHERE id = ?", measured)

    def _blob_files(self, held: Held, since: float) -> Iterator[Usage]:
        for digest, status in self._blobs.list():
            shared = digest in held.blobs
            used = status.st_mtime
            yield Usage(
                digest, "blob", status.st_blocks * 512, status.st_ctime, used, shared or used >= since, shared, ""
            )

    def _cache_mounts(self, since: float, seen: set[tuple[int, int]]) -> Iterator[Usage]:
        known = {row[0]: row[1:] for row in self._database.rows("SELECT * FROM cache_mounts")}
        for name in _names(self._root / "cache-mounts", depth=2):
            directory = self._root / "cache-mounts" / name
            changed = _changed(directory)
            description, created, used = known.get(name, ("", changed, changed))
            size = measure(directory, seen).bytes
            yield Usage(name, "cache-mount", size, created, used, used >= since, False, description)

    def _logs(self, since: float) -> Iterator[Usage]:
        known = {file: (name, started) for _, name, started, file in self._database.rows("SELECT * FROM logs")}
        for entry in os.scandir(self._root / "logs"):
            with suppress(FileNotFoundError):
                status = entry.stat()
                name, started = known.get(entry.name, ("", status.st_mtime))
                used = status.st_mtime
                yield Usage(entry.name, "log", status.st_blocks * 512, started, used, used >= since, False, name)

    def _sources(self, since: float, seen: set[tuple[int, int]]) -> Iterator[Usage]:
        for name in _names(self._root / "git", depth=1):
            directory = self._root / "git" / name
            used = _changed(directory)
            yield Usage(
                f"git/{name}", "source", measure(directory, seen).bytes, used, used, used >= since, False, "git"
            )

    def _transient(self, seen: set[tuple[int, int]]) -> Iterator[Usage]:
        for part in _TRANSIENT:
            for name in _names(self._root / part, depth=1):
                path = self._root / part / name
                with suppress(FileNotFoundError, NotADirectoryError):
                    size = measure(path, seen).bytes or path.lstat().st_blocks * 512
                    changed = _changed(path)
                    yield Usage(f"{part}/{name}", "draft", size, changed, changed, True, False, "being written")

    def _partial(self) -> int:
        """Bytes of broken downloads that wait to be continued."""
        return sum(entry.stat().st_blocks * 512 for entry in os.scandir(self._root / "ingest") if "." not in entry.name)

    def _frame(self) -> Usage:
        paths = [self._root, *(self._root / part for part in _FIXED)]
        paths += [self._root / "cache-mounts" / name for name in _names(self._root / "cache-mounts", depth=1)]
        paths += [Path(entry.path) for entry in os.scandir(self._root) if entry.is_file(follow_symlinks=False)]
        paths += [Path(entry.path) for entry in os.scandir(self._root / "leases")]
        others = [entry.path for entry in os.scandir(self._root) if entry.is_dir() and entry.name not in _OWN]
        size = sum(measure(Path(other)).bytes for other in others)
        for path in paths:
            with suppress(FileNotFoundError):
                size += path.lstat().st_blocks * 512
        status = self._root.lstat()
        return Usage("store", "store", size, status.st_ctime, status.st_mtime, True, False, "database and directories")


def _names(directory: Path, depth: int) -> list[str]:
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    if depth == 1:
        return names
    return [f"{name}/{below}" for name in names for below in _names(directory / name, depth - 1)]


def _changed(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.lstat().st_mtime
    return 0.0
