"""Where an image's bytes come from: what each layer adds, and what later layers hide of it and still ship.

Owns the comparison of layers, from their directories or, where those are not here, from the headers of their tars.
Sizes are those of files' contents in bytes; a file with several names counts once. Does not fetch anything, and does
not know how the result is shown.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

from kedge.checks.stage_sizes import Recorded, recorded
from kedge.images.lookup import StoredImage
from kedge.model.digest import Digest
from kedge.model.value import dataclass, field
from kedge.storage.ownership import overlay_prefix
from kedge.storage.store import Store

Kind: TypeAlias = Literal["file", "directory", "whiteout", "opaque"]
Entry: TypeAlias = tuple[str, Kind, int]  # path without a leading slash, kind, bytes

MOST_HIDDEN: Final = 50  # hidden paths that are told, the biggest
_NO_INSTRUCTION: Final = "(no history)"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One layer. `size` and `files` are None where its files are not here; `compressed` is what travels, if known.

    `hidden` bytes and `hidden_files` are those that later layers delete or replace.
    """

    created_by: str
    diff_id: Digest
    size: int | None
    files: int | None
    hidden: int = 0
    hidden_files: int = 0
    compressed: int | None = None


@dataclass(frozen=True, slots=True)
class Hidden:
    """A path (with a leading slash) that is still shipped: with what it holds, added by one instruction, hidden by
    another. Both are indexes into the instructions.
    """

    path: str
    size: int
    files: int
    added_by: int
    hidden_by: int


@dataclass(frozen=True, slots=True)
class ImageSize:
    """The whole: instructions bottom first, hidden paths biggest first, and what is recorded of the other stages."""

    id: Digest
    instructions: tuple[Instruction, ...]
    hidden: tuple[Hidden, ...]
    stages: Recorded | None

    @property
    def size(self) -> int:
        """Bytes of all layers that are here."""
        return sum(one.size or 0 for one in self.instructions)

    @property
    def wasted(self) -> int:
        """Bytes that are shipped and cannot be seen."""
        return sum(one.hidden for one in self.instructions)


def measure(store: Store, image: StoredImage) -> ImageSize:
    """Compare the image's layers. Raises IntegrityError, StoreError."""
    texts = _instructions(image)
    merge = _Merge()
    rows = []
    for index, diff_id in enumerate(image.config.diff_ids):
        blob = image.manifest.layers[index] if index < len(image.manifest.layers) else None
        entries = _entries_of(store, diff_id, blob.digest if blob else diff_id)
        if entries is not None:
            merge.add(index, list(entries))
        compressed = blob.size if blob and blob.digest != diff_id else None
        rows.append((texts[index], diff_id, entries is not None, compressed))
    instructions = tuple(
        Instruction(
            text,
            diff_id,
            merge.size.get(index, 0) if here else None,
            merge.files.get(index, 0) if here else None,
            sum(one.size for one in merge.hidden if one.added_by == index),
            sum(one.files for one in merge.hidden if one.added_by == index),
            compressed,
        )
        for index, (text, diff_id, here, compressed) in enumerate(rows)
    )
    hidden = sorted((one for one in merge.hidden if one.size), key=lambda one: (-one.size, one.path))
    return ImageSize(image.id, instructions, tuple(hidden[:MOST_HIDDEN]), recorded(store, image.id))


def _instructions(image: StoredImage) -> list[str]:
    """The text that made each layer."""
    texts = [entry.created_by for entry in image.config.history if not entry.empty_layer]
    texts = texts[: len(image.config.diff_ids)]
    return texts + [_NO_INSTRUCTION] * (len(image.config.diff_ids) - len(texts))


# ---- merging ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    size: int
    layer: int


_Directory: TypeAlias = "dict[str, _File | _Directory]"


@dataclass(slots=True)
class _Merge:
    """The tree that can be seen so far, and what came to be hidden on the way."""

    size: dict[int, int] = field(default_factory=dict)
    files: dict[int, int] = field(default_factory=dict)
    hidden: list[Hidden] = field(default_factory=list)
    _tree: _Directory = field(default_factory=dict)

    def add(self, layer: int, entries: list[Entry]) -> None:
        """Put a layer on top. Its whiteouts are for what is below it, in whatever order they come."""
        for path, kind, _ in entries:
            if kind == "whiteout":
                self._remove(path, layer)
            elif kind == "opaque":
                self._empty(path, layer)
        for path, kind, size in entries:
            if kind == "file":
                self._put(path, _File(size, layer))
            elif kind == "directory":
                self._directory(path.split("/"), layer)
        self.size[layer] = sum(size for _, kind, size in entries if kind == "file")
        self.files[layer] = sum(kind == "file" for _, kind, _ in entries)

    def _directory(self, parts: list[str], layer: int) -> _Directory:
        """The directory of that path, made if it is missing or something else is there."""
        here = self._tree
        for depth, part in enumerate(parts):
            below = here.get(part)
            if not isinstance(below, dict):
                if below is not None:
                    self._hide("/".join(parts[: depth + 1]), below, layer)
                below = here[part] = {}
            here = below
        return here

    def _put(self, path: str, file: _File) -> None:
        *parents, name = path.split("/")
        directory = self._directory(parents, file.layer)
        if (before := directory.get(name)) is not None:
            self._hide(path, before, file.layer)
        directory[name] = file

    def _found(self, path: str) -> tuple[_Directory, str] | None:
        """The directory that has the path's last name."""
        *parents, name = path.split("/")
        here = self._tree
        for part in parents:
            below = here.get(part)
            if not isinstance(below, dict):
                return None
            here = below
        return (here, name) if name in here else None

    def _remove(self, path: str, layer: int) -> None:
        if found := self._found(path):
            directory, name = found
            self._hide(path, directory.pop(name), layer)

    def _empty(self, path: str, layer: int) -> None:
        if not path:
            for name, node in self._tree.items():
                self._hide(name, node, layer)
            self._tree = {}
        elif found := self._found(path):
            directory, name = found
            self._hide(path, directory[name], layer)
            directory[name] = {}

    def _hide(self, path: str, node: "_File | _Directory", layer: int) -> None:
        """Note, for each layer it came from, what goes out of sight."""
        sums: dict[int, list[int]] = {}
        stack = [node]
        while stack:
            one = stack.pop()
            if isinstance(one, dict):
                stack += one.values()
            elif one.layer != layer:
                count = sums.setdefault(one.layer, [0, 0])
                count[0] += one.size
                count[1] += 1
        self.hidden += [Hidden(f"/{path}", size, files, origin, layer) for origin, (size, files) in sums.items()]


# ---- reading layers --------------------------------------------------------------------------------------------------


def _entries_of(store: Store, diff_id: Digest, blob: Digest) -> Iterable[Entry] | None:
    """A layer's entries; None when neither its directory nor its blob is here."""
    layer = store.layers.find(diff_id)
    info = store.layers.info(layer) if layer else None
    if layer and info and info.ready:
        return _of_directory(store.layers.directory(layer))
    digests = dict.fromkeys([blob, diff_id, *(source.digest for source, _ in (info.sources if info else ()))])
    here = next((digest for digest in digests if store.blobs.has(digest)), None)
    return None if here is None else _of_tar(store, here)


def _of_directory(base: Path) -> Iterator[Entry]:
    """The entries of a layer's directory, which is in overlayfs's form."""
    attribute = f"{overlay_prefix()}opaque"
    seen: set[int] = set()
    stack = [""]
    while stack:
        directory = stack.pop()
        with os.scandir(base / directory) as entries:
            for entry in entries:
                path = f"{directory}/{entry.name}" if directory else entry.name
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    stack.append(path)
                    yield path, "directory", 0
                    if _is_opaque(entry.path, attribute):
                        yield path, "opaque", 0
                elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                    yield path, "whiteout", 0
                else:
                    first = status.st_nlink == 1 or status.st_ino not in seen
                    seen.add(status.st_ino)
                    yield path, "file", status.st_size if first and stat.S_ISREG(status.st_mode) else 0
    if _is_opaque(os.fspath(base), attribute):
        yield "", "opaque", 0


def _is_opaque(path: str, attribute: str) -> bool:
    try:
        return os.getxattr(path, attribute, follow_symlinks=False) in (b"y", b"Y")
    except OSError:
        return False


def _of_tar(store: Store, digest: Digest) -> Iterator[Entry]:
    """The entries of a layer's tar (OCI image specification, layer.md)."""
    from kedge.storage import tar_format as tar
    from kedge.storage.compression import decompressed
    from kedge.storage.tar_reader import Limits, TarReader

    with store.blobs.open(digest) as blob:
        for entry in TarReader(decompressed(blob), Limits()):
            path = os.fsdecode(entry.name).strip("/").removeprefix("./")
            directory, _, name = path.rpartition("/")
            if os.fsencode(name) == tar.OPAQUE:
                yield directory, "opaque", 0
            elif os.fsencode(name).startswith(tar.WHITEOUT):
                yield f"{directory}/{name[4:]}" if directory else name[4:], "whiteout", 0
            elif entry.kind == tar.DIRECTORY:
                if path not in ("", "."):
                    yield path, "directory", 0
            else:
                yield path, "file", entry.size if entry.kind == tar.FILE else 0
