"""The document of a travelling cache: read with suspicion, written as BuildKit reads it; and what goes into one."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.exporters.cache import inline, place_of, read_target
from kedge.model.cache_document import CacheDocument, CacheLayer, CacheRecord, CacheResult, Link, Step
from kedge.model.digest import sha256
from kedge.model.errors import IntegrityError, InvalidInput
from kedge.model.graph import Layer

A, B, C = (sha256(text) for text in (b"a", b"b", b"c"))


def document(**value):
    return CacheDocument.from_bytes(json.dumps(value).encode())


def test_what_was_written_is_read_again():
    layers = (CacheLayer(A), CacheLayer(B, 0), CacheLayer(C, 1, "type", A, 7))
    records = (CacheRecord(A), CacheRecord(B, ((Link(0, C), Link(0)),), (CacheResult((0, 1), "2026-01-01T00:00:00Z"),)))
    written = CacheDocument(layers, records)
    assert CacheDocument.from_bytes(written.to_bytes()) == written


def test_fields_that_buildkit_leaves_out_have_its_meaning():
    read = document(layers=[{"blob": A, "parent": -1}, {"blob": B}], records=[{"digest": A, "layers": [{"layer": 1}]}])
    assert read.layers[1].parent == 0
    assert read.records[0].results[0].layers == (0, 1)


def test_chains_name_each_layer():
    read = document(
        layers=[{"blob": A, "parent": -1}, {"blob": B, "parent": -1}],
        records=[{"digest": A, "chains": [{"layers": [1, 0], "createdAt": "2026-01-01T00:00:00Z"}]}],
    )
    assert read.records[0].results[0].layers == (1, 0)


@pytest.mark.parametrize(
    "value",
    [
        {"layers": [{"blob": A, "parent": 0}]},
        {"layers": [{"blob": A, "parent": 1}, {"blob": B, "parent": 0}]},
        {"layers": [{"blob": A, "parent": 5}]},
        {"layers": [{"blob": A, "parent": -2}]},
        {"layers": [{"blob": A, "parent": True}]},
        {"layers": [{"blob": "../../etc/passwd", "parent": -1}]},
        {"records": [{"digest": A, "layers": [{"layer": 0}]}]},
        {"records": [{"digest": A, "inputs": [[{"link": 0}]]}]},
        {"records": [{"digest": A, "inputs": [[{"link": 1}]]}, {"digest": B, "inputs": [[{"link": 0}]]}]},
        {"records": [{"digest": A, "inputs": [[{"link": 9}]]}]},
        {"records": [{"digest": "sha256:short"}]},
        {"records": 7},
        [],
    ],
)
def test_a_document_that_cannot_be_followed_is_refused(value):
    with pytest.raises(IntegrityError):
        CacheDocument.from_bytes(json.dumps(value).encode())


def test_a_deep_chain_of_records_is_read_without_recursion():
    records = [{"digest": A}] + [{"digest": B, "inputs": [[{"link": i}]]} for i in range(20_000)]
    assert len(document(records=records).records) == 20_001


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(IntegrityError):
        CacheDocument.from_bytes(data)


_json = st.recursive(
    st.none() | st.integers(-2, 3) | st.sampled_from([A, "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("layers records digest inputs link layer blob parent chains".split()), inner)
    ),
    max_leaves=20,
)


@given(_json)
def test_any_json_is_read_or_refused(value):
    with contextlib.suppress(IntegrityError):
        CacheDocument.from_bytes(json.dumps(value).encode())


def entries(text):
    return json.loads(base64.b64decode(json.loads(text)))


def test_an_inline_cache_names_layers_by_their_place_in_the_image():
    x, y, z = Layer("x"), Layer("y"), Layer("z")
    steps = [Step(A), Step(B, ((Link(0),),), (x, y)), Step(C, ((Link(1),),), (z,)), Step(A, (), (Layer("gone"),))]
    found = entries(inline(steps, (x, y, z)))
    assert found[1]["layers"][0]["layer"] == 1
    assert found[2]["chains"][0]["layers"] == [2]  # no prefix of the image: each layer is named
    assert not {"layers", "chains"} & {*found[0], *found[3]}


def test_no_inline_cache_without_a_result():
    assert inline([Step(A)], (Layer("x"),)) is None


def test_attributes_are_buildkits():
    target = read_target("registry", {"ref": "x", "mode": "max", "compression": "zstd", "compression-level": "7"})
    assert (target.mode, target.compression, target.level, target.image_manifest) == ("max", "zstd", 7, True)
    assert not read_target("local", {"dest": "x", "oci-mediatypes": "false"}).image_manifest
    assert read_target("local", {"dest": "x", "ignore-error": "false"}).must_succeed
    assert not read_target("local", {"dest": "x", "ignore-error": "true"}).must_succeed


@pytest.mark.parametrize("attributes", [{}, {"ref": "x", "mode": "all"}, {"ref": "x", "foo": "1"}, {"ref": "A B"}])
def test_wrong_attributes_are_refused(attributes):
    with pytest.raises(InvalidInput):
        place_of(read_target("registry", attributes), None)
