"""What refers to an image travels with it: through registries with and without the API for it, layouts, the store."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kedge.exporters.archive import Entry, save
from kedge.exporters.copy_image import copy_image, copy_referrers
from kedge.exporters.places import (
    ArchiveWriter,
    LayoutReader,
    LayoutWriter,
    RegistryReader,
    RegistryWriter,
    StoreReader,
    StoreWriter,
)
from kedge.exporters.push import publishable, push
from kedge.images.load import load
from kedge.model.digest import sha256
from kedge.model.errors import IntegrityError, RegistryError
from kedge.model.image import OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Manifest
from kedge.model.platform import Platform
from kedge.model.reference import Reference
from kedge.model.settings import NetworkSettings, RegistryHost, Settings
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry, answer
from kedge.sources.oci_layout import open_layout
from kedge.storage.store import Store
from tests.exporters.conftest import Told, add_image, at

IN_TOTO, SIGNATURE = "application/vnd.in-toto+json", "application/vnd.example.signature"


@pytest.fixture(params=[True, False], ids=["api", "tag schema"])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        running.referrers_api = request.param
        yield running


@pytest.fixture(params=[True, False], ids=["to api", "to tag schema"])
def other(request: pytest.FixtureRequest) -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        running.referrers_api = request.param
        yield running


def refer(client: Registry, fake: FakeRegistry, subject: Descriptor, text: str, kind: str = IN_TOTO) -> Descriptor:
    """Push a manifest about another one, by the client: into the list of a registry without the API, too."""
    layer = fake.add_blob("some/image", text.encode(), kind)
    config = fake.add_blob("some/image", b"{}", "application/vnd.oci.empty.v1+json")
    data = Manifest(config, (layer,), OCI_MANIFEST, (("text", text),), subject, kind).to_bytes()
    client.put_manifest(at(fake), data, OCI_MANIFEST)
    return Descriptor(OCI_MANIFEST, sha256(data), len(data), (("text", text),), artifact_type=kind)


def listed(client: Registry, place: Reference, subject: Descriptor) -> list[str]:
    return sorted(dict(one.annotations)["text"] for one in client.referrers(place, subject.digest).manifests)


@pytest.fixture
def image(client: Registry, fake: FakeRegistry) -> Descriptor:
    """An index of one image; three things are about it, one about one of these."""
    one = add_image(fake)
    index = Index((Descriptor(one.media_type, one.digest, one.size, platform=Platform("linux", "amd64")),))
    root = fake.add_manifest("some/image", "v1", index.to_bytes(), OCI_INDEX)
    sbom = refer(client, fake, one, "sbom")
    refer(client, fake, one, "provenance")
    refer(client, fake, sbom, "signature of the sbom", SIGNATURE)
    refer(client, fake, root, "signature", SIGNATURE)
    return root


def check(client: Registry, place: Reference, root: Descriptor) -> None:
    """All of `image` is there."""
    (one,) = Index.from_bytes(client.manifest(place, root).data).manifests
    assert listed(client, place, root) == ["signature"]
    assert listed(client, place, one) == ["provenance", "sbom"]
    about = client.referrers(place, one.digest).manifests
    assert {entry.artifact_type for entry in about} == {IN_TOTO}
    (sbom,) = (entry for entry in about if dict(entry.annotations)["text"] == "sbom")
    assert listed(client, place, sbom) == ["signature of the sbom"]
    (layer,) = Manifest.from_bytes(client.manifest(place, sbom).data).layers
    assert client.read_blob(place, layer) == b"sbom"


def test_from_registry_to_registry(
    client: Registry, fake: FakeRegistry, other: FakeRegistry, image: Descriptor, steps: Told
) -> None:
    copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], image, steps)
    check(client, at(other), image)
    before = len(other.requests("PUT"))
    copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], image, steps)
    check(client, at(other), image)
    sent = [seen.path for seen in other.requests("PUT")[before:]]
    assert not any("/blobs/" in path or path.endswith("/v1") for path in sent), "what is there is not sent again"


def test_the_name_comes_last(
    client: Registry, fake: FakeRegistry, other: FakeRegistry, image: Descriptor, steps: Told
) -> None:
    copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], image, steps)
    puts = [seen.path for seen in other.requests("PUT", "/manifests/") if "/manifests/sha256-" not in seen.path]
    assert puts[-1].endswith("/manifests/v1")
    other.on("PUT", r"/manifests/", answer(403))
    with pytest.raises(RegistryError):
        copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other, "x/y:v1"))], image, steps)
    assert "v1" not in other.repository("x/y").tags


def test_what_is_not_wanted_stays(
    client: Registry, fake: FakeRegistry, other: FakeRegistry, image: Descriptor, steps: Told
) -> None:
    copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], image, steps, referrers=False)
    assert listed(client, at(other), image) == []


def test_a_copy_that_was_stopped_before_the_list_is_mended(
    client: Registry, fake: FakeRegistry, image: Descriptor, steps: Told
) -> None:
    with FakeRegistry() as other:
        other.referrers_api = False
        copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], image, steps)
        tags = other.repository("some/image").tags
        for tag in [tag for tag in tags if tag.startswith("sha256-")]:
            del tags[tag]
        copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], image, steps)
        check(client, at(other), image)


def test_many_names_in_one_repository_list_everything(
    client: Registry, fake: FakeRegistry, image: Descriptor, steps: Told
) -> None:
    with FakeRegistry() as other:
        other.referrers_api = False
        places = [RegistryWriter(client, at(other, f"some/image:t{number}")) for number in range(6)]
        copy_image(RegistryReader(client, at(fake)), places, image, steps)
        check(client, at(other), image)


@pytest.mark.parametrize("packed", [False, True], ids=["directory", "archive"])
def test_through_a_layout(
    client: Registry,
    fake: FakeRegistry,
    other: FakeRegistry,
    image: Descriptor,
    tmp_path: Path,
    steps: Told,
    packed: bool,
) -> None:
    path = tmp_path / "layout"
    if packed:
        with ArchiveWriter(path, ["v1"]) as writer:
            copy_image(RegistryReader(client, at(fake)), [writer], image, steps)
    else:
        for _ in range(2):  # the second time nothing is listed twice
            copy_image(RegistryReader(client, at(fake)), [LayoutWriter(path, ["v1"])], image, steps)
    with open_layout(str(path)) as layout:
        assert len(layout.index().manifests) == 5
        assert layout.find().digest == image.digest, "what refers to the image is not taken for another image"
        copy_image(LayoutReader(layout), [RegistryWriter(client, at(other))], layout.find("v1"), steps)
    check(client, at(other), image)


def test_a_layout_may_list_by_the_tag_schema(client: Registry, fake: FakeRegistry, tmp_path: Path, steps: Told) -> None:
    root = add_image(fake, tag="v1")
    about = refer(client, fake, root, "sbom")
    writer = LayoutWriter(tmp_path / "layout", ["v1"])
    copy_image(RegistryReader(client, at(fake)), [writer], root, steps, referrers=False)
    (layer,) = Manifest.from_bytes(client.manifest(at(fake), about).data).layers
    with client.open_blob(at(fake), layer) as blob:
        data = blob.read()
    writer.put_blob(layer, lambda offset: io.BytesIO(data[offset:]), None, lambda current, total: None)
    writer.put_manifest(about, client.manifest(at(fake), about).data)
    index = Index((about,)).to_bytes()
    tagged = LayoutWriter(tmp_path / "layout", [root.digest.replace(":", "-")])
    tagged.publish(Descriptor(OCI_INDEX, sha256(index), len(index)), index)
    with open_layout(str(tmp_path / "layout")) as layout:
        assert [dict(one.annotations) for one in layout.referrers(root.digest)] == [{"text": "sbom"}]
        assert layout.find().digest == root.digest


def test_through_the_store(
    client: Registry, fake: FakeRegistry, other: FakeRegistry, image: Descriptor, store: Store, steps: Told
) -> None:
    copy_image(RegistryReader(client, at(fake)), [StoreWriter(store, [at(fake)])], image, steps)
    push(store, client, publishable(store, image), [at(other)], steps)
    check(client, at(other), image)


def test_through_an_archive_of_images(
    client: Registry,
    fake: FakeRegistry,
    other: FakeRegistry,
    image: Descriptor,
    store: Store,
    tmp_path: Path,
    steps: Told,
) -> None:
    copy_image(RegistryReader(client, at(fake)), [StoreWriter(store, [at(fake)])], image, steps)
    first, second, bare = io.BytesIO(), io.BytesIO(), io.BytesIO()
    save(store, [Entry(image, (at(fake),))], first, referrers=True)
    save(store, [Entry(image, (at(fake),))], bare)
    assert b"signature of the sbom" not in bare.getvalue()
    with Store.open(tmp_path / "second") as loaded:
        found = load(loaded, io.BytesIO(first.getvalue()))
        assert [one.target.digest for one in found] == [image.digest], "only the image is an image"
        save(loaded, [Entry(image, (at(fake),))], second, referrers=True)
        assert first.getvalue() == second.getvalue()
        push(loaded, client, publishable(loaded, image), [at(other)], steps)
    check(client, at(other), image)


def test_referrers_follow_an_image_that_is_there(
    client: Registry, fake: FakeRegistry, image: Descriptor, store: Store, steps: Told
) -> None:
    copy_image(RegistryReader(client, at(fake)), [StoreWriter(store, [at(fake)])], image, steps, referrers=False)
    assert store.images.referrers(image.digest) == ()
    copy_referrers(RegistryReader(client, at(fake)), StoreWriter(store), [image.digest], steps)
    assert [dict(one.annotations)["text"] for one in store.images.referrers(image.digest)] == ["signature"]
    assert StoreReader(store).referrers(image.digest) == list(store.images.referrers(image.digest))


# ---- what is not believed --------------------------------------------------------------------------------------------


@pytest.fixture
def lying(client: Registry, steps: Told) -> Iterator[Callable[[list[Descriptor]], list[str]]]:
    """Copies an image out of a registry that lists these manifests about it; what was told to be left out."""
    with FakeRegistry() as fake, FakeRegistry() as other:
        root = add_image(fake, tag="v1")

        def copied(entries: list[Descriptor]) -> list[str]:
            data = Index(tuple(entries)).to_bytes()
            fake.on("GET", r"/referrers/", answer(200, data, Content_Type=OCI_INDEX), times=100)
            copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], root, steps)
            assert other.repository("some/image").tags["v1"] == root.digest
            assert not [one for one in other.repository("some/image").manifests if one != root.digest]
            return [id for id, *_ in steps.events if id.startswith("left out")]

        copied.fake, copied.root = fake, root  # type: ignore[attr-defined]
        yield copied


def test_a_manifest_that_is_not_there_is_left_out(lying: Callable[[list[Descriptor]], list[str]]) -> None:
    (told,) = lying([Descriptor(OCI_MANIFEST, sha256(b"gone"), 4)])
    assert "it is not there" in told


def test_a_manifest_about_something_else_is_left_out(lying: Callable[[list[Descriptor]], list[str]]) -> None:
    fake: FakeRegistry = lying.fake  # type: ignore[attr-defined]
    stranger = add_image(fake, text="another image")
    (told,) = lying([stranger])
    assert "does not refer to" in told


def test_a_manifest_of_an_unknown_kind_is_left_out(lying: Callable[[list[Descriptor]], list[str]]) -> None:
    (told,) = lying([Descriptor("application/x-unknown", sha256(b"x"), 1)])
    assert "application/x-unknown is not known" in told


def test_a_list_without_end_is_refused(lying: Callable[[list[Descriptor]], list[str]]) -> None:
    with pytest.raises(IntegrityError, match="more than 1000"):
        lying([Descriptor(OCI_MANIFEST, sha256(str(number).encode()), 4) for number in range(1001)])


def test_a_circle_ends(client: Registry, steps: Told) -> None:
    """Digests forbid real circles; a list that claims one goes no deeper."""
    with FakeRegistry() as fake, FakeRegistry() as other:
        root = add_image(fake, tag="v1")
        about = refer(client, fake, root, "sbom")
        data = Index((about,)).to_bytes()
        fake.on("GET", r"/referrers/", answer(200, data, Content_Type=OCI_INDEX), times=100)
        copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], root, steps)
        assert listed(client, at(other), root) == ["sbom"]


def test_a_registry_that_cannot_tell_fails_the_copy(client: Registry, steps: Told) -> None:
    with FakeRegistry() as fake, FakeRegistry() as other:
        root = add_image(fake, tag="v1")
        fake.on("GET", r"/referrers/", answer(500), times=100)
        with pytest.raises(RegistryError):
            copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], root, steps)
        assert "v1" not in other.repository("some/image").tags


@pytest.mark.parametrize("status", [400, 405, 406, 501])
def test_registries_without_the_api_answer_many_things(client: Registry, steps: Told, status: int) -> None:
    with FakeRegistry() as fake, FakeRegistry() as other:
        fake.referrers_api = False
        root = add_image(fake, tag="v1")
        refer(client, fake, root, "sbom")
        fake.on("GET", r"/referrers/", answer(status), times=100)
        copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], root, steps)
        assert listed(client, at(other), root) == ["sbom"]


# ---- mirrors ---------------------------------------------------------------------------------------------------------


def mirrored(fake: FakeRegistry, mirror: str) -> Registry:
    hosts = {fake.address: RegistryHost(mirrors=(f"http://{mirror}",))}
    return Registry(Settings(network=NetworkSettings(attempts=1, timeout=5, backoff=0.005), registries=hosts))


def test_a_mirror_that_knows_none_is_not_the_last_word(client: Registry) -> None:
    with FakeRegistry() as fake, FakeRegistry() as mirror:
        root = add_image(fake, tag="v1")
        refer(client, fake, root, "sbom")
        with mirrored(fake, mirror.address) as asked:
            assert listed(asked, at(fake), root) == ["sbom"]


def test_a_mirror_tells_when_nobody_else_can(client: Registry) -> None:
    with FakeRegistry() as mirror:
        root = add_image(mirror, tag="v1")
        about = refer(client, mirror, root, "sbom")
        with FakeRegistry() as gone:
            pass
        with mirrored(gone, mirror.address) as asked:
            assert listed(asked, at(gone), root) == ["sbom"]
            assert listed(asked, at(gone), about) == []
