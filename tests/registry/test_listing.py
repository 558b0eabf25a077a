"""Tags and referrers: pages, the fallback by tag, and lists that lead elsewhere."""

import pytest

from kedge.model.errors import NotFound, RegistryError
from kedge.model.image import OCI_CONFIG, OCI_INDEX, Descriptor, Index, Manifest
from kedge.model.reference import Reference, parse_reference
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry, header


def at(fake: FakeRegistry) -> Reference:
    return parse_reference(f"{fake.address}/some/image")


def test_tags_come_page_by_page(fake: FakeRegistry, client: Registry) -> None:
    for number in range(25):
        fake.add_image("some/image", f"v{number:02}")
    fake.page_size = 10
    assert list(client.tags(at(fake))) == [f"v{number:02}" for number in range(25)]
    assert len(fake.requests("GET", "/tags/list")) == 3


def test_tags_of_nothing(fake: FakeRegistry, client: Registry) -> None:
    fake.on("GET", "/tags/", lambda seen, reply: reply)
    assert list(client.tags(at(fake))) == []


@pytest.mark.parametrize(
    "link",
    [
        "<http://127.0.0.1:1/v2/some/image/tags/list>; rel=next",
        "<https://elsewhere.test/v2/x>; rel=next",
        "<//169.254.169.254/latest>; rel=next",
        "<file:///etc/passwd>; rel=next",
    ],
)
def test_pages_elsewhere_are_not_followed(fake: FakeRegistry, client: Registry, link: str) -> None:
    fake.add_image("some/image", "v1")
    fake.on("GET", "/tags/", header("Link", link), -1)
    with pytest.raises(RegistryError):
        list(client.tags(at(fake)))
    assert len(fake.seen) == 1


def test_pages_in_a_circle_end(fake: FakeRegistry, client: Registry) -> None:
    fake.add_image("some/image", "v1")
    fake.on("GET", "/tags/", header("Link", '</v2/some/image/tags/list?last=a>; rel="next"'), -1)
    with pytest.raises(RegistryError, match="without end"):
        list(client.tags(at(fake)))


def _artifact(subject: Descriptor, config: Descriptor, kind: str) -> Manifest:
    return Manifest(config, (), subject=subject, artifact_type=kind)


@pytest.mark.parametrize("api", [True, False])
def test_what_refers_to_an_image_is_found(fake: FakeRegistry, client: Registry, api: bool) -> None:
    fake.referrers_api = api
    subject = fake.add_image("some/image", "v1")
    config = fake.add_blob("some/image", b"{}", OCI_CONFIG)
    for kind in ("application/a", "application/b"):
        manifest = _artifact(subject, config, kind)
        client.put_manifest(at(fake), manifest.to_bytes(), manifest.media_type)
        client.put_manifest(at(fake), manifest.to_bytes(), manifest.media_type)
    found = client.referrers(at(fake), subject.digest)
    assert sorted(entry.artifact_type for entry in found.manifests) == ["application/a", "application/b"]
    only = client.referrers(at(fake), subject.digest, "application/b")
    assert [entry.artifact_type for entry in only.manifests] == ["application/b"]
    assert (f"sha256-{subject.digest[7:]}" in fake.repository("some/image").tags) is not api


def test_nothing_refers_to_it(fake: FakeRegistry, client: Registry) -> None:
    fake.referrers_api = False
    subject = fake.add_image("some/image", "v1")
    assert client.referrers(at(fake), subject.digest) == Index((), OCI_INDEX)


def test_tags_of_an_unknown_repository(fake: FakeRegistry, client: Registry) -> None:
    from kedge.registry.fake import answer

    fake.on("GET", "/tags/", answer(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}'), -1)
    with pytest.raises(NotFound, match="name unknown"):
        list(client.tags(at(fake)))
