"""Verify tells of every fault in one sentence each."""

import shutil
from collections.abc import Callable

from kedge.model.digest import hex_part
from kedge.model.graph import Layer
from kedge.storage.store import Store
from tests.storage.conftest import layer_blob
from tests.storage.test_gc import image
from tests.storage.test_results import key


def test_a_sound_store_has_no_faults(store: Store, make: Callable[..., Layer]) -> None:
    layer = make(a="1")
    store.results.put(key("a"), [(layer,)])
    image(store, "x", layer)
    _data, blob, diff_id = layer_blob({"a": b"1"})
    store.layers.declare(diff_id, blob, "a://")
    assert store.verify() == []


def test_changed_bytes_are_found(store: Store) -> None:
    digest = store.blobs.put(b"x" * 100)
    store.blobs.path(digest).write_bytes(b"x" * 99 + b"y")
    [fault] = store.verify()
    assert digest in fault


def test_a_missing_layer_is_found_with_what_needs_it(store: Store, make: Callable[..., Layer]) -> None:
    layer = make(a="1")
    shutil.rmtree(store.layers.directory(layer))
    [fault] = store.verify()
    assert fault == f"layer {layer} has no directory"


def test_an_image_that_lacks_a_part_is_found(store: Store, make: Callable[..., Layer]) -> None:
    record = image(store, "broken", make(a="1"))
    (store.root / "blobs" / "sha256" / hex_part(record.id)).unlink()
    [fault] = store.verify()
    assert fault.startswith("image broken: ")
