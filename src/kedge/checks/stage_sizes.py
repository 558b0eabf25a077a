"""What the other stages of a build kept out of the image: recorded when the image is built, by its id.

Owns the record and the measuring of layers. A layer made here is walked once in its life; of a base image's layer the
tar's size is taken, which unpacking told. Does not know how the record is shown.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from kedge.model.digest import Digest
from kedge.model.graph import Layer, Snapshot
from kedge.model.value import dataclass
from kedge.storage.store import Store


@dataclass(frozen=True, slots=True)
class StageSize:
    """One other stage: bytes of its layers that are not in the image, and of those that are.

    `unknown` counts layers whose size nobody knew at the time, being never fetched. `base` is the image it stands on.
    """

    name: str
    base: str
    kept_out: int
    shared: int
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """The stages in the order of the file, and the bytes all of them kept out together, shared layers once."""

    stages: tuple[StageSize, ...]
    kept_out: int


def is_recorded(store: Store, image: Digest) -> bool:
    """Whether there is a record for the image of that id."""
    return store.notes.get(f"stages:{image}") is not None


def record(store: Store, image: Digest, snapshot: Snapshot, stages: Sequence[tuple[str, Snapshot, str]]) -> None:
    """Keep the sizes of a build's other stages, given as (name, snapshot, base)."""
    sizes = {layer: _size(store, layer) for _, layers, _ in stages for layer in layers}
    mine = set(snapshot)
    rows = []
    for name, layers, base in stages:
        out = [layer for layer in dict.fromkeys(layers) if layer not in mine]
        shared = sum(sizes[layer] or 0 for layer in set(layers) & mine)
        unknown = sum(sizes[layer] is None for layer in layers)
        rows.append([name, base, sum(sizes[layer] or 0 for layer in out), shared, unknown])
    total = sum(size or 0 for layer, size in sizes.items() if layer not in mine)
    store.notes.put(f"stages:{image}", json.dumps({"stages": rows, "kept_out": total}, separators=(",", ":")))


def recorded(store: Store, image: Digest) -> Recorded | None:
    """The record for the image of that id; None when it was not built in this store."""
    text = store.notes.get(f"stages:{image}")
    if text is None:
        return None
    value = json.loads(text)
    return Recorded(tuple(StageSize(*row) for row in value["stages"]), value["kept_out"])


def _size(store: Store, layer: Layer) -> int | None:
    """Bytes of a layer, None for one that was never unpacked."""
    info = store.layers.info(layer)
    if info.declared or not info.ready:
        return info.size
    key = f"bytes:{layer}"
    if (text := store.notes.get(key)) is not None:
        return int(text)
    size = _walked(store.layers.directory(layer))
    store.notes.put(key, str(size))
    return size


def _walked(directory: Path) -> int:
    total = 0
    stack = [os.fspath(directory)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
