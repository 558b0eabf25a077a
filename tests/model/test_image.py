"""Image documents as values: what is kept, what is refused."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.model.digest import Digest, digest_of, hex_part, parse_digest, sha256
from kedge.model.errors import IntegrityError, InvalidDigest, KedgeError
from kedge.model.image import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Healthcheck,
    History,
    ImageConfig,
    Index,
    Manifest,
    canonical_json,
    referring,
    strict_json,
)
from kedge.model.platform import Platform

DIGEST = Digest("sha256:" + "a" * 64)
CONFIG = Descriptor(OCI_CONFIG, DIGEST, 2)
LAYER = Descriptor(OCI_LAYER, DIGEST, 3, (("k", "v"),))
AMD = Platform("linux", "amd64")


def test_manifests_come_back_the_same() -> None:
    for manifest in (
        Manifest(CONFIG, (LAYER,)),
        Manifest(CONFIG, (), DOCKER_MANIFEST),
        Manifest(CONFIG, (LAYER, LAYER), annotations=(("a", "b"),), subject=LAYER, artifact_type="x/y"),
    ):
        assert Manifest.from_bytes(manifest.to_bytes()) == manifest
        assert Manifest.from_bytes(manifest.to_bytes(), manifest.media_type) == manifest


def test_indexes_come_back_the_same() -> None:
    child = Descriptor(OCI_MANIFEST, DIGEST, 5, (("a", "b"),), Platform("linux", "arm", "v7"), "x/y")
    for index in (Index((child,)), Index((), DOCKER_LIST, (("c", "d"),))):
        assert Index.from_bytes(index.to_bytes()) == index


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_MANIFEST, "x/y"])
def test_a_manifest_served_as_something_else_is_refused(kind: str) -> None:
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(Manifest(CONFIG, ()).to_bytes(), kind)


def test_an_index_served_as_a_manifest_is_refused_and_the_other_way_round() -> None:
    for reader, data in ((Manifest, Index(()).to_bytes()), (Index, Manifest(CONFIG, ()).to_bytes())):
        with pytest.raises(IntegrityError):
            reader.from_bytes(data)


def test_a_key_given_twice_is_refused_at_any_depth() -> None:
    for text in (b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}', b'{"a":[{"b":1,"b":2}]}'):
        with pytest.raises(IntegrityError, match="twice"):
            strict_json(text, "it")


@pytest.mark.parametrize("text", [b"", b"[]", b"1", b'"x"', b"null", b"{", b"\xff", b"[" * 100_000, b"{'a':1}"])
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(IntegrityError):
        strict_json(text, "it")


@pytest.mark.parametrize(
    "value",
    [None, [], "x", {}, {"mediaType": "a", "digest": DIGEST}, {"mediaType": "a", "size": 1},
     {"mediaType": "a", "digest": DIGEST, "size": -1}, {"mediaType": "a", "digest": DIGEST, "size": "1"},
     {"mediaType": "a", "digest": DIGEST, "size": True}, {"mediaType": 1, "digest": DIGEST, "size": 1},
     {"mediaType": "a", "digest": "sha256:../x", "size": 1}, {"mediaType": "a", "digest": 7, "size": 1},
     {"mediaType": "a", "digest": DIGEST, "size": 1, "annotations": []},
     {"mediaType": "a", "digest": DIGEST, "size": 1, "platform": "linux"}],
)  # fmt: skip
def test_what_is_no_descriptor_is_refused(value: object) -> None:
    if isinstance(value, dict) and value.get("annotations") == []:
        assert Descriptor.from_json(value).annotations == ()  # empty is empty, whatever its kind
        return
    with pytest.raises((IntegrityError, InvalidDigest)):
        Descriptor.from_json(value)


FULL = {
    "architecture": "arm64", "os": "linux", "os.features": ["f"], "created": "2020-01-01T00:00:00Z", "author": "me",
    "config": {
        "User": "u", "ExposedPorts": {"80/tcp": {}}, "Env": ["A=1", "B=2", "A=3"], "Entrypoint": ["e"], "Cmd": ["c"],
        "Volumes": {"/v": {}}, "WorkingDir": "/w", "Labels": {"l": "m"}, "StopSignal": "SIGINT", "ArgsEscaped": True,
        "Healthcheck": {"Test": ["CMD", "t"], "Interval": 5, "Retries": 2}, "OnBuild": ["RUN x"], "Shell": ["s"],
        "Memory": 7, "x.unknown": {"deep": [1, {"a": None}]},
    },
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "x", "comment": "c", "author": "a"},
                {"created_by": "y", "empty_layer": True}],
    "moby.buildkit.cache.v0": "abc", "unknown": [1, 2],
}  # fmt: skip


def test_a_config_passes_through_unharmed() -> None:
    data = json.dumps(FULL).encode()
    config = ImageConfig.from_bytes(data)
    assert json.loads(config.to_bytes()) == FULL
    assert ImageConfig.from_bytes(config.to_bytes()) == config
    assert config.env_value("A") == "3"
    assert config.env_value("C") is None
    assert config.healthcheck == Healthcheck(("CMD", "t"), 5, retries=2)
    assert config.history[1] == History("y", empty_layer=True)


def test_set_to_nothing_is_not_the_same_as_not_set() -> None:
    nothing = ImageConfig(AMD, entrypoint=(), cmd=(), shell=())
    assert json.loads(nothing.to_bytes())["config"] == {"Entrypoint": [], "Cmd": [], "Shell": []}
    assert ImageConfig.from_bytes(nothing.to_bytes()) == nothing
    assert json.loads(ImageConfig(AMD).to_bytes())["config"] == {}


@pytest.mark.parametrize(
    "change",
    [{"config": []}, {"config": {"Env": "A=1"}}, {"config": {"Env": [1]}}, {"config": {"Labels": []}},
     {"rootfs": {"diff_ids": ["x"]}}, {"history": {}}, {"history": [1]}, {"rootfs": 7},
     {"config": {"Healthcheck": "x"}}, {"config": {"ExposedPorts": 3}}],
)  # fmt: skip
def test_a_malformed_config_is_an_error_or_empty_never_a_traceback(change: dict[str, object]) -> None:
    data = canonical_json({"architecture": "amd64", "os": "linux"} | change)
    with contextlib.suppress(KedgeError):
        ImageConfig.from_bytes(data)


def test_half_a_surrogate_pair_is_read_as_go_does() -> None:
    inner = b'{"Env":["A=\\ud800","B=\\ud83d\\ude00"],"Labels":{"\\udfffx":"y"}}'
    data = b'{"architecture":"amd64","os":"linux","config":' + inner + b"}"
    config = ImageConfig.from_bytes(data)
    assert config.env == ("A=\ufffd", "B=\U0001f600")
    assert dict(config.labels) == {"\ufffdx": "y"}
    assert ImageConfig.from_bytes(config.to_bytes()) == config


def test_the_same_config_gives_the_same_bytes() -> None:
    one = ImageConfig(AMD, labels=(("a", "b"), ("c", "d")), env=("A=ü",))
    assert one.to_bytes() == ImageConfig.from_bytes(one.to_bytes()).to_bytes()
    assert "ü".encode() in one.to_bytes()


def test_digests() -> None:
    assert parse_digest(sha256(b"")) == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert parse_digest("sha512:" + "0" * 128)
    assert hex_part(DIGEST) == "a" * 64
    for text in ("", "sha256", "sha256:", "sha256:" + "a" * 63, "sha256:" + "a" * 65, "sha256:" + "A" * 64,
                 "sha256:../../" + "a" * 58, "md5:" + "a" * 32, "sha256:" + "a" * 64 + "\n", "SHA256:" + "a" * 64,
                 "sha384:" + "a" * 96, "sha512:" + "a" * 64):  # fmt: skip
        with pytest.raises(InvalidDigest):
            parse_digest(text)


def test_equal_values_have_equal_digests_and_others_have_not() -> None:
    assert digest_of(LAYER) == digest_of(Descriptor(OCI_LAYER, DIGEST, 3, (("k", "v"),)))
    others = [1, "1", b"1", (1,), ("1",), None, True, LAYER, CONFIG, AMD, ((),), frozenset({1}), {"a": 1}, 1.5]
    assert len({digest_of(value) for value in others}) == len(others)
    with pytest.raises(TypeError):
        digest_of(object())


_TEXTS = st.sampled_from(["", "../x", OCI_MANIFEST, OCI_INDEX, "sha256:" + "a" * 64, "linux"]) | st.text(max_size=5)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 70) | _TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXTS, inner, max_size=2),
    max_leaves=4,
)
_DESCRIPTOR = {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "b" * 64, "size": 3, "annotations": {"a": "b"}}
_DESCRIPTOR |= {"artifactType": "x/y", "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}
_DOCUMENTS = {
    Manifest: {"config": _DESCRIPTOR, "layers": [_DESCRIPTOR], "subject": _DESCRIPTOR, "artifactType": "x/y"},
    Index: {"manifests": [_DESCRIPTOR], "annotations": {"a": "b"}, "subject": _DESCRIPTOR},
}


@given(data=st.data())
def test_documents_with_any_field_wrong_are_refused_or_can_be_used(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([Manifest, Index]))
    document = json.loads(json.dumps(_DOCUMENTS[kind]))
    place = document
    while True:  # to some field, however deep
        keys = [*place] if isinstance(place, dict) else [*range(len(place))]
        key = data.draw(st.sampled_from([*keys, *(["mediaType"] if isinstance(place, dict) else [])]))
        inner = place.get(key) if isinstance(place, dict) else place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            place[key] = data.draw(_VALUES)
            break
        place = inner
    with contextlib.suppress(KedgeError):
        read = kind.from_bytes(json.dumps(document).encode())
        hash(read)
        referring(Descriptor(OCI_MANIFEST, sha256(b""), 1), json.dumps(document).encode())
        read.to_bytes()
