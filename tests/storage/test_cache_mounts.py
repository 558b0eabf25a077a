"""Cache mounts: the same directory for the same id, and what two users at once get."""

import os
import threading
from pathlib import Path

import pytest

from kedge.model.errors import Cancelled
from kedge.storage.store import Store


def test_the_same_id_is_the_same_directory_the_next_time(root: Path) -> None:
    with Store.open(root) as store, store.cache_mounts.use("pip", "shared") as directory:
        (directory / "a").write_text("1")
    with Store.open(root) as store:
        with store.cache_mounts.use("pip", "locked") as directory:
            assert (directory / "a").read_text() == "1"
        with store.cache_mounts.use("pip", "private") as directory:
            assert (directory / "a").exists()
        with store.cache_mounts.use("npm", "shared") as directory:
            assert os.listdir(directory) == []


@pytest.mark.parametrize("id", ["../../..", "/etc", "a/b", "", ".", "\0x", "é" * 4096, "x" * 100_000])
def test_an_id_is_never_a_path(store: Store, id: str) -> None:
    with store.cache_mounts.use(id, "shared") as directory:
        assert directory.resolve().parent.parent == (store.root / "cache-mounts").resolve()
        assert len(str(directory.relative_to(store.root))) < 60


def test_no_id_of_a_step_leads_to_what_a_client_lent(store: Store) -> None:
    with store.cache_mounts.use("key", "private", lent=True) as mine:
        (mine / "secret").touch()
    with store.cache_mounts.use("key", "shared") as other, store.cache_mounts.use(mine.parent.name, "shared") as third:
        assert mine not in (other, third)
        assert os.listdir(other) == os.listdir(third) == []
    assert store.cache_mounts.directory("key") != mine
    with store.cache_mounts.use("key", "private", lent=True) as again:
        assert again == mine


def test_nothing_is_seeded_below_what_a_client_lends(store: Store) -> None:
    store.cache_mounts.seed = lambda id, directory: (directory / "foreign").touch()
    with store.cache_mounts.use("key", "private", lent=True) as directory:
        assert os.listdir(directory) == []


def test_emptied_every_directory_of_an_id_is_gone_but_those_in_use(store: Store) -> None:
    for options in {}, {"base": "x"}, {"lent": True}:
        with store.cache_mounts.use("a", "private", **options) as directory:
            (directory / "old").touch()
    with store.cache_mounts.use("b", "shared") as used:
        (used / "old").touch()
        store.cache_mounts.empty(["a", "b", "never seen"])
        assert os.listdir(used) == ["old"]
    kept = []
    for options in {}, {"base": "x"}, {"lent": True}:
        with store.cache_mounts.use("a", "private", **options) as directory:
            kept.append(os.listdir(directory))
    assert kept == [[], [], ["old"]]
    assert os.listdir(store.root / "trash") == []


def test_shared_users_have_one_directory_at_once(store: Store) -> None:
    with store.cache_mounts.use("x", "shared") as one, store.cache_mounts.use("x", "shared") as two:
        assert one == two


def test_private_users_have_their_own_and_reuse_the_first(store: Store) -> None:
    with store.cache_mounts.use("x", "private") as one, store.cache_mounts.use("x", "private") as two:
        assert one != two
    with store.cache_mounts.use("x", "private") as again:
        assert again == one


def test_locked_users_wait_for_each_other_also_in_other_stores(root: Path) -> None:
    with Store.open(root) as one, Store.open(root) as two:
        cancel = threading.Event()
        with one.cache_mounts.use("x", "locked"):
            threading.Timer(0.05, cancel.set).start()
            with pytest.raises(Cancelled), two.cache_mounts.use("x", "locked", cancel=cancel):
                pass
        with two.cache_mounts.use("x", "locked"):
            pass


def test_a_new_directory_starts_with_what_it_is_prepared_with(store: Store) -> None:
    def prepare(directory: Path) -> None:
        (directory / "seed").touch()

    with store.cache_mounts.use("x", "shared", base="b", prepare=prepare) as directory:
        assert os.listdir(directory) == ["seed"]
        (directory / "seed").unlink()
    with store.cache_mounts.use("x", "shared", base="b", prepare=prepare) as directory:
        assert os.listdir(directory) == []
    with store.cache_mounts.use("x", "shared", base="other") as directory:
        assert os.listdir(directory) == []


def test_a_preparation_that_fails_leaves_no_directory(store: Store, root: Path) -> None:
    def prepare(directory: Path) -> None:
        (directory / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError), store.cache_mounts.use("x", "shared", prepare=prepare):
        pass
    assert os.listdir(root / "drafts") == os.listdir(root / "trash") == []
    with store.cache_mounts.use("x", "shared") as directory:
        assert os.listdir(directory) == []


def test_it_may_be_left_on_another_thread(store: Store) -> None:
    used = store.cache_mounts.use("x", "locked")
    used.__enter__()
    thread = threading.Thread(target=used.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    with store.cache_mounts.use("x", "locked"):
        pass
