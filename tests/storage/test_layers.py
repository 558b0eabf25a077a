"""Layers: lazy ones are fetched and unpacked once, drafts become layers by a rename, trees are what the stack says."""

# ruff: noqa: PT012 (what is opened must be used to fail)

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from kedge.model.digest import sha256
from kedge.model.errors import IntegrityError, NotFound, RegistryError
from kedge.model.graph import Layer
from kedge.model.image import Descriptor
from kedge.storage.blobs import BlobWriter
from kedge.storage.layers import Declared
from kedge.storage.store import Store
from kedge.storage.unpacking import FetchProgress
from tests.storage.conftest import layer_blob, names_in, needs_mounts


class Remote:
    """A place to fetch from, that counts and may fail."""

    def __init__(self, *blobs: bytes, wrong: bool = False, cut: int = 0, delay: float = 0) -> None:
        self.blobs = {sha256(data): data for data in blobs}
        self.wrong, self.cut, self.delay = wrong, cut, delay
        self.asked: list[tuple[str, int]] = []

    def __call__(self, origin: str, descriptor: Descriptor, writer: BlobWriter, progress: FetchProgress) -> None:
        self.asked.append((origin, writer.offset))
        time.sleep(self.delay)
        data = self.blobs[descriptor.digest]
        if self.wrong:
            data = bytes([data[0] ^ 255]) + data[1:]
        if self.cut:
            writer.write(data[writer.offset : writer.offset + self.cut])
            raise RegistryError("connection lost", retryable=True)
        writer.write(data[writer.offset :])
        progress(len(data), len(data))
        writer.commit()


def test_declaring_touches_no_byte_and_is_idempotent(store: Store) -> None:
    _, blob, diff_id = layer_blob({"a": b"1"})
    layer = store.layers.declare(diff_id, blob, "here://a")
    assert store.layers.declare(diff_id, blob, "here://b") == layer
    info = store.layers.info(layer)
    assert (info.declared, info.ready, info.diff_id) == (True, False, diff_id)
    assert {origin for _, origin in info.sources} == {"here://a", "here://b"}
    assert store.layers.find(diff_id) == layer
    assert store.layers.diff_id(layer) == (diff_id, -1)
    assert store.layers.blob(layer) == blob


def test_a_lazy_layer_is_fetched_verified_and_unpacked_on_demand(store: Store) -> None:
    data, blob, diff_id = layer_blob({"dir/": b"", "dir/a": b"1"})
    store.fetch = remote = Remote(data)
    layer = store.layers.declare(diff_id, blob, "here://a")
    seen = []
    directory = store.layers.directory(layer, lambda action, digest, current, total: seen.append((action, digest)))
    assert (directory / "dir" / "a").read_bytes() == b"1"
    assert store.layers.directory(layer) == directory
    assert remote.asked == [("here://a", 0)]
    assert ("fetching", blob.digest) in seen
    assert store.layers.info(layer).ready
    assert store.layers.diff_id(layer) == (diff_id, len(__import__("gzip").decompress(data)))
    assert store.verify() == []


def test_a_blob_that_is_here_already_needs_no_fetch(store: Store) -> None:
    data, blob, diff_id = layer_blob({"a": b"1"})
    store.blobs.put(data)
    assert (store.layers.directory(store.layers.declare(diff_id, blob)) / "a").exists()


def test_a_large_layer_is_unpacked_as_it_is_decompressed(store: Store) -> None:
    content = os.urandom(3_000_000) + bytes(5_000_000)
    data, blob, diff_id = layer_blob({"big": content})
    store.blobs.put(data)
    assert (store.layers.directory(store.layers.declare(diff_id, blob)) / "big").read_bytes() == content


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_other_content_than_the_config_promises_is_refused(store: Store, root: Path, size: int) -> None:
    data, blob, _ = layer_blob({"a": os.urandom(size)})
    store.blobs.put(data)
    layer = store.layers.declare(sha256(b"another"), blob)
    with pytest.raises(IntegrityError):
        store.layers.directory(layer)
    assert not store.layers.info(layer).ready
    assert os.listdir(root / "layers") == []
    assert os.listdir(root / "drafts") == []


def test_a_damaged_archive_leaves_nothing(store: Store, root: Path) -> None:
    data, _, diff_id = layer_blob({"a": os.urandom(3_000_000)})
    short = data[: len(data) // 2]
    layer = store.layers.declare(diff_id, Descriptor("", store.blobs.put(short), len(short)))
    with pytest.raises(IntegrityError):
        store.layers.directory(layer)
    assert os.listdir(root / "drafts") == []


def test_wrong_bytes_from_one_origin_are_followed_by_the_next(store: Store) -> None:
    data, blob, diff_id = layer_blob({"a": b"1"})
    good, bad = Remote(data), Remote(data, wrong=True)
    store.fetch = lambda origin, *rest: (bad if origin == "a://" else good)(origin, *rest)
    layer = store.layers.declare(diff_id, blob, "a://")
    store.layers.declare(diff_id, blob, "b://")
    assert (store.layers.directory(layer) / "a").exists()
    assert len(bad.asked) == len(good.asked) == 1


def test_a_broken_fetch_is_an_error_and_the_next_continues_it(store: Store) -> None:
    data, blob, diff_id = layer_blob({"a": os.urandom(10_000)})
    store.fetch = Remote(data, cut=100)
    layer = store.layers.declare(diff_id, blob, "a://")
    with pytest.raises(RegistryError):
        store.layers.directory(layer)
    store.fetch = remote = Remote(data)
    assert (store.layers.directory(layer) / "a").exists()
    assert remote.asked == [("a://", 100)]


def test_a_layer_that_was_just_made_is_used_without_a_write(store: Store, root: Path) -> None:
    with store.layers.draft() as draft:
        (draft.upper / "f").write_text("x")
        layer = draft.commit()
    with sqlite3.connect(root / "kedge.db") as other:
        before = other.execute("PRAGMA data_version").fetchone()
        with store.layers.draft((layer,)) as above:
            assert above.upper.is_dir()
        assert other.execute("PRAGMA data_version").fetchone() == before
        store.layers.diff_id(layer)  # which is kept
        assert other.execute("PRAGMA data_version").fetchone() != before
    other.close()


def test_a_layer_without_a_source_says_so(store: Store) -> None:
    _, blob, diff_id = layer_blob({"a": b"1"})
    with pytest.raises(NotFound):
        store.layers.directory(store.layers.declare(diff_id, blob))
    with pytest.raises(NotFound):
        store.layers.directory(Layer("zz"))


def test_threads_that_need_one_layer_unpack_it_once(store: Store) -> None:
    data, blob, diff_id = layer_blob({"a": b"1"})
    store.fetch = remote = Remote(data, delay=0.05)
    layer = store.layers.declare(diff_id, blob, "a://")
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: store.layers.directory(layer), range(8)))) == 1
    assert len(remote.asked) == 1


def test_stores_that_need_one_layer_unpack_it_once(root: Path) -> None:
    data, blob, diff_id = layer_blob({"a": b"1"})
    remote = Remote(data, delay=0.05)

    def use(_: int) -> Path:
        with Store.open(root, fetch=remote) as store:
            return store.layers.directory(store.layers.declare(diff_id, blob, "a://"))

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(use, range(4)))) == 1
    assert len(remote.asked) == 1


def test_processes_that_need_one_layer_unpack_it_once(root: Path) -> None:
    data, blob, diff_id = layer_blob({f"d{n}/f{n}": os.urandom(1000) for n in range(500)})
    with Store.open(root) as store:
        store.blobs.put(data)
        layer = store.layers.declare(diff_id, blob)
    program = f"""
import os, pathlib
from kedge.storage.store import Store
with Store.open(pathlib.Path({str(root)!r})) as store:
    print(os.stat(store.layers.directory({str(layer)!r})).st_ino)
"""
    children = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(3)]
    outputs = {child.communicate()[0] for child in children}
    assert len(outputs) == 1
    assert outputs != {b""}


def test_layers_of_one_image_are_unpacked_at_the_same_time(store: Store) -> None:
    blobs = [layer_blob({f"f{n}": b"x"}) for n in range(4)]
    together = threading.Barrier(4, timeout=120)
    remote = Remote(*(data for data, _, _ in blobs))

    def fetch(origin: str, descriptor: Descriptor, writer: BlobWriter, progress: FetchProgress) -> None:
        together.wait()
        remote(origin, descriptor, writer, progress)

    store.fetch = fetch
    snapshot = store.layers.declare_all(Declared(diff_id, blob, "a://") for _, blob, diff_id in blobs)
    assert [os.listdir(each) for each in store.layers.directories(snapshot)] == [["f0"], ["f1"], ["f2"], ["f3"]]


# ---- drafts ----------------------------------------------------------------------------------------------------------


def test_a_draft_over_scratch_needs_no_mount(store: Store, root: Path) -> None:
    with store.layers.draft() as draft:
        with draft.tree() as tree:
            os.mkdir("d", dir_fd=tree.fd)
            assert tree.writable
        inode = draft.upper.stat().st_ino
        layer = draft.commit("why")
    assert store.layers.directory(layer).stat().st_ino == inode  # renamed, not copied
    assert os.listdir(root / "drafts") == []
    assert store.layers.info(layer).description == "why"


def test_a_draft_that_is_not_committed_leaves_nothing(store: Store, root: Path) -> None:
    with pytest.raises(RuntimeError), store.layers.draft() as draft:
        (draft.upper / "d").mkdir()
        raise RuntimeError
    for part in ("drafts", "layers", "trash"):
        assert os.listdir(root / part) == []


@needs_mounts
def test_a_draft_holds_only_what_changed(store: Store, make: Callable[..., Layer]) -> None:
    below = make(a="1", b="2")
    with store.layers.draft((below,)) as draft:
        with draft.tree() as tree:
            os.unlink("a", dir_fd=tree.fd)
            os.close(os.open("c", os.O_CREAT | os.O_WRONLY, dir_fd=tree.fd))
            assert names_in(tree.fd) == ["b", "c"]
        top = draft.commit()
    assert sorted(os.listdir(store.layers.directory(top))) == ["a", "c"]
    assert stat.S_ISCHR((store.layers.directory(top) / "a").lstat().st_mode)
    with store.layers.mounted((below, top)) as tree:
        assert names_in(tree.fd) == ["b", "c"]
    with store.layers.mounted((below,)) as tree:
        assert names_in(tree.fd) == ["a", "b"]


def test_the_root_keeps_its_owner_and_mode_through_drafts(store: Store) -> None:
    with store.layers.draft() as draft:
        os.chmod(draft.upper, 0o1711)
        with suppress(OSError):  # an ordinary user may not
            os.chown(draft.upper, 12, 34)
        owner = draft.upper.stat().st_uid
        below = draft.commit()
    with store.layers.draft((below,)) as draft:
        status = draft.upper.stat()
        assert stat.S_IMODE(status.st_mode) == 0o1711
        assert status.st_uid == owner


def test_committing_into_a_name_that_a_power_failure_left_takes_the_next(store: Store, root: Path) -> None:
    (root / "layers" / "1").mkdir()
    with store.layers.draft() as draft:
        assert draft.commit() == "2"


# ---- trees -----------------------------------------------------------------------------------------------------------


def test_scratch_is_an_empty_tree(store: Store) -> None:
    with store.layers.mounted(()) as tree:
        assert names_in(tree.fd) == []


@needs_mounts
def test_a_single_layer_does_not_show_its_whiteouts(store: Store) -> None:
    with store.layers.draft() as draft:
        os.mknod(draft.upper / "gone", stat.S_IFCHR, 0)
        layer = draft.commit()
    with store.layers.mounted((layer,)) as tree:
        assert names_in(tree.fd) == []


@needs_mounts
def test_a_layer_that_hides_everything_cuts_the_stack(store: Store, make: Callable[..., Layer]) -> None:
    data, blob, diff_id = layer_blob({".wh..wh..opq": b"", "new": b""})
    store.blobs.put(data)
    below, top = make(old="x"), store.layers.declare(diff_id, blob)
    assert len(store.layers.directories((below, top))) == 1
    with store.layers.mounted((below, top)) as tree:
        assert names_in(tree.fd) == ["new"]


@needs_mounts
def test_a_layer_twice_in_a_snapshot_counts_where_it_is_highest(store: Store, make: Callable[..., Layer]) -> None:
    a, b = make(f="a"), make(f="b")
    assert store.layers.directories((a, b, a)) == store.layers.directories((b, a))


def test_an_adopted_directory_is_read_in_place_through_its_filter(store: Store, tmp_path: Path) -> None:
    class Filter:
        def matches(self, path: str) -> bool:
            return path == "secret"

        def may_match_below(self, directory: str) -> bool:
            return False

    (tmp_path / "a").touch()
    layer = store.layers.adopt(tmp_path, Filter())
    with store.layers.mounted((layer,)) as tree:
        assert tree.in_place
        assert tree.patterns is not None
        assert "a" in names_in(tree.fd)


def test_an_adopted_directory_that_is_not_there_is_not_found(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound), store.layers.mounted((store.layers.adopt(tmp_path / "missing"),)):
        pass


def test_an_adopted_directory_is_copied_once_when_it_must_be_mounted(store: Store, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "a").write_text("1")
    layer = store.layers.adopt(context)
    directory = store.layers.directory(layer)
    assert directory.parent == store.root / "layers"
    assert (directory / "a").read_text() == "1"
    assert (directory / "a").stat().st_uid == os.geteuid()
    assert store.layers.directory(layer) == directory
