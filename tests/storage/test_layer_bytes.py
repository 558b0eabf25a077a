"""Layers as blobs: made once, always the same, and what came from a registry stays what it was."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from importlib import metadata

import pytest
import zstandard

from kedge.model.digest import Digest, sha256
from kedge.model.errors import InvalidInput, NotFound
from kedge.model.graph import Layer
from kedge.model.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from kedge.storage.gc import PruneOptions
from kedge.storage.layers import Compression
from kedge.storage.packing import Packer
from kedge.storage.store import Store
from tests.storage.conftest import layer_blob

MIXED = b"".join(os.urandom(50_000) + b"text " * 20_000 for _ in range(40))  # 6 MB


def pack(data: bytes, compression: Compression, level: int | None = None, step: int = 1 << 20, cores: int = 0) -> bytes:
    out = io.BytesIO()
    with Packer(out, compression, level) as packer:
        if cores:
            packer._cores = cores
        for at in range(0, len(data), step):
            packer.write(memoryview(data)[at : at + step])
        packer.finish()
    assert packer.digest == sha256(data)
    assert packer.size == len(data)
    return out.getvalue()


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


@pytest.mark.parametrize(
    ("compression", "level"), [("gzip", None), ("gzip", 9), ("gzip", 0), ("zstd", None), ("zstd", 1)]
)
@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, len(MIXED)])
def test_what_is_packed_can_be_unpacked(compression: Compression, level: int | None, size: int) -> None:
    data = MIXED[:size]
    packed = pack(data, compression, level)
    assert (gzip.decompress if compression == "gzip" else unzstd)(packed) == data


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_packing_depends_neither_on_cores_nor_on_how_the_tar_was_written(compression: Compression) -> None:
    assert (
        len({pack(MIXED, compression, None, step, cores) for step, cores in [(1 << 20, 1), (77_777, 2), (512, 8)]}) == 1
    )


@pytest.mark.parametrize("level", [3, 12, 16, 22])
def test_zstd_depends_not_on_how_many_threads_there_are(monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    made = set()
    for cores in (1, 2, 8):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        made.add(pack(MIXED, "zstd", level))
    assert len(made) == 1
    assert unzstd(made.pop()) == MIXED


@pytest.mark.parametrize("level", range(1, 23))
def test_a_zstd_layer_needs_no_larger_window_than_every_reader_has(level: int) -> None:
    frame = zstandard.get_frame_parameters(pack(b"x" * 100, "zstd", level))
    assert frame.window_size <= 8 << 20


def test_gzip_carries_no_time_and_no_name() -> None:
    assert pack(b"x", "gzip")[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("compression", "level", "library", "version", "expected"),
    [
        ("gzip", None, "deflate", "0.9", "3b8488bdf5510513"),
        ("gzip", 9, "deflate", "0.9", "1d11a2099e3c3b89"),
        ("zstd", None, "zstandard", "0.25", "a74ba8250171eb11"),
    ],
)
def test_packed_bytes_are_the_same_on_every_machine(
    compression: Compression, level: int | None, library: str, version: str, expected: str
) -> None:
    """A fixed text has a fixed form. When a library's new version changes it, the change log says so."""
    if not metadata.version(library).startswith(version + "."):
        pytest.skip(f"the form is written down for {library} {version}, here is {metadata.version(library)}")
    text = "".join(f"line {n * n % 7919} of a text that repeats itself now and then\n" for n in range(60_000))
    assert sha256(pack(text.encode(), compression, level))[7:23] == expected


@pytest.mark.parametrize(
    ("compression", "level"), [("gzip", 10), ("gzip", -1), ("zstd", 0), ("zstd", 23), ("uncompressed", 1)]
)
def test_a_level_that_is_none_is_refused(
    store: Store, make: Callable[..., Layer], compression: Compression, level: int
) -> None:
    with pytest.raises(InvalidInput):
        store.layers.blob(make(), compression, level)


def test_the_diff_id_is_that_of_the_tar_and_is_remembered(store: Store, make: Callable[..., Layer]) -> None:
    layer = make(a="1")
    assert store.layers.info(layer).diff_id is None
    out = io.BytesIO()
    store.layers.write_tar(layer, out)
    expected = (sha256(out.getvalue()), len(out.getvalue()))
    assert store.layers.diff_id(layer) == expected
    assert (store.layers.info(layer).diff_id, store.layers.info(layer).size) == expected
    assert store.layers.find(expected[0]) == layer
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert archive.getnames() == ["a"]


@pytest.mark.parametrize(
    ("compression", "media_type"), [("gzip", OCI_LAYER_GZIP), ("zstd", OCI_LAYER_ZSTD), ("uncompressed", OCI_LAYER)]
)
def test_a_blob_is_made_once_with_the_diff_id_beside_it(
    store: Store, make: Callable[..., Layer], compression: Compression, media_type: str
) -> None:
    layer = make(a="1")
    blob = store.layers.blob(layer, compression)
    assert blob.media_type == media_type
    data = store.blobs.read(blob.digest)
    assert len(data) == blob.size
    diff_id, size = store.layers.diff_id(layer)
    plain = {"gzip": gzip.decompress, "zstd": unzstd, "uncompressed": bytes}[compression](data)
    assert (sha256(plain), len(plain)) == (diff_id, size)
    assert store.layers.blob(layer, compression) == blob


def test_equal_trees_give_equal_blobs_in_any_store(store: Store, make: Callable[..., Layer]) -> None:
    a, b = make(f="x"), make(f="x")
    assert store.layers.blob(a, clamp=0) == store.layers.blob(b, clamp=0)


def test_a_clamp_is_another_form(store: Store, make: Callable[..., Layer]) -> None:
    layer = make(a="1")
    clamped, plain = store.layers.diff_id(layer, clamp=0), store.layers.diff_id(layer)
    assert clamped != plain
    assert store.layers.find(clamped[0]) == store.layers.find(plain[0]) == layer
    data = store.blobs.read(store.layers.blob(layer, "uncompressed", clamp=0).digest)
    assert sha256(data) == clamped[0]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getmember("a").mtime == 0


def test_a_declared_layer_stays_what_it_came_as(store: Store) -> None:
    data, blob, diff_id = layer_blob({"a": b"1"})
    store.blobs.put(data)
    layer = store.layers.declare(diff_id, blob)
    store.layers.directory(layer)
    assert store.layers.blob(layer, "zstd", clamp=0) == blob
    assert store.layers.blob(layer, "gzip", 9, force=True) == blob
    assert store.layers.diff_id(layer, clamp=0)[0] == diff_id


def test_a_declared_layer_is_recompressed_from_its_own_tar(store: Store) -> None:
    data, blob, diff_id = layer_blob({"a": b"1", "odd//name": b"2"})
    store.blobs.put(data)
    layer = store.layers.declare(diff_id, blob)
    made = store.layers.blob(layer, "zstd", force=True)
    assert sha256(unzstd(store.blobs.read(made.digest))) == diff_id
    out = io.BytesIO()
    store.layers.write_tar(layer, out)
    assert out.getvalue() == gzip.decompress(data)


def test_an_image_made_here_names_layers_whose_bytes_are_made_on_demand(
    store: Store, make: Callable[..., Layer]
) -> None:
    layer = make(a="1")
    diff_id, size = store.layers.diff_id(layer)
    virtual = Descriptor(OCI_LAYER, diff_id, size)
    assert not store.blobs.has(diff_id)
    assert store.layers.declare(diff_id, virtual) == layer
    assert not store.layers.info(layer).declared
    assert store.layers.blob(layer, "gzip").media_type == OCI_LAYER_GZIP
    store.layers.fetch_blob(virtual)
    assert sha256(store.blobs.read(diff_id)) == diff_id


def test_a_clamped_layer_declared_again_is_unpacked_with_the_clamped_times(
    store: Store, make: Callable[..., Layer]
) -> None:
    layer = make(a="1")
    diff_id, size = store.layers.diff_id(layer, clamp=1000)
    again = store.layers.declare(diff_id, Descriptor(OCI_LAYER, diff_id, size))
    assert again != layer
    assert (store.layers.directory(again) / "a").stat().st_mtime == 1000
    assert store.layers.diff_id(again)[0] == diff_id


def test_a_form_that_was_collected_is_made_again_with_the_same_bytes(store: Store, make: Callable[..., Layer]) -> None:
    blob = store.layers.blob(make(a="1"), "gzip", 6, clamp=5)
    store.blobs.delete(blob.digest)
    store.layers.fetch_blob(blob)
    assert hashlib.sha256(store.blobs.read(blob.digest)).hexdigest() == blob.digest[7:]


def test_a_blob_of_no_layer_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        store.layers.fetch_blob(Descriptor(OCI_LAYER, sha256(b"nobody's"), 3))


def test_packed_finds_the_layer_by_its_diff_id(store: Store, make: Callable[..., Layer]) -> None:
    layer = make(a="1")
    clamped = store.layers.diff_id(layer, clamp=7)[0]
    made = store.layers.packed(clamped, "zstd")
    assert made == store.layers.blob(layer, "zstd", clamp=7)
    assert store.layers.packed(Digest(sha256(b"none")), "gzip") is None


def test_origins_are_remembered(store: Store) -> None:
    _, blob, diff_id = layer_blob({"a": b"1"})
    store.layers.declare(diff_id, blob, "docker-image://x/y")
    store.layers.declare(diff_id, blob)
    assert store.layers.origins(blob.digest) == ["docker-image://x/y"]


def test_progress_of_packing_is_told(store: Store, make: Callable[..., Layer]) -> None:
    seen: list[tuple[str, int]] = []
    store.layers.blob(make(a="x" * 5_000_000), progress=lambda action, digest, done, total: seen.append((action, done)))
    assert seen
    assert {action for action, _ in seen} == {"packing"}


def test_pruning_a_blob_that_can_be_made_again_keeps_the_layer(store: Store, make: Callable[..., Layer]) -> None:
    layer = make(a="1")
    blob = store.layers.blob(layer)
    root = store.root
    store.close()
    with Store.open(root) as other:
        other.prune(PruneOptions(kinds=("blob",)))
        assert not other.blobs.has(blob.digest)
        assert other.layers.blob(layer) == blob
