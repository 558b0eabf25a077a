"""docker-image://: what is asked, what is picked, what is kept."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.model.credential import Credential
from kedge.model.digest import digest_of, sha256
from kedge.model.errors import (
    IntegrityError,
    InvalidInput,
    KedgeError,
    NotFound,
    RegistryError,
    Unauthorized,
    Unsupported,
)
from kedge.model.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    Descriptor,
    Index,
    Manifest,
    canonical_json,
)
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.reference import Reference, parse_reference
from kedge.model.settings import NetworkSettings, Settings
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry, answer
from kedge.sources.fetch import store_fetch
from kedge.sources.handler import Pin, Work
from kedge.sources.image import ImageSource
from kedge.storage.store import Store
from tests.archives import tar_of

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")
WORK = Work(digest_of("test"))
QUICK = Settings(network=NetworkSettings(attempts=3, timeout=5, backoff=0.005))


def add_image(fake: FakeRegistry, tag: str, platform: Platform = AMD, **files: str) -> Descriptor:
    """An image of one gzipped layer."""
    plain = tar_of(files)
    layer = fake.add_blob("some/image", gzip.compress(plain), OCI_LAYER_GZIP)
    config = {"os": platform.os, "architecture": platform.architecture, "config": {"Env": ["A=b"]},
              "rootfs": {"type": "layers", "diff_ids": [sha256(plain)]}}  # fmt: skip
    manifest = Manifest(fake.add_blob("some/image", canonical_json(config), OCI_CONFIG), (layer,))
    return fake.add_manifest("some/image", tag, manifest.to_bytes())


def add_index(fake: FakeRegistry, tag: str, *entries: tuple[Descriptor, Platform | None]) -> Descriptor:
    index = Index(tuple(Descriptor(e.media_type, e.digest, e.size, platform=p) for e, p in entries))
    return fake.add_manifest("some/image", tag, index.to_bytes(), OCI_INDEX)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry(QUICK) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path, registry: Registry) -> Iterator[Store]:
    with Store.open(tmp_path / "store", store_fetch(registry)) as opened:
        yield opened


@pytest.fixture
def images(store: Store, registry: Registry) -> ImageSource:
    return ImageSource(store, registry, AMD)


def at(fake: FakeRegistry, tag: str = "v1") -> Reference:
    return parse_reference(f"{fake.address}/some/image:{tag}")


def test_an_image_is_resolved_with_its_config(fake: FakeRegistry, images: ImageSource) -> None:
    target = add_image(fake, "v1", hello="world")
    image = images.resolve(at(fake), AMD, "default", WORK)
    assert (image.target, image.descriptor) == (target, target)
    assert image.config.env == ("A=b",)
    assert not any("/blobs/" in one.path and one.path.endswith(image.manifest.layers[0].digest) for one in fake.seen)


def test_layers_are_declared_and_come_when_somebody_looks(
    fake: FakeRegistry, images: ImageSource, store: Store
) -> None:
    add_image(fake, "v1", hello="world")
    source = Source(f"docker-image://{at(fake)}")
    pin = images.pin(source, None, WORK)
    snapshot = images.fetch(source, None, pin, WORK)
    before = len(fake.seen)
    (layer,) = snapshot
    directory = store.layers.directory(layer)
    assert (directory / "hello").read_text() == "world"
    assert [one.method for one in fake.seen[before:]] == ["GET"]


def test_a_second_build_needs_no_network(fake: FakeRegistry, images: ImageSource, store: Store) -> None:
    add_image(fake, "v1", hello="world")
    first = images.resolve(at(fake), AMD)
    reference = at(fake)
    fake.close()
    with Registry(QUICK) as other:
        assert ImageSource(store, other, AMD).resolve(reference, AMD) == first
        pinned = reference.with_digest(first.target.digest)
        assert ImageSource(store, other, AMD).resolve(pinned, AMD).config == first.config
        assert ImageSource(store, other, AMD).resolve(reference, AMD, "never").config == first.config


def test_a_manifest_pinned_by_digest_and_present_needs_no_request(
    fake: FakeRegistry, images: ImageSource, store: Store, registry: Registry
) -> None:
    target = add_image(fake, "v1", hello="world")
    images.resolve(at(fake).with_digest(target.digest), AMD)
    asked = len(fake.seen)
    again = ImageSource(store, registry, AMD)
    again.pin(Source(f"docker-image://{at(fake).with_digest(target.digest)}"), None, WORK)
    assert len(fake.seen) == asked


@pytest.mark.parametrize("by", ["name", "digest"])
def test_in_a_shared_store_the_registry_is_asked_whether_this_client_may_have_it(
    fake: FakeRegistry, store: Store, by: str
) -> None:
    fake.users = {"me": "secret"}
    target = add_image(fake, "v1", hello="world")
    reference = at(fake) if by == "name" else at(fake).with_digest(target.digest)
    with Registry(QUICK, lambda host: Credential("me", "secret")) as mine, Registry(QUICK) as nobodys:
        first = ImageSource(store, mine, AMD, "none").resolve(reference, AMD)
        with pytest.raises(Unauthorized):
            ImageSource(store, nobodys, AMD, "none").resolve(reference, AMD)
        asked = len(fake.seen)
        assert ImageSource(store, mine, AMD, "none").resolve(reference, AMD) == first
    assert {one.method for one in fake.seen[asked:]} == {"HEAD"}
    assert store.images.list() == []


def test_names_of_a_store_that_is_shared_as_dockers_is_are_everybodys(
    fake: FakeRegistry, images: ImageSource, store: Store
) -> None:
    add_image(fake, "v1", hello="world")
    images.pull(at(fake), AMD, WORK)
    fake.users = {"me": "secret"}
    with Registry(QUICK) as nobodys:
        assert ImageSource(store, nobodys, AMD, "names").resolve(at(fake), AMD)
        with pytest.raises(Unauthorized):
            ImageSource(store, nobodys, AMD, "none").resolve(at(fake), AMD)


def test_a_name_means_the_same_until_the_build_ends(fake: FakeRegistry, images: ImageSource) -> None:
    first = add_index(fake, "v1", (add_image(fake, "", AMD, a="1"), AMD), (add_image(fake, "", ARM, a="2"), ARM))
    assert images.resolve(at(fake), AMD, "pull").target == first
    add_index(fake, "v1", (add_image(fake, "", AMD, a="3"), AMD), (add_image(fake, "", ARM, a="4"), ARM))
    assert images.resolve(at(fake), ARM, "pull").target == first


def test_pull_asks_and_takes_what_is_new(
    fake: FakeRegistry, images: ImageSource, store: Store, registry: Registry
) -> None:
    add_image(fake, "v1", hello="world")
    images.resolve(at(fake), AMD)
    newer = add_image(fake, "v1", hello="moon")
    assert ImageSource(store, registry, AMD).resolve(at(fake), AMD).target != newer
    assert ImageSource(store, registry, AMD).resolve(at(fake), AMD, "pull").target == newer
    assert ImageSource(store, registry, AMD).resolve(at(fake), AMD).target == newer


def test_never_asks_nobody(fake: FakeRegistry, images: ImageSource) -> None:
    add_image(fake, "v1", hello="world")
    with pytest.raises(NotFound, match="may not be pulled"):
        images.resolve(at(fake), AMD, "never")
    assert not fake.seen


def test_the_platform_is_picked_out_of_an_index(fake: FakeRegistry, images: ImageSource) -> None:
    amd, arm = add_image(fake, "", AMD, which="amd"), add_image(fake, "", ARM, which="arm")
    attestation = add_image(fake, "", AMD, x="y")
    target = add_index(fake, "v1", (attestation, Platform("unknown", "unknown")), (arm, ARM), (amd, AMD))
    for platform, wanted in ((AMD, amd), (ARM, arm)):
        image = images.resolve(at(fake), platform)
        assert (image.target.digest, image.descriptor.digest) == (target.digest, wanted.digest)
    with pytest.raises(NotFound, match="no image for linux/s390x") as caught:
        images.resolve(at(fake), Platform("linux", "s390x"))
    assert caught.value.hint == "It has: linux/arm64, linux/amd64."


def test_another_platform_of_a_known_index_is_fetched(
    fake: FakeRegistry, images: ImageSource, store: Store, registry: Registry
) -> None:
    amd, arm = add_image(fake, "", AMD, which="amd"), add_image(fake, "", ARM, which="arm")
    add_index(fake, "v1", (arm, ARM), (amd, AMD))
    images.resolve(at(fake), AMD)
    assert ImageSource(store, registry, AMD).resolve(at(fake), ARM).descriptor.digest == arm.digest


def test_a_single_image_for_another_platform_is_taken_as_it_is(fake: FakeRegistry, images: ImageSource) -> None:
    target = add_image(fake, "v1", ARM, which="arm")
    assert images.resolve(at(fake), AMD).descriptor == target
    fake.on("", "/manifests/", answer(404), -1)


def test_what_has_a_name_in_a_shared_store_needs_no_registry_when_it_is_pinned_either(
    fake: FakeRegistry, images: ImageSource, store: Store
) -> None:
    """So it is with a base that was built, loaded or imported here: a Dockerfile build pins what it found by name."""
    reference = at(fake)
    add_image(fake, "v1", hello="world")
    pinned = reference.with_digest(images.pull(reference, AMD, WORK).target.digest)
    fake.users = {"me": "secret"}
    with Registry(QUICK) as nobodys:
        assert ImageSource(store, nobodys, AMD, "names").resolve(pinned, AMD)
        with pytest.raises(Unauthorized):
            ImageSource(store, nobodys, AMD, "none").resolve(pinned, AMD)
        store.images.remove(str(reference))
        with pytest.raises(Unauthorized):
            ImageSource(store, nobodys, AMD, "names").resolve(pinned, AMD)


def test_the_stores_own_image_is_used_when_the_registry_has_none(
    fake: FakeRegistry, images: ImageSource, store: Store, registry: Registry
) -> None:
    target = add_image(fake, "v1", ARM, which="arm")
    images.resolve(at(fake), AMD)
    fake.repositories.clear()
    assert ImageSource(store, registry, AMD).resolve(at(fake), AMD).descriptor == target


def test_equal_layers_under_two_names_are_one_thing(fake: FakeRegistry, images: ImageSource) -> None:
    add_image(fake, "v1", hello="world")
    add_image(fake, "v2", ARM, hello="world")
    pins = [images.pin(Source(f"docker-image://{at(fake, tag)}"), None, WORK) for tag in ("v1", "v2")]
    assert pins[0].digest == pins[1].digest
    assert pins[0].labels != pins[1].labels


def test_questions_asked_at_once_are_asked_once(fake: FakeRegistry, images: ImageSource) -> None:
    from concurrent.futures import ThreadPoolExecutor

    add_image(fake, "v1", hello="world")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: images.resolve(at(fake), AMD), range(8)))
    assert all(image is found[0] for image in found)
    assert len(fake.requests("GET", "/manifests/")) == 1


def test_an_image_that_does_not_exist(fake: FakeRegistry, images: ImageSource, store: Store) -> None:
    with pytest.raises(NotFound, match=r"some/image:v1 is not in the registry"):
        images.resolve(at(fake), AMD)
    assert not store.images.list()


def test_an_artifact_is_no_image(fake: FakeRegistry, images: ImageSource) -> None:
    config = fake.add_blob("some/image", b"{}", "application/vnd.example.config")
    fake.add_manifest("some/image", "v1", Manifest(config, ()).to_bytes())
    with pytest.raises(Unsupported, match="no image but an artifact"):
        images.resolve(at(fake), AMD)


def test_layers_and_diff_ids_must_agree(fake: FakeRegistry, images: ImageSource, store: Store) -> None:
    config = fake.add_blob("some/image", canonical_json({"os": "linux", "architecture": "amd64"}), OCI_CONFIG)
    layer = fake.add_blob("some/image", b"x", OCI_LAYER_GZIP)
    fake.add_manifest("some/image", "v1", Manifest(config, (layer,)).to_bytes())
    with pytest.raises(IntegrityError, match="1 layers, but its config 0"):
        images.resolve(at(fake), AMD)
    assert not store.images.list()


def test_foreign_layers_are_asked_of_the_registry_only(fake: FakeRegistry, images: ImageSource, store: Store) -> None:
    plain = tar_of({"hello": "world"})
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    layer = fake.add_blob("some/image", gzip.compress(plain), kind)
    config = fake.add_blob("some/image", canonical_json(
        {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [sha256(plain)]}}), OCI_CONFIG)  # fmt: skip
    manifest = Manifest(config, (layer,)).to_bytes().replace(b'"size":' + str(layer.size).encode() + b"}]",
        b'"size":' + str(layer.size).encode() + b',"urls":["http://127.0.0.1:1/evil"]}]')  # fmt: skip
    assert b"urls" in manifest
    fake.add_manifest("some/image", "v1", manifest)
    source = Source(f"docker-image://{at(fake)}")
    (one,) = images.fetch(source, None, images.pin(source, None, WORK), WORK)
    assert (store.layers.directory(one) / "hello").read_text() == "world"


def test_a_child_of_an_index_with_another_digest_is_refused(fake: FakeRegistry, images: ImageSource) -> None:
    amd = add_image(fake, "", AMD, which="amd")
    add_index(fake, "v1", (amd, AMD))
    kind, data = fake.repository("some/image").manifests[amd.digest]
    fake.repository("some/image").manifests[amd.digest] = (kind, data.replace(b":2,", b":2 ,"))
    with pytest.raises(IntegrityError):
        images.resolve(at(fake), AMD)


def test_a_layer_with_other_bytes_leaves_the_store_sound(fake: FakeRegistry, images: ImageSource, store: Store) -> None:
    add_image(fake, "v1", hello="world")
    image = images.resolve(at(fake), AMD)
    wrong = gzip.compress(tar_of({"hello": "wxrld"}))
    fake.repository("some/image").blobs[image.manifest.layers[0].digest] = wrong
    source = Source(f"docker-image://{at(fake)}")
    (layer,) = images.fetch(source, None, images.pin(source, None, WORK), WORK)
    with pytest.raises(IntegrityError):
        store.layers.directory(layer)
    assert not store.verify()


def test_a_diff_id_that_does_not_match_is_refused(fake: FakeRegistry, images: ImageSource, store: Store) -> None:
    plain = tar_of({"hello": "world"})
    layer = fake.add_blob("some/image", gzip.compress(plain), OCI_LAYER_GZIP)
    config = fake.add_blob("some/image", canonical_json(
        {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [sha256(b"other")]}}), OCI_CONFIG)  # fmt: skip
    fake.add_manifest("some/image", "v1", Manifest(config, (layer,)).to_bytes())
    source = Source(f"docker-image://{at(fake)}")
    (one,) = images.fetch(source, None, images.pin(source, None, WORK), WORK)
    with pytest.raises(IntegrityError):
        store.layers.directory(one)
    assert not store.verify()


def test_pulling_has_all_layers_on_disk(fake: FakeRegistry, images: ImageSource, store: Store) -> None:
    add_image(fake, "v1", hello="world")
    image = images.pull(at(fake), AMD, WORK)
    fake.close()
    (layer,) = (store.layers.find(diff) for diff in image.config.diff_ids)
    assert layer is not None
    assert (store.layers.directory(layer) / "hello").read_text() == "world"


def test_a_failure_is_asked_again(fake: FakeRegistry, images: ImageSource) -> None:
    add_image(fake, "v1", hello="world")
    fake.on("GET", "/manifests/", answer(403, b"closed"), 1)
    with pytest.raises(RegistryError):
        images.resolve(at(fake), AMD)
    assert images.resolve(at(fake), AMD)


def test_an_unknown_mode_is_named(images: ImageSource) -> None:
    with pytest.raises(InvalidInput, match="resolve mode"):
        images.pin(Source("docker-image://a", (("image.resolvemode", "perhaps"),)), None, WORK)


def test_a_checksum_pins(fake: FakeRegistry, images: ImageSource) -> None:
    target = add_image(fake, "v1", hello="world")
    other = add_image(fake, "v1", hello="moon")
    assert target != other
    pin = images.pin(Source(f"docker-image://{at(fake)}", (("image.checksum", target.digest),)), None, WORK)
    assert target.digest in pin.labels[0][1]


def test_only_the_lowest_layers_of_an_image(fake: FakeRegistry, images: ImageSource) -> None:
    plain = [tar_of({name: name}) for name in ("a", "b")]
    layers = tuple(fake.add_blob("some/image", gzip.compress(one), OCI_LAYER_GZIP) for one in plain)
    config = {"os": "linux", "architecture": "amd64",
              "rootfs": {"type": "layers", "diff_ids": [sha256(one) for one in plain]}}  # fmt: skip
    made = Manifest(fake.add_blob("some/image", canonical_json(config), OCI_CONFIG), layers)
    fake.add_manifest("some/image", "v1", made.to_bytes())

    def limited(text: str) -> tuple[int, Pin]:
        source = Source(f"docker-image://{at(fake)}", (("image.layerlimit", text),))
        pin = images.pin(source, None, WORK)
        return len(images.fetch(source, None, pin, WORK)), pin

    found = [limited(text) for text in ("1", "2", "")]
    assert [count for count, _ in found] == [1, 2, 2]
    assert found[0][1].digest != found[1][1].digest == found[2][1].digest
    assert not set(found[0][1].buildkit) & set(found[2][1].buildkit)
    for text, words in (("3", "greater than the number of layers in the image 2"), ("0", "invalid"), ("-1", "invalid")):
        with pytest.raises(InvalidInput, match=words):
            limited(text)


@pytest.mark.parametrize("document", [b'{"schemaVersion":2,"manifests":[{"mediaType":"x"}]}', b"{}", b"[]"])
def test_nonsense_changes_nothing_in_the_store(
    fake: FakeRegistry, images: ImageSource, store: Store, document: bytes
) -> None:
    fake.add_manifest("some/image", "v1", document, OCI_INDEX)
    with pytest.raises(KedgeError):
        images.resolve(at(fake), AMD)
    assert not store.images.list()
