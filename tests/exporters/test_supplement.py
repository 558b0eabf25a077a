"""Layers told to a scanner's bill of materials."""

import os

import pytest

from kedge.exporters.sbom.supplement import supplemented


@pytest.fixture
def layers(tmp_path):
    for number, names in enumerate((("base", "both", "lib/so", "gone"), ("both", "new"))):
        for name in names:
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    (tmp_path / "1" / "link").symlink_to("nowhere")
    return [(f"sha256:{number}", tmp_path / str(number)) for number in range(2)]


def told(layers, *files, **more):
    value = supplemented({"files": list(files), **more}, layers, "kedge-1")
    return [one.get("comment") if isinstance(one, dict) else one for one in value["files"]]


@pytest.mark.parametrize(
    ("name", "layer"),
    [("/base", 0), ("base", 0), ("./lib/../lib/so", 0), ("both", 1), ("/new", 1), ("/link", 1), ("/missing", None)],
)
def test_a_file_is_of_the_topmost_layer_that_holds_it(layers, name, layer):
    assert told(layers, {"fileName": name}) == [None if layer is None else f"layerID: sha256:{layer}"]


def test_a_comment_that_is_there_stays(layers):
    assert told(layers, {"fileName": "/base", "comment": "mine"}, {"fileName": "/base"}) == [
        "mine", "layerID: sha256:0"
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_file_that_was_removed_is_of_the_layer_that_made_it(layers, tmp_path):
    try:
        os.mknod(tmp_path / "1" / "gone", 0o20000, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("no devices can be made here")
    assert told(layers, {"fileName": "/gone"}) == ["layerID: sha256:0"]


@pytest.mark.parametrize(
    "name", [None, 7, "", "/", "..", "../../etc/passwd", "a\0b", "\ud800", "x" * 5000, "base/below"]
)
def test_a_name_that_is_none_of_the_images_is_left_alone(layers, name):
    (comment,) = told(layers, {"fileName": name})
    assert comment is None or name in ("", "/", "..")  # the root itself, which every layer has


@pytest.mark.parametrize("document", [None, [], "text", {}, {"files": "a b"}, {"files": [1, None]}])
def test_what_is_no_document_stays_as_it_is(layers, document):
    assert supplemented(document, layers, "kedge-1") == document


def test_the_document_says_who_told_its_layers(layers):
    value = supplemented(
        {"files": [{"fileName": "/base"}], "creationInfo": {"created": "x", "creators": ["Tool: theirs"]}},
        layers,
        "k-1",
    )
    assert value["creationInfo"] == {"created": "x", "creators": ["Tool: theirs", "Tool: k-1"]}
