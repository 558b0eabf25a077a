"""A full disk is an error with advice, records nothing by half, and prune still works on it."""

# ruff: noqa: PT012 (what is opened must be used to fail)

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.model.errors import StoreError
from kedge.model.image import Descriptor
from kedge.storage.store import Store
from tests.storage.conftest import layer_blob
from tests.storage.test_names_and_notes import record
from tests.storage.test_results import key

pytestmark = pytest.mark.namespace  # mounts


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "kedge-test", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip(f"cannot mount a tmpfs: {made.stderr.decode().strip()}")
    try:
        yield place / "store"
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int) -> Path:
    ballast = place / "ballast"
    status = os.statvfs(place)
    with ballast.open("wb") as file:
        file.write(bytes(max(0, status.f_bavail * status.f_bsize - leave)))
    return ballast


def test_a_blob_that_does_not_fit_is_an_error_and_leaves_no_blob(small: Path) -> None:
    with Store.open(small) as store:
        kept = store.blobs.put(b"kept")
        with pytest.raises(StoreError, match="no space") as caught, store.blobs.writer() as writer:
            for _ in range(20):
                writer.write(os.urandom(1 << 20))
        assert caught.value.hint
        assert os.listdir(small / "ingest") == []
        assert store.blobs.read(kept) == b"kept"
        assert store.verify() == []


def test_a_store_that_cannot_be_written_is_named(small: Path) -> None:
    with Store.open(small):
        pass
    subprocess.run(["mount", "-o", "remount,ro", str(small.parent)], check=True)
    with pytest.raises(StoreError, match=f"{small}") as caught, Store.open(small) as store, store.lightened():
        store.images.list()
    assert "--root" in caught.value.hint
    with pytest.raises(StoreError, match=f"{small}/kedge.db") as caught, Store.open(small) as store:
        store.images.get("x")
    assert "may this user write to it" in caught.value.hint


def test_a_download_that_does_not_fit_goes_on_when_there_is_room(small: Path) -> None:
    data, blob, diff_id = layer_blob({"a": os.urandom(1_000_000)})
    with Store.open(small) as store:
        store.images.list()
        ballast = fill(small.parent, 300_000)
        with pytest.raises(StoreError, match="no space"), store.blobs.writer(blob) as writer:
            for at in range(0, len(data), 65536):
                writer.write(data[at : at + 65536])
        ballast.unlink()
        with store.blobs.writer(blob) as writer:
            assert 0 < writer.offset < len(data)
            writer.write(data[writer.offset :])
            writer.commit()
        store.layers.directory(store.layers.declare(diff_id, blob))
        assert store.verify() == []


def test_a_layer_that_does_not_fit_leaves_nothing(small: Path) -> None:
    data, _, diff_id = layer_blob({"text": b"x" * 30_000_000})
    with Store.open(small) as store:
        layer = store.layers.declare(diff_id, Descriptor("", store.blobs.put(data), len(data)))
        with pytest.raises(StoreError, match=r"(?i)no space"):
            store.layers.directory(layer)
        assert os.listdir(small / "layers") == os.listdir(small / "drafts") == os.listdir(small / "trash") == []
        assert store.verify() == []


def test_a_full_disk_at_any_byte_records_nothing_by_half(small: Path) -> None:
    """Work until nothing fits, time and again, with less and less room."""
    with Store.open(small) as store:
        store.results.results(key("warm"))
    for leave in range(400_000, 0, -37_000):
        ballast = fill(small.parent, leave)
        done = []
        try:
            with Store.open(small) as store:
                for number in range(1000):
                    with store.layers.draft() as draft:
                        (draft.upper / "f").write_bytes(os.urandom(9000))
                        layer = draft.commit()
                    store.results.put(key(f"{leave} {number}"), [(layer,)])
                    done.append((number, layer))
                    store.blobs.put(os.urandom(3000))
        except (StoreError, OSError):
            pass
        ballast.unlink()
        with Store.open(small) as store:
            assert store.verify() == []
            for number, layer in done:
                assert store.results.results(key(f"{leave} {number}")) == [(layer,)]
                assert (store.layers.directory(layer) / "f").stat().st_size == 9000
        with Store.open(small) as store:
            store.prune()


def test_names_are_listed_and_taken_away_on_a_full_disk(small: Path) -> None:
    with Store.open(small) as store:
        store.images.set(record("docker.io/library/x:latest"))
    fill(small.parent, 0)
    with Store.open(small) as store, store.lightened():
        assert [image.name for image in store.images.list()] == ["docker.io/library/x:latest"]
        store.images.remove("docker.io/library/x:latest")
    with Store.open(small) as store:
        assert store.usage() is not None
        assert (small / "ballast").exists()


def test_prune_works_on_a_full_disk(small: Path) -> None:
    with Store.open(small) as store:
        for _ in range(20):
            with store.layers.draft() as draft:
                (draft.upper / "f").write_bytes(os.urandom(100_000))
                draft.commit()
    fill(small.parent, 0)
    with Store.open(small) as store:
        with pytest.raises(StoreError, match="no space"):
            store.blobs.put(b"no room")
        with pytest.raises(StoreError, match="no space"):
            store.images.list()
    with Store.open(small) as store:
        assert store.prune().bytes >= 2_000_000
        assert store.blobs.has(store.blobs.put(b"room again"))
