"""Image names, file stats and logs: small tables that must remember."""

import os
import time
from pathlib import Path

import pytest

from kedge.model.digest import sha256
from kedge.model.errors import StoreError
from kedge.model.image import OCI_MANIFEST, Descriptor
from kedge.model.platform import Platform
from kedge.storage.images import ImageRecord
from kedge.storage.store import Store, default_root


def record(name: str, content: str = "x", at: float = 1.0) -> ImageRecord:
    target = Descriptor(OCI_MANIFEST, sha256(content.encode()), 7, (("k", "v"),), Platform("linux", "arm64", "v7"))
    return ImageRecord(name, target, sha256(b"config" + content.encode()), at)


# ---- images ----------------------------------------------------------------------------------------------------------


def test_a_name_is_kept_as_it_was_given(root: Path) -> None:
    with Store.open(root) as store:
        assert store.images.set(record("docker.io/library/a:latest")) is None
    with Store.open(root) as store:
        assert store.images.get("docker.io/library/a:latest") == record("docker.io/library/a:latest")
        assert store.images.get("docker.io/library/b:latest") is None


def test_a_name_moves_and_tells_what_had_it(store: Store) -> None:
    store.images.set(record("a", "old"))
    assert store.images.set(record("a", "new")) == record("a", "old")
    assert store.images.list() == [record("a", "new")]


def test_an_image_whose_last_name_moved_stays_under_its_id_where_that_is_wanted(store: Store) -> None:
    store.images.keeps_replaced = True
    for name in ("a", "b"):
        store.images.set(record(name, "old"))
    store.images.set(record("a", "new"))
    assert {each.name for each in store.images.list()} == {"a", "b"}
    store.images.set(record("b", "new"))
    old = record("", "old").id
    assert {each.name for each in store.images.list()} == {"a", "b", old}
    assert store.images.get(old) == record(old, "old")


def test_an_image_that_gets_a_name_is_no_longer_without(store: Store) -> None:
    store.images.set(record(record("").id))
    store.images.set(record("a"))
    assert [each.name for each in store.images.list()] == ["a"]


def test_a_name_is_removed_once(store: Store) -> None:
    store.images.set(record("a"))
    assert store.images.remove("a")
    assert not store.images.remove("a")


def test_images_are_listed_newest_first(store: Store) -> None:
    for at in (1.0, 3.0, 2.0):
        store.images.set(record(f"at{at}", at=at))
    assert [each.name for each in store.images.list()] == ["at3.0", "at2.0", "at1.0"]


def test_an_image_is_found_by_the_start_of_its_id_or_manifest(store: Store) -> None:
    store.images.set(record("a"))
    assert store.images.find(record("a").id[7:15]) == store.images.find(record("a").target.digest[:20]) == [record("a")]
    for nothing in ("", "zz", "%", "0" * 64, "_"):
        assert store.images.find(nothing) == []


# ---- stats -----------------------------------------------------------------------------------------------------------


def aged(path: Path, text: str = "x") -> os.stat_result:
    path.write_text(text)
    time.sleep(0.03)
    return path.stat()


def test_an_unchanged_file_is_remembered(root: Path, tmp_path: Path) -> None:
    stat = aged(tmp_path / "f")
    with Store.open(root) as store:
        store.stats.put(stat, sha256(b"x"))
        assert store.stats.get(stat) == sha256(b"x")
    with Store.open(root) as store:
        assert store.stats.get((tmp_path / "f").stat()) == sha256(b"x")


def test_a_changed_file_is_not(root: Path, tmp_path: Path) -> None:
    stat = aged(tmp_path / "f")
    with Store.open(root) as store:
        store.stats.put(stat, sha256(b"x"))
    changed = aged(tmp_path / "f", "y")
    with Store.open(root) as store:
        assert store.stats.get(changed) is None
    os.utime(tmp_path / "f", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size and mtime: ctime tells
    with Store.open(root) as store:
        assert store.stats.get((tmp_path / "f").stat()) is None


def test_a_file_younger_than_the_clocks_grain_is_distrusted(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    stat = path.stat()
    time.sleep(0.05)  # late to tell, but looked at while it was young
    store.stats.put(stat, sha256(b"x"), taken_ns=stat.st_ctime_ns + 1_000_000)
    assert store.stats.get(stat) is None


# ---- logs ------------------------------------------------------------------------------------------------------------


def test_all_output_is_kept_until_the_next_run(root: Path) -> None:
    vertex = sha256(b"v")
    for text in (b"old", b"new " * 500_000):
        with Store.open(root) as store, store.logs.writer(vertex, "RUN make") as log:
            log.write(text)
            log.write(b"\n")
    with Store.open(root) as store:
        file = store.logs.open(vertex)
        assert file
        with file:
            assert file.read() == b"new " * 500_000 + b"\n"
        [kept] = store.logs.list()
        assert (kept.vertex, kept.name, kept.size) == (vertex, "RUN make", 2_000_001)
        assert len(os.listdir(root / "logs")) == 1
        assert store.logs.open(sha256(b"other")) is None


def test_a_silent_step_makes_no_file(store: Store, root: Path) -> None:
    with store.logs.writer(sha256(b"v"), "RUN true"):
        pass
    assert os.listdir(root / "logs") == []


# ---- the store itself ------------------------------------------------------------------------------------------------


def test_the_root_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDGE_ROOT", "/some/where")
    assert default_root() == Path("/some/where")
    monkeypatch.delenv("KEDGE_ROOT")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() in (Path("/var/lib/kedge"), Path("/data/kedge"))


def test_a_root_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/store"):
        Store.open(tmp_path / "file" / "store")


def test_a_store_of_another_version_is_refused_with_advice(root: Path) -> None:
    with Store.open(root) as store, store._database.transaction() as rows:
        rows.execute("PRAGMA user_version=99")
    with Store.open(root) as store, pytest.raises(StoreError, match="version 99") as caught:
        store.images.list()
    assert caught.value.hint


def test_a_damaged_database_is_an_error_with_advice(root: Path) -> None:
    with Store.open(root) as store:
        store.images.set(record("a"))
    (root / "kedge.db").write_bytes(b"rubbish" * 1000)
    with Store.open(root) as store, pytest.raises(StoreError) as caught:
        store.images.list()
    assert "--root" in caught.value.hint


def test_the_store_is_closed_to_other_users(root: Path) -> None:
    with Store.open(root):
        assert root.stat().st_mode & 0o077 == 0
