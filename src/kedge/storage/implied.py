"""Directories that a layer has files in, but no entry of: in a stack they are what the layers below say they are.

An image of which one layer holds `tmp/x` and no `tmp` still has the `/tmp` of its base, mode 1777. The layer's own
directory cannot know that: it is unpacked alone, and stands in many stacks. So a thin layer of such directories only is
put above it where need be, named by what it holds. (containerd, which unpacks upon known parents, copies their mode,
owner, time and attributes; Docker's graph drivers show 0755.)

Owns what is inherited from where. Does not know tar, images or who mounts the stack.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from kedge.model.digest import sha256
from kedge.model.errors import NotFound
from kedge.model.graph import Layer
from kedge.storage.disk import translated
from kedge.storage.drafts import Draft, like
from kedge.storage.layer_records import IMPLIED, LayerRecords
from kedge.storage.locks import Locks
from kedge.storage.ownership import overlay_prefix

_OVERLAY: Final = ("trusted.overlay.", "user.overlay.")
Stack: TypeAlias = Sequence[tuple[Path, Sequence[str]]]  # each layer's directory, and what is only implied in it
_Nature: TypeAlias = tuple[int, int, int, tuple[tuple[str, bytes], ...]]  # mode, user, group, extended attributes


class ImpliedDirectories:
    """Makes the thin layers, each once. Any thread may call."""

    def __init__(self, records: LayerRecords, locks: Locks, start_draft: Callable[[tuple[Path, ...]], Draft]) -> None:
        self._records, self._locks, self._start_draft = records, locks, start_draft

    def complete(self, stack: Stack) -> tuple[Path, ...]:
        """The stack's directories, and the thin layers between them, bottom first."""
        found: list[Path] = []
        for directory, implied in stack:
            below = tuple(reversed(found))
            found.append(directory)
            if implied and below:
                with translated("look at a layer"):
                    inherited = dict(_inherited(directory, implied, below))
                    if inherited:
                        found.append(self._records.directory(self._layer(directory, inherited)))
        return tuple(found)

    def _layer(self, directory: Path, inherited: Mapping[str, Path]) -> Layer:
        """The layer of the inherited directories, and of those they are in, which stay as they are in `directory`."""
        models = {"": directory}
        for path in inherited:
            parts = path.strip("/").split("/")
            for end in range(1, len(parts) + 1):
                above = "/" + "/".join(parts[:end])
                models[above] = inherited.get(above, directory / above[1:])
        what = [(path, *_nature(model), model.stat().st_mtime_ns) for path, model in sorted(models.items())]
        name = f"{IMPLIED} {sha256(repr(what).encode('utf-8', 'surrogateescape'))}"
        with self._locks.held(name):
            layer = self._records.described(name)
            with suppress(NotFound):  # it was pruned just now
                if layer:
                    self._records.use([layer])
                    return layer
            return self._make(models, name)

    def _make(self, models: Mapping[str, Path], name: str) -> Layer:
        with self._start_draft(()) as draft:
            paths = sorted(models)
            for path in paths[1:]:
                os.mkdir(draft.upper / path[1:])
            for path in reversed(paths):
                like(draft.upper / path[1:], models[path])
            return draft.commit(name)


def _inherited(directory: Path, implied: Sequence[str], below: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Those that are something else below, each with the directory that it is to be like. `below`: topmost first."""
    for path in implied:
        parts = path.strip("/").split("/")
        here, hides = _seen(directory, parts)
        model = None
        for layer in below if here and not hides else ():
            model, hides = _seen(layer, parts)
            if model or hides:
                break
        if here and model and _nature(here) != _nature(model):
            yield path, model


def _seen(layer: Path, parts: Sequence[str]) -> tuple[Path | None, bool]:
    """The directory of that name in one layer, and whether the layer hides what those below it have there."""
    where, hides = layer, False
    for part in parts:
        where = where / part
        try:
            mode = os.lstat(where).st_mode
        except FileNotFoundError:
            return None, hides
        if not stat.S_ISDIR(mode):
            return None, True
        hides = hides or _is_opaque(where)
    return where, hides


def hides_directories(layer: Path) -> bool:
    """Does the layer hide all that some directory below it holds, whatever that may be? As a directory does that was
    removed and made again.
    """
    stack = [os.fspath(layer)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        if any(_is_opaque(Path(folder)) for folder in folders):
            return True
        stack += folders
    return False


def _is_opaque(directory: Path) -> bool:
    try:
        return os.getxattr(directory, f"{overlay_prefix()}opaque") in (b"y", b"Y")
    except OSError:
        return False


def _nature(directory: Path) -> _Nature:
    status = os.lstat(directory)
    attributes: list[tuple[str, bytes]] = []
    with suppress(OSError):  # a file system without them
        names = sorted(name for name in os.listxattr(directory) if not name.startswith(_OVERLAY))
        attributes = [(name, os.getxattr(directory, name)) for name in names]
    return status.st_mode, status.st_uid, status.st_gid, tuple(attributes)
