"""Blobs on their way up: broken, resumed, mounted, sent elsewhere."""

import contextlib
import io
import random
from typing import BinaryIO

import pytest

from kedge.model.digest import Digest, sha256
from kedge.model.errors import IntegrityError, NotFound, RegistryError
from kedge.model.image import OCI_LAYER, Descriptor, Manifest
from kedge.model.reference import Reference, parse_reference
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry, answer, bend, header

DATA = random.Random(3).randbytes(3_000_000)
BLOB = Descriptor(OCI_LAYER, sha256(DATA), len(DATA))


def at(fake: FakeRegistry, name: str = "some/image") -> Reference:
    return parse_reference(f"{fake.address}/{name}")


def opened(offset: int) -> BinaryIO:
    return io.BytesIO(DATA[offset:])


def stored(fake: FakeRegistry) -> bytes | None:
    return fake.repository("some/image").blobs.get(BLOB.digest)


def test_a_blob_is_sent_in_one_piece(fake: FakeRegistry, client: Registry) -> None:
    told: list[tuple[int, int]] = []
    assert client.upload(at(fake), BLOB, opened, lambda current, total: told.append((current, total)))
    assert stored(fake) == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert [one.method for one in fake.seen] == ["HEAD", "POST", "PUT"]


def test_a_blob_that_is_there_is_not_sent(fake: FakeRegistry, client: Registry) -> None:
    fake.add_blob("some/image", DATA)
    assert not client.upload(at(fake), BLOB, opened)
    assert [one.method for one in fake.seen] == ["HEAD"]


def test_an_empty_blob_is_sent(fake: FakeRegistry, client: Registry) -> None:
    empty = Descriptor(OCI_LAYER, sha256(b""), 0)
    client.upload(at(fake), empty, lambda offset: io.BytesIO())
    assert fake.repository("some/image").blobs[empty.digest] == b""


@pytest.mark.parametrize("seed", range(6))
def test_cut_connections_at_random_bytes_end_in_the_right_bytes(
    fake: FakeRegistry, client: Registry, seed: int
) -> None:
    dice = random.Random(seed)
    fake.break_upload(*(dice.choice([0, 1, dice.randrange(len(DATA))]) for _ in range(4)))
    assert client.upload(at(fake), BLOB, opened)
    assert stored(fake) == DATA


def test_an_upload_continues_from_the_acknowledged_byte(fake: FakeRegistry, client: Registry) -> None:
    fake.break_upload(2_000_000)
    client.upload(at(fake), BLOB, opened)
    (patch,) = fake.requests("PATCH")
    assert patch.headers["content-range"] == f"2000000-{len(DATA) - 1}"
    assert stored(fake) == DATA


def test_an_upload_the_registry_forgot_starts_again_in_chunks(
    fake: FakeRegistry, client: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kedge.registry.transfer._CHUNK", 1_000_000)
    fake.resumes = False
    fake.break_upload(2_000_000)
    client.upload(at(fake), BLOB, opened)
    assert stored(fake) == DATA
    assert [one.headers["content-range"] for one in fake.requests("PATCH")] == [
        "0-999999",
        "1000000-1999999",
        "2000000-2999999",
    ]


def test_an_upload_that_vanishes_is_started_again_once(fake: FakeRegistry, client: Registry) -> None:
    fake.on("PUT", "/uploads/", answer(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}'), 1)
    client.upload(at(fake), BLOB, opened)
    assert stored(fake) == DATA
    fake.repositories.clear()
    fake.on("PUT", "/uploads/", answer(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}'), -1)
    with pytest.raises(NotFound, match="name unknown"):
        client.upload(at(fake), BLOB, opened)


def test_a_registry_that_takes_less_than_was_sent_gets_the_rest(fake: FakeRegistry, client: Registry) -> None:
    """Chunks end where the registry says, not where we do."""
    fake.break_upload(1_000_000, 500_000)
    client.upload(at(fake), BLOB, opened)
    assert stored(fake) == DATA
    assert [one.headers["content-range"].partition("-")[0] for one in fake.requests("PATCH")] == ["1000000", "1500000"]


@pytest.mark.parametrize("claim", ["0-9999999", "0-100", "nonsense-7"])
def test_a_lying_acknowledgement_is_no_loop(fake: FakeRegistry, client: Registry, claim: str) -> None:
    fake.break_upload(2_000_000)
    fake.on("PATCH", "/uploads/", header("Range", claim), -1)
    with contextlib.suppress(RegistryError):
        client.upload(at(fake), BLOB, opened)
    assert stored(fake) in (DATA, None)
    assert len(fake.seen) < 40


def test_a_blob_is_mounted_from_a_sibling(fake: FakeRegistry, client: Registry) -> None:
    fake.add_blob("other/image", DATA)
    assert not client.upload(at(fake), BLOB, opened, mount_from=[at(fake, "other/image")])
    assert stored(fake) == DATA
    assert not fake.requests("PUT")


def test_a_mount_that_does_not_work_becomes_an_upload(fake: FakeRegistry, client: Registry) -> None:
    assert client.upload(at(fake), BLOB, opened, mount_from=[at(fake, "other/image"), at(fake, "third/image")])
    assert stored(fake) == DATA


def test_a_sibling_in_another_registry_is_not_asked_for(fake: FakeRegistry, client: Registry) -> None:
    client.upload(at(fake), BLOB, opened, mount_from=[parse_reference("elsewhere.test/a/b")])
    assert "mount" not in fake.requests("POST")[0].query


def test_a_source_that_is_shorter_than_promised_is_noticed(fake: FakeRegistry, client: Registry) -> None:
    with pytest.raises(IntegrityError, match="shorter"):
        client.upload(at(fake), BLOB, lambda offset: io.BytesIO(DATA[offset:-5]))
    assert stored(fake) is None


def test_a_source_with_other_bytes_is_refused_by_the_registry(fake: FakeRegistry, client: Registry) -> None:
    with pytest.raises(RegistryError, match="did not match"):
        client.upload(at(fake), BLOB, lambda offset: io.BytesIO(b"x" * (len(DATA) - offset)))


def test_passing_failures_of_an_upload_are_asked_again(fake: FakeRegistry, client: Registry) -> None:
    fake.on("POST", "/uploads/", answer(503, b"busy"), 2)
    fake.on("HEAD", "/blobs/", answer(502), 2)
    client.upload(at(fake), BLOB, opened)
    assert stored(fake) == DATA


def test_an_upload_that_fails_at_its_end_is_resumed(fake: FakeRegistry, client: Registry) -> None:
    fake.on("PUT", "/uploads/", answer(500, b"oops"), 1)
    client.upload(at(fake), BLOB, opened)
    assert stored(fake) == DATA


def test_a_refusal_names_the_registry_and_its_reason(fake: FakeRegistry, client: Registry) -> None:
    fake.on("PUT", "/uploads/", answer(413, b'{"errors":[{"code":"SIZE_INVALID","message":"too big for us"}]}'), -1)
    with pytest.raises(RegistryError, match="too big for us") as caught:
        client.upload(at(fake), BLOB, opened)
    assert caught.value.status == 413


def test_another_digest_in_the_answer_is_an_error(fake: FakeRegistry, client: Registry) -> None:
    fake.on("PUT", "/uploads/", header("Docker-Content-Digest", "sha256:" + "0" * 64), -1)
    with pytest.raises(IntegrityError):
        client.upload(at(fake), BLOB, opened)


def test_an_upload_sent_to_another_host_goes_there_without_credentials(client: Registry) -> None:
    from kedge.model.credential import Credential
    from kedge.model.settings import Settings

    with FakeRegistry(users={"me": "secret"}) as first, FakeRegistry() as second:
        with Registry(Settings(), lambda host: Credential("me", "secret")) as identified:
            session = f"{second.url}/v2/some/image/blobs/uploads/1234"
            second._uploads["1234"] = bytearray()
            first.on("POST", "/uploads/", header("Location", session), -1)
            identified.upload(at(first), BLOB, opened)
        assert second.repository("some/image").blobs[BLOB.digest] == DATA
        assert [one.authorization for one in second.seen] == [""]


@pytest.mark.parametrize("location", ["", "ftp://elsewhere.test/x", "http://a b/", "http://169.254.169.254/latest"])
def test_an_upload_sent_nowhere_or_inside_is_refused(fake: FakeRegistry, client: Registry, location: str) -> None:
    fake.on("POST", "/uploads/", header("Location", location or None), -1)
    with pytest.raises(RegistryError):
        client.upload(at(fake), BLOB, opened)


def test_a_manifest_is_stored_by_tag_or_digest(fake: FakeRegistry, client: Registry) -> None:
    data = Manifest(BLOB, ()).to_bytes()
    tagged = parse_reference(f"{fake.address}/some/image:v1")
    digest = client.put_manifest(tagged, data, Manifest(BLOB, ()).media_type)
    assert fake.repository("some/image").tags == {"v1": digest}
    client.put_manifest(tagged.repository_only, data, Manifest(BLOB, ()).media_type)
    assert fake.seen[-1].path.endswith(digest)


def test_a_manifest_that_is_none_is_not_sent(fake: FakeRegistry, client: Registry) -> None:
    with pytest.raises(IntegrityError):
        client.put_manifest(at(fake).with_tag("v1"), b"{}", Manifest(BLOB, ()).media_type)
    assert not fake.seen


def test_redirected_puts_are_not_followed(fake: FakeRegistry, client: Registry) -> None:
    fake.on("PUT", "/manifests/", bend(status=307, headers={"Location": f"{fake.url}/v2/x"}, body=b""), -1)
    with pytest.raises(RegistryError, match="redirects a PUT"):
        client.put_manifest(at(fake).with_tag("v1"), Manifest(BLOB, ()).to_bytes(), Manifest(BLOB, ()).media_type)


def test_digests_are_validated_before_a_url_is_made(fake: FakeRegistry) -> None:
    from kedge.model.digest import parse_digest
    from kedge.model.errors import InvalidDigest

    for text in ("sha256:../../x", "sha256:" + "A" * 64, "md5:" + "0" * 32, "", "sha256:", "sha256:" + "a" * 65):
        with pytest.raises(InvalidDigest):
            parse_digest(text)
    assert parse_digest(BLOB.digest) == Digest(BLOB.digest)
