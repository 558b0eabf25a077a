"""A layer that is unpacked while its blob comes in: sooner ready, and never from bytes that were not verified."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from kedge.model.digest import Digest
from kedge.model.errors import IntegrityError, RegistryError, StoreError
from kedge.model.graph import Layer
from kedge.model.image import Descriptor
from kedge.storage.blobs import BlobWriter
from kedge.storage.store import Store
from kedge.storage.unpacking import FetchProgress
from tests.storage.conftest import layer_blob

FILES = {name: os.urandom(1_500_000) for name in ("first", "second")}
Deliver = Callable[[BlobWriter, bytes], None]


def lazy(store: Store, deliver: Deliver, files: dict[str, bytes] = FILES) -> tuple[Layer, int]:
    """A layer whose blob `deliver` brings, and the blob's size."""
    data, blob, diff_id = layer_blob(files)

    def fetch(origin: str, descriptor: Descriptor, writer: BlobWriter, progress: FetchProgress) -> None:
        deliver(writer, data)
        writer.commit()

    store.fetch = fetch
    return store.layers.declare(diff_id, blob, "here://"), blob.size


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def left(root: Path) -> list[str]:
    return os.listdir(root / "layers") + os.listdir(root / "drafts") + os.listdir(root / "trash")


def test_files_are_unpacked_before_the_last_byte_came(store: Store, root: Path) -> None:
    def deliver(writer: BlobWriter, data: bytes) -> None:
        writer.write(data[:2_500_000])
        until(lambda: bool(list(root.glob("drafts/*/first"))))
        assert os.listdir(root / "layers") == []
        writer.write(data[2_500_000:])

    directory = store.layers.directory(lazy(store, deliver)[0])
    assert {name: (directory / name).read_bytes() for name in FILES} == FILES
    assert store.verify() == []


def test_what_was_unpacked_of_a_wrong_blob_is_dropped(store: Store, root: Path) -> None:
    def deliver(writer: BlobWriter, data: bytes) -> None:
        writer.write(data[:-1])
        writer.write(bytes([data[-1] ^ 1]))

    layer, _ = lazy(store, deliver)
    with pytest.raises(IntegrityError, match="promised"):
        store.layers.directory(layer)
    assert not store.layers.info(layer).ready
    assert left(root) == []


def test_a_download_that_starts_anew_is_unpacked_anew(store: Store) -> None:
    other, _, _ = layer_blob({"foreign": os.urandom(2_000_000)})

    def deliver(writer: BlobWriter, data: bytes) -> None:
        writer.write(other)
        writer.restart()
        writer.write(data)

    assert sorted(os.listdir(store.layers.directory(lazy(store, deliver)[0]))) == ["first", "second"]
    assert store.verify() == []


def test_a_broken_download_is_the_error_that_is_told(store: Store, root: Path) -> None:
    def deliver(writer: BlobWriter, data: bytes) -> None:
        writer.write(data[:2_000_000])
        raise RegistryError("connection lost")

    layer, _ = lazy(store, deliver)
    with pytest.raises(RegistryError, match="connection lost"):
        store.layers.directory(layer)
    assert left(root) == []
    assert sum(file.stat().st_size for file in (root / "ingest").iterdir()) == 2_000_000


def test_a_download_ends_when_the_unpacking_cannot_go_on(store: Store, root: Path) -> None:
    ended = []

    def deliver(writer: BlobWriter, data: bytes) -> None:
        try:
            writer.write(data[:2_500_000])
            for byte in data[2_500_000:]:
                time.sleep(0.01)
                writer.write(bytes([byte]))
        finally:
            ended.append(writer.offset)

    def full(action: Literal["fetching", "unpacking", "packing"], digest: Digest, current: int, total: int) -> None:
        if action == "unpacking":
            raise StoreError("no space left")

    layer, size = lazy(store, deliver, {"large": bytes(6_000_000)} | FILES)
    with pytest.raises(StoreError, match="no space left"):
        store.layers.directory(layer, full)
    assert ended
    assert ended[0] < size
    assert left(root) == []
