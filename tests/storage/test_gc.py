"""Garbage: what du says, what may go, what may not, and the cap that is never exceeded."""

# ruff: noqa: PT012 (what is opened must be used to fail)

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kedge.model.digest import Digest, sha256
from kedge.model.errors import StoreError
from kedge.model.graph import Layer
from kedge.model.image import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, ImageConfig, Manifest
from kedge.model.platform import Platform
from kedge.storage.gc import PruneOptions
from kedge.storage.images import ImageRecord
from kedge.storage.store import Store
from tests.storage.conftest import layer_blob
from tests.storage.test_results import key


def disk(root: Path) -> int:
    out = subprocess.run(["du", "-s", "-B1", str(root)], check=True, capture_output=True, text=True).stdout
    return int(out.split()[0])


def total(store: Store) -> int:
    return sum(usage.size for usage in store.usage())


def image(store: Store, name: str, *layers: Layer, clamp: int | None = None) -> ImageRecord:
    """Name an image made here, whose layers exist uncompressed and virtually."""
    tars = [store.layers.diff_id(layer, clamp=clamp) for layer in layers]
    config = ImageConfig(Platform("linux", "amd64"), diff_ids=tuple(digest for digest, _ in tars)).to_bytes()
    id = store.blobs.put(config)
    manifest = Manifest(
        Descriptor(OCI_CONFIG, id, len(config)), tuple(Descriptor(OCI_LAYER, digest, size) for digest, size in tars)
    ).to_bytes()
    record = ImageRecord(name, Descriptor(OCI_MANIFEST, store.blobs.put(manifest), len(manifest)), id, 1.0)
    store.images.set(record)
    return record


def used(root: Path) -> tuple[Layer, Layer, Digest]:
    """A store after a build: a layer in an image, one in a result only, a loose blob."""
    with Store.open(root) as store:
        layers = []
        for number in range(2):
            with store.layers.draft() as draft:
                (draft.upper / "f").write_bytes(os.urandom(50_000 + number))
                os.link(draft.upper / "f", draft.upper / "g")
                layers.append(draft.commit())
        store.results.put(key("a"), [(layers[0],)])
        store.results.put(key("b"), [tuple(layers)])
        image(store, "named", layers[0])
        with store.logs.writer(sha256(b"vertex"), "RUN x") as log:
            log.write(b"output\n")
        with store.cache_mounts.use("id", "shared") as directory:
            (directory / "c").write_bytes(bytes(10_000))
        blob = store.blobs.put(b"loose" * 1000)
    pass_time()
    return layers[0], layers[1], blob


def pass_time() -> None:
    """Let the kernel's clock tick: what was used in the same tick as a later lease began is spared."""
    time.sleep(0.02)


def test_usage_adds_up_to_what_du_says(root: Path) -> None:
    used(root)
    (root / "git" / "x").mkdir(parents=True)
    (root / "git" / "x" / "HEAD").write_text("ref")
    (root / "http").mkdir()
    (root / "http" / "note").write_text("x")
    with Store.open(root) as store, store.layers.draft() as draft, store.blobs.writer() as writer:
        (draft.upper / "f").write_bytes(bytes(100_000))
        writer.write(bytes(100_000))
        for _ in range(2):  # measured, then remembered
            assert total(store) == disk(root)
    kinds = {usage.kind for usage in store.usage()}
    assert kinds == {"layer", "blob", "cache-mount", "log", "source", "store"}


def test_hard_links_between_layers_count_once(store: Store, make: Callable[..., Layer], root: Path) -> None:
    one = store.layers.directory(make(f="x" * 100_000))
    with store.layers.draft() as draft:
        os.link(one / "f", draft.upper / "f")
        draft.commit()
    for _ in range(2):
        assert total(store) == disk(root)


def test_prune_leaves_what_an_image_needs(root: Path) -> None:
    named, loose_layer, loose_blob = used(root)
    before = disk(root)
    with Store.open(root) as store:
        pruned = store.prune()
        assert {usage.id for usage in pruned.records if usage.kind == "layer"} == {loose_layer}
        assert loose_blob in {usage.id for usage in pruned.records}
        assert {usage.kind for usage in pruned.records} == {"layer", "blob", "log", "cache-mount"}
        assert store.results.results(key("a")) == [(named,)]  # an image holds all of it
        assert store.results.results(key("b")) is None
        assert store.verify() == []
        assert total(store) == disk(root)
        assert store.layers.directory(named).is_dir()
    assert before - disk(root) >= pruned.bytes - 4096


def test_prune_all_also_forgets_results_that_cost_nothing(root: Path) -> None:
    named, *_ = used(root)
    with Store.open(root) as store:
        store.prune(PruneOptions(all=True))
        assert store.results.results(key("a")) is None
        assert store.layers.directory(named).is_dir()


def test_a_layer_goes_when_its_last_name_has_gone(root: Path) -> None:
    _named, *_ = used(root)
    with Store.open(root) as store:
        store.images.remove("named")
        store.prune()
        assert [usage.kind for usage in store.usage()] == ["store"]
        assert os.listdir(root / "layers") == os.listdir(root / "blobs" / "sha256") == []


def test_an_image_with_clamped_layers_holds_them(root: Path) -> None:
    with Store.open(root) as store:
        with store.layers.draft() as draft:
            (draft.upper / "f").write_text("x")
            layer = draft.commit()
        image(store, "clamped", layer, clamp=0)
        store.layers.blob(layer, "gzip", clamp=0)
    pass_time()
    with Store.open(root) as store:
        assert [usage.kind for usage in store.prune().records] == ["blob"]
        assert store.layers.directory(layer).is_dir()


def test_a_pulled_image_holds_its_blobs(root: Path) -> None:
    data, blob, diff_id = layer_blob({"a": b"1"})
    with Store.open(root) as store:
        store.blobs.put(data)
        layer = store.layers.declare(diff_id, blob, "a://")
        config = ImageConfig(Platform("linux", "amd64"), diff_ids=(diff_id,)).to_bytes()
        manifest = Manifest(Descriptor(OCI_CONFIG, store.blobs.put(config), len(config)), (blob,)).to_bytes()
        target = Descriptor(OCI_MANIFEST, store.blobs.put(manifest), len(manifest))
        store.images.set(ImageRecord("pulled", target, sha256(config), 1.0))
    with Store.open(root) as store:
        assert store.prune(PruneOptions(all=True)).records == ()
        assert store.layers.info(layer).id == layer
        assert all(usage.shared and usage.in_use for usage in store.usage() if usage.kind == "blob")


def test_filters_choose(root: Path) -> None:
    _, layer, blob = used(root)
    with Store.open(root) as store:
        assert store.prune(PruneOptions(until=time.time() - 3600)).records == ()
        assert {u.kind for u in store.prune(PruneOptions(kinds=("log",))).records} == {"log"}
        assert [u.id for u in store.prune(PruneOptions(ids=(blob[7:20],))).records] == [blob]
        assert [u.id for u in store.prune(PruneOptions(kinds=("layer",))).records] == [layer]


def test_keep_stops_when_the_store_is_small_enough_and_takes_the_oldest_first(root: Path) -> None:
    layers = []
    for _ in range(4):
        with Store.open(root) as store, store.layers.draft() as draft:
            (draft.upper / "f").write_bytes(bytes(100_000))
            layers.append(draft.commit())
        pass_time()
    with Store.open(root) as store:
        store.layers.directory(layers[0])  # used again
        size = total(store)
    pass_time()
    with Store.open(root) as store:
        pruned = store.prune(PruneOptions(keep=size - 150_000))
        assert [usage.id for usage in pruned.records] == [layers[1], layers[2]]


def test_a_build_at_work_keeps_what_it_uses_and_what_it_makes(root: Path) -> None:
    _, layer, _ = used(root)
    with Store.open(root) as build, Store.open(root) as other:
        data, blob, diff_id = layer_blob({"a": b"1"})
        build.blobs.put(data)
        build.layers.directory(layer)
        draft = build.layers.draft((layer,))
        with build.cache_mounts.use("id", "shared"):
            gone = {usage.kind for usage in other.prune(PruneOptions(all=True)).records}
            assert gone == {"blob", "log"}
        assert build.blobs.has(blob.digest)
        assert draft.upper.is_dir()
        draft.discard()
        assert build.layers.directory(build.layers.declare(diff_id, blob)).is_dir()


def test_pruning_while_builds_make_layers_never_takes_a_new_one(root: Path) -> None:
    stop = threading.Event()

    def build(builder: str) -> None:
        for number in range(40):
            with Store.open(root) as store:
                with store.layers.draft() as draft:
                    (draft.upper / "f").write_text(str(number))
                    layer = draft.commit()
                store.results.put(key(builder, str(number)), [(layer,)])
                assert (store.layers.directory(layer) / "f").read_text() == str(number)
                assert store.results.results(key(builder, str(number))) == [(layer,)]

    def prune() -> None:
        while not stop.is_set():
            with Store.open(root) as store:
                store.prune(PruneOptions(all=True))

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        pruner = pool.submit(prune)
        builders = [pool.submit(build, name) for name in "ab"]
        try:
            for builder in builders:
                builder.result()
        finally:
            stop.set()
        pruner.result()
    with Store.open(root) as store:
        assert store.verify() == []


def test_a_lease_taken_within_a_transaction_after_somebody_died(root: Path) -> None:
    with Store.open(root) as store:
        store.images.list()
    (root / "leases/deadbeef").touch()
    with Store.open(root) as store, store._database.transaction():
        assert store._lease.now() > 0
    assert not (root / "leases/deadbeef").exists()


# ---- the cap ---------------------------------------------------------------------------------------------------------

MB = 1 << 20


def grow(root: Path, size: int, cap: int) -> Layer:
    with Store.open(root, max_size=cap) as store, store.layers.draft() as draft:
        (draft.upper / "f").write_bytes(os.urandom(size))
        layer = draft.commit()
    pass_time()
    return layer


def test_the_oldest_layers_make_room_under_the_cap(root: Path) -> None:
    layers = [grow(root, 2 * MB, 10 * MB) for _ in range(8)]
    assert disk(root) <= 10 * MB
    with Store.open(root) as store:
        assert store.verify() == []
        here = {usage.id for usage in store.usage() if usage.kind == "layer"}
    assert layers[-1] in here
    assert layers[0] not in here


def unnamed(store: Store) -> tuple[Layer, Digest]:
    with store.layers.draft() as draft:
        (draft.upper / "f").write_bytes(os.urandom(2 * MB))
        layer = draft.commit()
    id = image(store, "passing", layer).id
    record = store.images.get("passing")
    assert record
    store.images.remove("passing")
    store.images.set(ImageRecord(id, record.target, id, time.time()))
    return layer, id


def test_images_without_a_name_go_when_asked(root: Path) -> None:
    with Store.open(root) as store:
        layer, id = unnamed(store)
    with Store.open(root) as store:
        store.prune()
        assert [record.name for record in store.images.list()] == [id]
        assert layer in {usage.id for usage in store.usage() if usage.kind == "layer" and usage.in_use}
        assert layer in {usage.id for usage in store.usage(unnamed=False) if not usage.in_use}
        store.prune(PruneOptions(unnamed=True, until=time.time() - 60))
        assert store.images.list()
        pruned = store.prune(PruneOptions(unnamed=True))
        assert layer in {usage.id for usage in pruned.records}
        assert not store.images.list()
        assert store.verify() == []


def test_images_without_a_name_make_room_under_the_cap_oldest_first(root: Path) -> None:
    made = []
    for _ in range(8):
        with Store.open(root, max_size=10 * MB) as store:
            made.append(unnamed(store))
        assert disk(root) <= 10 * MB
    with Store.open(root) as store:
        left = {record.name for record in store.images.list()}
        assert made[-1][1] in left
        assert made[0][1] not in left
        assert store.verify() == []


def test_what_cannot_fit_under_the_cap_is_refused_before_it_is_written(root: Path) -> None:
    with Store.open(root, max_size=4 * MB) as store:
        with (
            pytest.raises(StoreError, match="may not grow"),
            store.blobs.writer(Descriptor("", sha256(b"big"), 100 * MB)),
        ):
            pass
        with pytest.raises(StoreError, match="may not grow"), store.blobs.writer() as writer:
            for _ in range(100):
                writer.write(bytes(MB // 4))
        assert disk(root) <= 4 * MB
        with pytest.raises(StoreError, match="may not grow"), store.layers.draft() as draft:
            (draft.upper / "f").write_bytes(os.urandom(5 * MB))
            draft.commit()
        assert disk(root) <= 4 * MB
        assert store.verify() == []


def test_a_lazy_layer_too_large_for_the_cap_leaves_nothing(root: Path) -> None:
    data, blob, diff_id = layer_blob({"zeros": bytes(30 * MB)})
    with Store.open(root, max_size=8 * MB) as store:
        store.blobs.put(data)
        with pytest.raises(StoreError, match="may not grow"):
            store.layers.directory(store.layers.declare(diff_id, blob))
        assert disk(root) <= 8 * MB


def test_reservations_of_the_dead_do_not_count(root: Path) -> None:
    with Store.open(root) as store, store._database.transaction() as rows:
        rows.execute("INSERT INTO reservations VALUES ('deadbeef.1', 1000000000)")
    grow(root, MB, 8 * MB)


def test_a_step_that_writes_beyond_the_cap_is_stopped_while_it_writes(root: Path) -> None:
    stop = threading.Event()
    with (
        Store.open(root, max_size=16 * MB) as store,
        pytest.raises(StoreError, match="may not grow"),
        store.layers.draft() as draft,
        draft.watched(stop.set),
        (draft.upper / "f").open("wb") as file,
    ):
        for _ in range(20):
            file.write(os.urandom(MB))
            file.flush()
        stop.wait(60)  # however slowly they look after it
    assert stop.is_set()
    with Store.open(root) as store:
        assert store.verify() == []
        assert store._database.rows("SELECT * FROM reservations") == []


def test_a_step_within_the_cap_pushes_old_layers_out_while_it_writes(root: Path) -> None:
    for _ in range(6):
        grow(root, 2 * MB, 16 * MB)
    with Store.open(root, max_size=16 * MB) as store, store.layers.draft() as draft:
        with draft.watched(lambda: None), (draft.upper / "f").open("wb") as file:
            for _ in range(8):
                file.write(os.urandom(MB))
                file.flush()
                end = time.monotonic() + 60
                while disk(root) > 16 * MB:
                    assert time.monotonic() < end
                    time.sleep(0.02)
        draft.commit()
        assert disk(root) <= 16 * MB


# ---- power failure ---------------------------------------------------------------------------------------------------


def test_layers_not_known_to_be_on_disk_are_given_up_after_a_power_failure(root: Path) -> None:
    data, blob, diff_id = layer_blob({"a": b"1"})
    with Store.open(root) as store:
        with store.layers.draft() as draft:
            durable = draft.commit()
        store.results.put(key("durable"), [(durable,)])
    with Store.open(root) as store:
        store.blobs.put(data)
        lazy = store.layers.declare(diff_id, blob)
        store.layers.directory(lazy)
        with store.layers.draft() as draft:
            lost = draft.commit()
        store.results.put(key("lost"), [(lost,)])
        with store._database.transaction() as rows:
            rows.execute("UPDATE layers SET boot = 'before' WHERE boot IS NOT NULL")
        store._records.wrote = False  # the power went before the flush
    with Store.open(root) as store:
        assert store.results.results(key("durable")) == [(durable,)]
        assert store.results.results(key("lost")) is None
        assert not store.layers.info(lazy).ready
        assert (store.layers.directory(lazy) / "a").exists()
        assert store.verify() == []
