"""What one layer brings that a final image should not have: a walk over its directory with the tables in hand.

Owns the walk. A layer's directory never changes, so what is seen is remembered by the layer's id. Does not know which
instruction made a layer, nor what is said about it.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from kedge.checks.leftover_table import (
    DIRECTORIES,
    NAMED_DIRECTORIES,
    NOT_SOURCE,
    PACKAGES,
    PROGRAM_DIRECTORIES,
    PROGRAMS,
    SOURCE_INSTEAD,
    SOURCE_MARKS,
    Kind,
    Row,
)
from kedge.checks.secrets import INSTEAD, LONGEST, is_suspect, secret_in
from kedge.model.graph import Layer
from kedge.model.value import dataclass
from kedge.storage.store import Store

VERSION = 1  # of the tables and the walk: remembered answers of another are not used
_MOST = 200  # findings of one layer: more make nobody wiser


@dataclass(frozen=True, slots=True)
class Leftover:
    """One finding: the path (with a leading slash), its size in bytes with all below it."""

    kind: Kind
    what: str
    instead: str
    path: str
    size: int


def leftovers(store: Store, layer: Layer) -> tuple[Leftover, ...]:
    """What a layer brings; () for one whose directory is not here."""
    key = f"leftovers:{VERSION}:{layer}"
    if (text := store.notes.get(key)) is not None:
        return tuple(Leftover(*row) for row in json.loads(text))
    if not store.layers.info(layer).ready:
        return ()
    found = tuple(scan(store.layers.directory(layer)))
    rows = [[one.kind, one.what, one.instead, one.path, one.size] for one in found]
    store.notes.put(key, json.dumps(rows, separators=(",", ":")))
    return found


def scan(directory: Path) -> list[Leftover]:
    """What is in a layer's directory."""
    walk = _Walk(os.fspath(directory))
    walk.below("")
    return walk.found[:_MOST]


class _Walk:
    """One walk: what was found, and where source may be (mark's directory -> language, suffixes)."""

    def __init__(self, base: str) -> None:
        self._base = base
        self.found: list[Leftover] = []

    def below(self, top: str) -> None:
        stack = [top]
        while stack:
            path = stack.pop()
            for entry in _entries(f"{self._base}/{path}"):
                here = f"{path}/{entry.name}" if path else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if self._directory(here, entry.name):
                        stack.append(here)
                elif entry.is_file(follow_symlinks=False):
                    self._file(path, here, entry)

    def _directory(self, path: str, name: str) -> bool:
        """Note a directory that is a leftover as a whole; else True: it is to be walked."""
        row = DIRECTORIES.get(path) or DIRECTORIES.get(_of_home(path))
        if row is None and name in NAMED_DIRECTORIES and self._is_repository(path, name):
            row = NAMED_DIRECTORIES[name]
        if row is None:
            return True
        size = self._measure(path)
        if size:
            self._note(row, path, size)
        if name == ".git":
            self._look_for_secret(f"{path}/config")
        return False

    def _is_repository(self, path: str, name: str) -> bool:
        return name != ".git" or os.path.exists(f"{self._base}/{path}/HEAD")

    def _file(self, directory: str, path: str, entry: "os.DirEntry[str]") -> None:
        name = entry.name
        if name in PROGRAMS and directory in PROGRAM_DIRECTORIES:
            self._note(PROGRAMS[name], path, _size(entry))
        elif name in SOURCE_MARKS:
            self._source(directory, name)
        elif is_suspect(name):
            self._look_for_secret(path)

    def _source(self, directory: str, mark: str) -> None:
        """Note the directory of a mark, if source of its language stands in it and it is not part of another's."""
        if directory.startswith(NOT_SOURCE) or PACKAGES.intersection(directory.split("/")):
            return
        shown = f"/{directory}"
        if any(one.kind == "source" and (shown + "/").startswith(one.path.rstrip("/") + "/") for one in self.found):
            return
        language, suffixes = SOURCE_MARKS[mark]
        size = self._measure(directory, suffixes)
        if size:
            self._note(Row("source", f"source in {language}", SOURCE_INSTEAD), directory, size)

    def _look_for_secret(self, path: str) -> None:
        def read() -> bytes:
            try:
                fd = os.open(f"{self._base}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return b""
            with open(fd, "rb") as file:
                return file.read(LONGEST) if stat.S_ISREG(os.fstat(fd).st_mode) else b""

        if what := secret_in(path, read):
            try:
                size = os.lstat(f"{self._base}/{path}").st_size
            except OSError:
                return
            self._note(Row("secret", what, INSTEAD), path, size)

    def _note(self, row: Row, path: str, size: int) -> None:
        self.found.append(Leftover(row.kind, row.what, row.instead, f"/{path}", size))

    def _measure(self, top: str, suffixes: tuple[str, ...] = ()) -> int:
        """Bytes of the files below; 0 when `suffixes` are given and no file has one of them."""
        total, seen = 0, not suffixes
        stack = [top]
        while stack:
            path = stack.pop()
            for entry in _entries(f"{self._base}/{path}"):
                if entry.is_dir(follow_symlinks=False):
                    stack.append(f"{path}/{entry.name}" if path else entry.name)
                elif entry.is_file(follow_symlinks=False):
                    total += _size(entry)
                    seen = seen or entry.name.endswith(suffixes)
        return total if seen else 0


def _entries(path: str) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(path) as entries:
            yield from entries
    except OSError:
        return


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def _of_home(path: str) -> str:
    """The path with the home directory as `~`; empty for other paths."""
    first, _, rest = path.partition("/")
    if first == "home":
        rest = rest.partition("/")[2]
    return f"~/{rest}" if first in ("root", "home") and rest else ""
