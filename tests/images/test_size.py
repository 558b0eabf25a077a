"""Where an image's bytes come from: layers laid over each other, file by file."""

import json
from pathlib import Path

import pytest

from kedge.cli.size import document, lines
from kedge.images.lookup import open_image
from kedge.images.size import Entry, Hidden, ImageSize, Instruction, _Merge, measure
from kedge.model.digest import sha256
from kedge.storage.store import Store
from tests.images.conftest import Import


def merged(*layers: list[Entry]) -> _Merge:
    merge = _Merge()
    for index, entries in enumerate(layers):
        merge.add(index, entries)
    return merge


def file(path: str, size: int) -> Entry:
    return (path, "file", size)


def test_each_layer_counts_its_own_files() -> None:
    merge = merged([file("a", 10), ("d", "directory", 0), file("d/b", 5)], [file("d/c", 1)])
    assert (merge.size, merge.files) == ({0: 15, 1: 1}, {0: 2, 1: 1})
    assert merge.hidden == []


def test_a_file_that_is_replaced_is_hidden() -> None:
    assert merged([file("d/a", 10)], [file("d/a", 10)]).hidden == [Hidden("/d/a", 10, 1, 0, 1)]


def test_a_whiteout_hides_all_below() -> None:
    merge = merged([file("d/a", 10), file("d/e/b", 5)], [file("d/c", 1)], [("d", "whiteout", 0)])
    assert sorted(merge.hidden, key=lambda one: one.added_by) == [Hidden("/d", 15, 2, 0, 2), Hidden("/d", 1, 1, 1, 2)]


def test_an_opaque_directory_hides_what_is_below_it_but_not_its_own() -> None:
    new: list[Entry] = [("d", "directory", 0), file("d/new", 3), ("d", "opaque", 0)]
    merge = merged([file("d/a", 10), file("x", 1)], new, [("d/new", "whiteout", 0)])
    assert merge.hidden == [Hidden("/d", 10, 1, 0, 1), Hidden("/d/new", 3, 1, 1, 2)]


def test_an_opaque_root_hides_everything() -> None:
    merge = merged([file("a", 10), file("d/b", 5)], [("", "opaque", 0), file("c", 1)])
    assert sorted((one.path, one.size) for one in merge.hidden) == [("/a", 10), ("/d", 5)]


def test_a_directory_and_a_file_replace_each_other() -> None:
    assert merged([file("d/a", 10)], [file("d", 1)]).hidden == [Hidden("/d", 10, 1, 0, 1)]
    assert merged([file("d", 10)], [file("d/a", 1)]).hidden == [Hidden("/d", 10, 1, 0, 1)]


def test_what_is_hidden_counts_once() -> None:
    merge = merged(
        [file("a", 10)], [("a", "whiteout", 0)], [file("a", 1)], [("a", "whiteout", 0)], [("a", "whiteout", 0)]
    )
    assert [(one.added_by, one.hidden_by) for one in merge.hidden] == [(0, 1), (2, 3)]


def test_an_imported_image_is_measured_and_has_no_stages(store: Store, imported: Import) -> None:
    imported("hello", files={"a": b"x" * 100, "d/b": b"y"})
    found = measure(store, open_image(store, "hello"))
    assert [(one.size, one.files, one.hidden) for one in found.instructions] == [(101, 2, 0)]
    assert found.stages is None
    assert json.loads(json.dumps(document(found)))["size"] == 101
    assert any("not built in this store" in line for line in lines(found))


def test_layers_that_are_not_here_are_said_to_be(tmp_path: Path) -> None:
    instruction = Instruction("COPY a /", sha256(b"x"), None, None, compressed=2_000_000)
    text = "\n".join(lines(ImageSize(sha256(b"y"), (instruction,), (), None)))
    assert "(2MB packed)   ?" in text
    assert "1 layer not here yet" in text


@pytest.mark.parametrize("full", [False, True])
def test_many_hidden_paths_are_cut_short(full: bool) -> None:
    instructions = (Instruction("RUN a", sha256(b"x"), 100, 100, 100, 100), Instruction("RUN b", sha256(b"y"), 0, 0))
    hidden = tuple(Hidden(f"/{number}", 1, 1, 0, 1) for number in range(30))
    text = "\n".join(lines(ImageSize(sha256(b"z"), instructions, hidden, None), full))
    assert ("and 20 more" in text) == (not full)
