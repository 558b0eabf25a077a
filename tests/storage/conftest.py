"""A store for each test, and layers made the short way."""

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kedge.model.digest import Digest, sha256
from kedge.model.graph import Layer, Snapshot
from kedge.model.image import OCI_LAYER_GZIP, Descriptor
from kedge.storage.store import Store
from tests.archives import tar_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store.open(root) as opened:
        yield opened


@pytest.fixture
def make(store: Store) -> Callable[..., Layer]:
    """`make(below, name=text…)`: a layer with these files on top of a snapshot."""

    def make(below: Snapshot = (), **files: str) -> Layer:
        with store.layers.draft(below) as draft:
            for name, text in files.items():
                (draft.upper / name).write_text(text)
            return draft.commit("made by a test")

    return make


def layer_blob(files: dict[str, bytes]) -> tuple[bytes, Descriptor, Digest]:
    """A gzipped layer: its bytes, what names them, and its diff id."""
    tar = tar_of(files)
    data = gzip.compress(tar, 1, mtime=0)
    return data, Descriptor(OCI_LAYER_GZIP, sha256(data), len(data)), sha256(tar)


def names_in(fd: int, path: str = ".") -> list[str]:
    """The names in a directory below an O_PATH descriptor."""
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
    try:
        return sorted(os.listdir(opened))
    finally:
        os.close(opened)


needs_mounts = pytest.mark.namespace
