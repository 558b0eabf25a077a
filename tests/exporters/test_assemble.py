"""Documents of new images: history, times, media types, and that the same stage gives the same bytes."""

import os

import pytest

from kedge.exporters.assemble import DEFAULT_EPOCH, Stage, assemble, complete_config, index_document, timestamp
from kedge.exporters.options import ImageOptions, read_options
from kedge.model.digest import Digest, sha256
from kedge.model.errors import InvalidInput
from kedge.model.graph import Layer
from kedge.model.image import (
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    History,
    ImageConfig,
)
from kedge.model.platform import Platform
from kedge.storage.store import Store

AMD64 = Platform("linux", "amd64")
ONE, TWO = sha256(b"1"), sha256(b"2")


def layer(store: Store, files: dict[str, str], mtime: int = 2_000_000_000) -> Layer:
    with store.layers.draft() as draft:
        for name, content in files.items():
            path = draft.upper / name
            path.write_text(content)
            os.utime(path, (mtime, mtime))
        return draft.commit()


def stage(*layers: Layer, epoch: int | None = None, **config: object) -> Stage:
    history = tuple(History(f"step {n}") for n in range(len(layers)))
    return Stage(ImageConfig(AMD64, history=history, **config), tuple(layers), epoch=epoch)  # type: ignore[arg-type]


def test_the_same_files_at_other_times_give_the_same_image(store: Store) -> None:
    early, late = (layer(store, {"a": "x"}, mtime) for mtime in (1_900_000_000, 2_000_000_000))
    first, second = (assemble(store, stage(each), ImageOptions(), "gzip") for each in (early, late))
    assert early != late
    assert first.manifest_document == second.manifest_document


def test_an_epoch_of_the_users_is_the_time_of_files_and_documents(store: Store) -> None:
    made = assemble(store, stage(layer(store, {"a": "x"}), epoch=1_700_000_000), ImageOptions(), "gzip")
    plain = assemble(store, stage(layer(store, {"a": "x"})), ImageOptions(), "gzip")
    assert made.config.created == "2023-11-14T22:13:20Z" == made.config.history[0].created
    assert made.config.diff_ids != plain.config.diff_ids
    assert plain.config.created == timestamp(DEFAULT_EPOCH)


def test_files_older_than_the_limit_keep_their_time(store: Store) -> None:
    old, new = layer(store, {"a": "x"}, 1000), layer(store, {"a": "x"})
    made = [assemble(store, stage(each), ImageOptions(), None).config.diff_ids for each in (old, new)]
    assert made[0] != made[1]


@pytest.mark.parametrize(
    ("attrs", "media_type"),
    [
        ({"compression": "gzip"}, OCI_LAYER_GZIP),
        ({"compression": "zstd"}, OCI_LAYER_ZSTD),
        ({"compression": "uncompressed"}, OCI_LAYER),
        ({"compression": "gzip", "oci-mediatypes": "false"}, DOCKER_LAYER_GZIP),
        ({"compression": "zstd", "oci-mediatypes": "false"}, DOCKER_LAYER_ZSTD),
    ],
)
def test_layers_are_compressed_and_typed_as_asked(store: Store, attrs: dict[str, str], media_type: str) -> None:
    options = read_options(attrs.items())
    made = assemble(store, stage(layer(store, {"a": "x" * 5000})), options, options.compression)  # type: ignore[arg-type]
    (blob,) = made.manifest.layers
    assert blob.media_type == media_type
    assert sha256(store.blobs.read(blob.digest)) == blob.digest


def test_for_the_store_layers_are_named_but_not_made(store: Store) -> None:
    made = assemble(store, stage(layer(store, {"a": "x"})), ImageOptions(), None)
    (blob,) = made.manifest.layers
    assert (blob.media_type, blob.digest) == (OCI_LAYER, made.config.diff_ids[0])
    assert not store.blobs.has(blob.digest)


def test_history_of_the_base_keeps_its_times() -> None:
    base = ImageConfig(AMD64, history=(History("base", created="2024-05-06T07:08:09.123456789Z"),), diff_ids=(ONE,))
    config = ImageConfig(AMD64, history=(*base.history, History("mine")))
    done = complete_config(Stage(config, (Layer("a"), Layer("b")), base), [ONE, TWO])
    assert [entry.created for entry in done.history] == ["2024-05-06T07:08:09.123456789Z", "1980-01-01T00:00:01Z"]


def test_recorded_times_are_those_of_the_layers_and_a_base_keeps_its_own() -> None:
    base = ImageConfig(AMD64, history=(History("base", created="2024-05-06T07:08:09.123456789Z"),), diff_ids=(ONE,))
    mine = (History("env", empty_layer=True), History("run"), History("cmd", empty_layer=True))
    config = ImageConfig(AMD64, history=(*base.history, *mine))
    one = Stage(config, (Layer("a"), Layer("b")), base, recorded=True)
    done = complete_config(one, [ONE, TWO], [5.0, 1_700_000_000.25])
    late = "2023-11-14T22:13:20.250000Z"
    assert [entry.created for entry in done.history] == ["2024-05-06T07:08:09.123456789Z", late, late, late]
    assert done.created == late


def test_times_that_a_config_came_with_are_stronger_than_recorded_ones() -> None:
    told = "2001-09-09T01:46:40Z"
    config = ImageConfig(AMD64, created=told, history=(History("one", created=told), History("two")))
    done = complete_config(Stage(config, (Layer("a"), Layer("b")), recorded=True), [ONE, TWO], [5.0, 6.0])
    assert [entry.created for entry in done.history] == [told, "1970-01-01T00:00:06Z"]
    assert done.created == told


def test_an_epoch_is_stronger_than_recorded_times(store: Store) -> None:
    one = layer(store, {"a": "x"})
    made = assemble(store, Stage(ImageConfig(AMD64), (one,), epoch=0, recorded=True), ImageOptions(), None)
    assert made.config.created == "1970-01-01T00:00:00Z"


def test_an_image_of_recorded_times_is_the_same_from_the_same_store(store: Store) -> None:
    one = Stage(ImageConfig(AMD64), (layer(store, {"a": "x"}),), recorded=True)
    first, second = (assemble(store, one, ImageOptions(), None) for _ in range(2))
    assert first.id == second.id
    assert first.config.created > "2025"


@pytest.mark.parametrize("entries", [0, 1, 2, 3, 4])
def test_history_has_one_entry_for_each_layer(entries: int) -> None:
    config = ImageConfig(AMD64, history=tuple(History(f"step {n}") for n in range(entries)))
    done = complete_config(Stage(config, (Layer("a"), Layer("b"))), [ONE, TWO])
    assert sum(not entry.empty_layer for entry in done.history) == 2


def test_annotations_reach_their_documents(store: Store) -> None:
    attrs = {"annotation.a": "1", "annotation[linux/amd64].a": "2", "annotation[linux/arm64].b": "3",
             "annotation-index.c": "4", "annotation-manifest-descriptor.d": "5"}  # fmt: skip
    options = read_options(attrs.items())
    made = assemble(store, stage(layer(store, {"a": "x"})), options, None)
    index = index_document([made.manifest_document], options, [made.config])
    assert dict(made.manifest.annotations) == {"a": "2"}
    assert b'"annotations":{"c":"4"}' in index.data
    assert b'"annotations":{"d":"5"}' in index.data


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"compression": "lzma"}, "expected uncompressed, gzip, estargz or zstd"),
        ({"compression": "zstd", "compression-level": "23"}, "expected 0 to 22"),
        ({"compression-level": "-1"}, "expected 0 to 9"),
        ({"push": "maybe"}, "expected true or false"),
        ({"compression": "estargz", "oci-mediatypes": "false"}, "needs oci-mediatypes=true"),
        ({"annotation-layer.a": "1"}, "unknown annotation type 'layer'"),
        ({"name": "UPPER"}, "must be lowercase"),
    ],
)
def test_attributes_that_mean_nothing_are_refused(attrs: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_options(attrs.items())


def test_an_unreadable_time_is_no_crash() -> None:
    from kedge.model.errors import IntegrityError

    with pytest.raises(IntegrityError, match="time that cannot be read"):
        complete_config(
            Stage(ImageConfig(AMD64, created="yesterday", history=(History("x"),)), (Layer("a"),)), [Digest(ONE)]
        )
