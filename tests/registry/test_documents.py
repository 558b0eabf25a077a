"""Manifests and indexes that are not what they say."""

import json

import pytest

from kedge.model.digest import Digest, sha256
from kedge.model.errors import IntegrityError, NotFound, Unsupported
from kedge.model.image import (
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
)
from kedge.model.reference import Reference, parse_reference
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry, answer, bend, header

CONFIG = {"mediaType": OCI_CONFIG, "digest": "sha256:" + "a" * 64, "size": 2}
LAYER = {"mediaType": OCI_LAYER, "digest": "sha256:" + "b" * 64, "size": 2}


def at(fake: FakeRegistry, tag: str = "latest") -> Reference:
    return parse_reference(f"{fake.address}/some/image:{tag}")


def served(fake: FakeRegistry, text: object, kind: str = OCI_MANIFEST) -> Reference:
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    fake.add_manifest("some/image", "latest", data, kind)
    return at(fake)


def test_a_tag_is_resolved_by_head_and_read_by_digest(fake: FakeRegistry, client: Registry) -> None:
    target = fake.add_image("some/image")
    assert client.resolve(at(fake)) == target
    assert [one.method for one in fake.seen] == ["HEAD", "HEAD"][-len(fake.seen) :]
    document = client.manifest(at(fake).with_digest(target.digest), target)
    assert document.descriptor == target
    assert fake.seen[-1].path.endswith(target.digest)


@pytest.mark.parametrize("missing", ["Docker-Content-Digest", "Content-Type"])
def test_a_head_that_tells_too_little_is_followed_by_get(fake: FakeRegistry, client: Registry, missing: str) -> None:
    target = fake.add_image("some/image")
    fake.on("HEAD", "/manifests/", header(missing, None), -1)
    assert client.resolve(at(fake)) == target


def test_a_registry_without_head_is_asked_by_get(fake: FakeRegistry, client: Registry) -> None:
    target = fake.add_image("some/image")
    fake.on("HEAD", "/manifests/", answer(405), -1)
    assert client.resolve(at(fake)) == target


def test_a_tag_that_moves_between_head_and_get_gives_what_was_resolved(fake: FakeRegistry, client: Registry) -> None:
    first = fake.add_image("some/image", layers=(b"one",))
    target = client.resolve(at(fake))
    fake.add_image("some/image", layers=(b"two",))
    assert client.manifest(at(fake).with_digest(target.digest), target).descriptor == first


def test_a_missing_name_is_not_found(fake: FakeRegistry, client: Registry) -> None:
    with pytest.raises(NotFound, match=r"nothing:here is not in the registry"):
        client.manifest(parse_reference(f"{fake.address}/nothing:here"))


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER], "manifests": []},
        {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": CONFIG, "layers": [LAYER]},
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "config": CONFIG, "layers": [LAYER]},
        {"schemaVersion": 2, "mediaType": "application/x-strange", "config": CONFIG, "layers": [LAYER]},
        {"schemaVersion": 2, "mediaType": 7, "config": CONFIG, "layers": [LAYER]},
        {"schemaVersion": 2, "config": CONFIG},
        {"schemaVersion": 2, "layers": [LAYER]},
        {"schemaVersion": 2, "config": CONFIG, "layers": {"0": LAYER}},
        [],
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schemaVersion":2,"layers":[],"layers":[],"config":' + json.dumps(CONFIG).encode() + b"}",
    ],
)
def test_an_ambiguous_or_broken_manifest_is_refused(fake: FakeRegistry, client: Registry, document: object) -> None:
    with pytest.raises(IntegrityError):
        client.manifest(served(fake, document))


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "sha256:../../x"},
        {"digest": "sha256:" + "A" * 64},
        {"digest": "sha256:" + "a" * 63},
        {"digest": "md5:" + "a" * 32},
        {"digest": ""},
        {"digest": None},
        {"size": -1},
        {"size": 1.5},
        {"size": "12"},
        {"size": True},
        {"mediaType": None},
    ],
)
def test_a_descriptor_that_is_none_is_refused(fake: FakeRegistry, client: Registry, changes: dict[str, object]) -> None:
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER | changes]}
    from kedge.model.errors import InvalidDigest

    with pytest.raises((IntegrityError, InvalidDigest)):
        client.manifest(served(fake, document))


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_MANIFEST, "text/html"])
def test_a_content_type_other_than_the_documents_own_is_refused(
    fake: FakeRegistry, client: Registry, kind: str
) -> None:
    fake.add_image("some/image")
    fake.on("GET", "/manifests/", header("Content-Type", kind), -1)
    with pytest.raises(IntegrityError):
        client.manifest(at(fake))


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain; charset=utf-8", None])
def test_a_server_of_plain_files_is_believed_if_the_document_names_its_type(
    fake: FakeRegistry, client: Registry, kind: str | None
) -> None:
    target = fake.add_image("some/image")
    fake.on("GET", "/manifests/", header("Content-Type", kind), -1)
    assert client.manifest(at(fake)).descriptor == target


def test_an_index_entry_fixes_type_and_size_of_its_manifest(fake: FakeRegistry, client: Registry) -> None:
    target = fake.add_image("some/image")
    pinned = at(fake).with_digest(target.digest)
    for wrong in (
        Descriptor(DOCKER_MANIFEST, target.digest, target.size),
        Descriptor(OCI_MANIFEST, target.digest, target.size + 1),
        Descriptor(OCI_MANIFEST, target.digest, target.size - 1),
    ):
        with pytest.raises(IntegrityError):
            client.manifest(pinned, wrong)


def test_another_document_than_the_digest_names_is_refused(fake: FakeRegistry, client: Registry) -> None:
    target = fake.add_image("some/image")
    fake.on("GET", "/manifests/", bend(body=Manifest(target, ()).to_bytes()), -1)
    with pytest.raises(IntegrityError, match="digest"):
        client.manifest(at(fake).with_digest(target.digest))


@pytest.mark.parametrize("stated", ["sha256:" + "0" * 64, "sha256:../../x", "nonsense"])
def test_a_lying_digest_header_is_refused(fake: FakeRegistry, client: Registry, stated: str) -> None:
    target = fake.add_image("some/image")
    fake.on("", "/manifests/", header("Docker-Content-Digest", stated), -1)
    with pytest.raises(IntegrityError):
        client.manifest(at(fake))
    with pytest.raises(IntegrityError):
        client.resolve(at(fake).with_digest(target.digest))


def test_a_manifest_of_a_gigabyte_is_not_read(fake: FakeRegistry, client: Registry) -> None:
    fake.add_image("some/image")
    fake.on("GET", "/manifests/", bend(endless=True), 1)
    with pytest.raises(IntegrityError, match="more than"):
        client.manifest(at(fake))
    fake.on("GET", "/manifests/", header("Content-Length", str(1 << 30)), 1)
    with pytest.raises(IntegrityError, match="bytes"):
        client.manifest(at(fake))


def test_a_config_that_claims_a_gigabyte_is_not_asked_for(fake: FakeRegistry, client: Registry) -> None:
    with pytest.raises(IntegrityError, match="claims"):
        client.read_blob(at(fake), Descriptor(OCI_CONFIG, Digest("sha256:" + "a" * 64), 1 << 60))
    assert not fake.seen


def test_schema_1_is_named(fake: FakeRegistry, client: Registry) -> None:
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    with pytest.raises(Unsupported, match="schema 1"):
        client.manifest(served(fake, {"schemaVersion": 1, "fsLayers": []}, kind))


def test_sha512_is_verified_too(fake: FakeRegistry, client: Registry) -> None:
    import hashlib

    target = fake.add_image("some/image")
    kind, data = fake.repository("some/image").manifests[target.digest]
    digest = Digest("sha512:" + hashlib.sha512(data).hexdigest())
    fake.repository("some/image").manifests[digest] = (kind, data)
    assert client.manifest(at(fake).with_digest(digest)).digest == digest
    fake.repository("some/image").manifests[digest] = (kind, data.replace(b"2", b"3"))
    with pytest.raises(IntegrityError):
        client.manifest(at(fake).with_digest(digest))


def test_an_index_is_read(fake: FakeRegistry, client: Registry) -> None:
    child = fake.add_image("some/image", "child")
    index = Index((child,))
    fake.add_manifest("some/image", "latest", index.to_bytes(), OCI_INDEX)
    document = client.manifest(at(fake))
    assert (document.media_type, document.digest) == (OCI_INDEX, sha256(index.to_bytes()))
