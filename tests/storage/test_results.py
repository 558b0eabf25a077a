"""Results are found by key, forgotten with their layers, and explained by the manifest of last time."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kedge.model.cachekey import CacheKey, KeyManifest
from kedge.model.digest import Digest, sha256
from kedge.model.errors import Cancelled, StoreError
from kedge.model.graph import Layer
from kedge.model.value import replace
from kedge.storage.gc import PruneOptions
from kedge.storage.store import Store


def key(*parts: str) -> CacheKey:
    op, *inputs = parts
    return CacheKey(sha256(op.encode()), tuple(sha256(each.encode()) for each in inputs))


def test_what_was_put_is_found_by_an_equal_key(store: Store, make: Callable[..., Layer]) -> None:
    a, b = make(a="1"), make(b="2")
    store.results.put(key("op", "in"), [(a, b), (), (b,)])
    assert store.results.results(key("op", "in")) == [(a, b), (), (b,)]
    assert store.results.results(key("op")) is None


def test_results_survive_the_store_object(root: Path) -> None:
    with Store.open(root) as store:
        with store.layers.draft() as draft:
            layer = draft.commit()
        store.results.put(key("op"), [(layer,)])
    with Store.open(root) as store:
        assert store.results.results(key("op")) == [(layer,)]


def test_a_later_put_replaces_the_earlier(store: Store, make: Callable[..., Layer]) -> None:
    store.results.put(key("op"), [(make(a="1"),)])
    new = make(a="2")
    store.results.put(key("op"), [(new,)])
    assert store.results.results(key("op")) == [(new,)]


def test_a_result_with_a_layer_that_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(StoreError):
        store.results.put(key("op"), [(Layer("nothere"),)])
    assert store.results.results(key("op")) is None


def test_a_clients_directory_is_never_a_result(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        store.results.put(key("op"), [(store.layers.adopt(tmp_path),)])


def test_a_definition_recalls_its_key_as_long_as_there_are_results(root: Path) -> None:
    definition = sha256(b"definition")
    with Store.open(root) as store:
        store.results.remember(definition, key("op", "content"))
        assert store.results.recall(definition) is None
        with store.layers.draft() as draft:
            store.results.put(key("op", "content"), [(draft.commit(),)])
        assert store.results.recall(definition) == key("op", "content")
    time.sleep(0.02)  # a tick of the kernel's clock: what was used in the same one is spared
    with Store.open(root) as store:
        store.prune()
        assert store.results.recall(definition) is None
        assert store.results.results(key("op", "content")) is None


def test_the_manifest_of_a_place_is_the_latest(store: Store, make: Callable[..., Layer]) -> None:
    manifests = [
        KeyManifest(
            ("place", "other"),
            f"RUN {n}",
            key("op", str(n)),
            (("command", str(n)),),
            (("base", "key"), ("ctx", "content")),
        )
        for n in range(2)
    ]
    assert store.results.previous("place") is None
    for manifest in manifests:
        store.results.put(manifest.key, [(make(),)], manifest)
    for place in ("place", "other"):
        assert store.results.previous(place) == replace(manifests[1], places=(place,))


def test_a_claim_makes_others_wait_and_can_be_cancelled(root: Path) -> None:
    with Store.open(root) as one, Store.open(root) as two:
        cancel = threading.Event()
        with one.results.claim(key("op"), threading.Event()), two.results.claim(key("other"), cancel):
            claim = two.results.claim(key("op"), cancel)
            threading.Timer(0.05, cancel.set).start()
            with pytest.raises(Cancelled):
                claim.__enter__()
            claim.__exit__(None, None, None)  # never entered: nothing happens
        with two.results.claim(key("op"), threading.Event()):
            pass


def test_what_one_build_was_told_stays_while_another_prunes(root: Path) -> None:
    with Store.open(root) as store, store.layers.draft() as draft:
        store.results.put(key("op"), [(draft.commit(),)])
    with Store.open(root) as build, Store.open(root) as other:
        [(layer,)] = build.results.results(key("op")) or []
        assert other.prune(PruneOptions(all=True)).bytes == 0
        assert build.layers.directory(layer).is_dir()
    time.sleep(0.02)
    with Store.open(root) as other:
        assert [each.id for each in other.prune().records] == [layer]


def test_a_build_that_finds_everything_writes_nothing(root: Path) -> None:
    with Store.open(root) as store, store.layers.draft() as draft:
        store.results.put(key("op"), [(draft.commit(),)])
    for _ in range(2):
        with Store.open(root) as store:
            assert store.results.results(key("op"))
            assert store._database._connection is not None
            assert store._database._connection.total_changes == 0


def test_what_was_used_long_ago_is_marked_as_used_and_stays(root: Path) -> None:
    with Store.open(root) as store, store.layers.draft() as draft:
        store.results.put(key("op"), [(draft.commit(),)])
        with store._database.transaction() as rows:
            rows.execute("UPDATE results SET used = 1")
            rows.execute("UPDATE layers SET used = 1")
    with Store.open(root) as build, Store.open(root) as other:
        assert build.results.results(key("op"))
        assert other.prune(PruneOptions(all=True)).records == ()
        assert build.results.results(key("op"))


def test_under_a_cap_only_what_this_build_used_is_spared(root: Path) -> None:
    from tests.storage.test_gc import pass_time

    with Store.open(root) as store:
        for name in ("a", "b"):
            with store.layers.draft() as draft:
                store.results.put(key(name), [(draft.commit(),)])
    pass_time()
    with Store.open(root, max_size=1 << 30) as build, Store.open(root) as other:
        assert build.results.results(key("a"))
        other.prune()
        assert build.results.results(key("a"))
        assert build.results.results(key("b")) is None


def test_many_threads_and_two_stores_put_and_find(root: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with Store.open(root) as one, Store.open(root) as two, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> bool:
            store = (one, two)[number % 2]
            with store.layers.draft() as draft:
                layer = draft.commit()
            store.results.put(key(str(number)), [(layer,)])
            return (two, one)[number % 2].results.results(key(str(number))) == [(layer,)]

        assert all(pool.map(work, range(100)))
        assert one.verify() == []


def test_a_key_is_a_value_of_the_model(store: Store, make: Callable[..., Layer]) -> None:
    store.results.put(key("op"), [(make(),)], KeyManifest(("p",), "n", key("op")))
    found = store.results.previous("p")
    assert found
    assert isinstance(found.key.op, str)
    assert found.key.op == Digest(sha256(b"op"))
