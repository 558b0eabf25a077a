"""docker-image+blob:// and oci-layout+blob://: one blob as a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.model.digest import digest_of, hex_part, sha256
from kedge.model.errors import IntegrityError, InvalidInput, KedgeError, NotFound
from kedge.model.ops import Source
from kedge.model.settings import NetworkSettings, Settings
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry
from kedge.sources.blob import BlobSource, RegistryBlobs
from kedge.sources.handler import Pin, Work
from kedge.storage.store import Store

WORK = Work(digest_of("test"))
DATA = b"some bytes" * 1000


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def blobs(fake: FakeRegistry) -> Iterator[RegistryBlobs]:
    with Registry(Settings(network=NetworkSettings(attempts=2, timeout=5, backoff=0.005))) as registry:
        yield RegistryBlobs(registry)


def named(fake: FakeRegistry, digest: str, **attrs: str) -> Source:
    found = tuple(sorted((f"http.{key}", value) for key, value in attrs.items()))
    return Source(f"docker-image+blob://{fake.address}/some/image@{digest}", found)


def built(store: Store, handler: BlobSource, source: Source) -> tuple[Pin, Path]:
    pin = handler.pin(source, None, WORK)
    (layer,) = handler.fetch(source, None, pin, WORK)
    (path,) = store.layers.directory(layer).iterdir()
    return pin, path


def test_a_blob_is_a_file(fake: FakeRegistry, store: Store, blobs: RegistryBlobs) -> None:
    blob = fake.add_blob("some/image", DATA)
    pin, path = built(store, BlobSource(store, blobs), named(fake, blob.digest))
    assert (path.name, path.read_bytes()) == (hex_part(blob.digest), DATA)
    told = path.stat()
    assert (told.st_mode & 0o7777, told.st_mtime) == (0o600, 0)
    assert dict(pin.labels) == {"blob": f"{fake.address}/some/image@{blob.digest}"}
    assert pin.buildkit == (sha256(f'{{"Digest":"{blob.digest}","Filename":"","Perm":0,"UID":0,"GID":0}}'.encode()),)


def test_it_looks_as_its_attributes_say(fake: FakeRegistry, store: Store, blobs: RegistryBlobs) -> None:
    blob = fake.add_blob("some/image", DATA)
    plain, _ = built(store, BlobSource(store, blobs), named(fake, blob.digest))
    pin, path = built(store, BlobSource(store, blobs), named(fake, blob.digest, filename="../a/model", perm="0644"))
    assert (path.name, path.stat().st_mode & 0o7777) == ("model", 0o644)
    assert pin.digest != plain.digest


def test_a_manifest_is_a_blob_too(fake: FakeRegistry, store: Store, blobs: RegistryBlobs) -> None:
    target = fake.add_image("some/image", "v1")
    _, path = built(store, BlobSource(store, blobs), named(fake, target.digest))
    assert sha256(path.read_bytes()) == target.digest


def test_what_is_in_the_store_is_asked_for_still_where_it_may_be_anothers(
    fake: FakeRegistry, store: Store, blobs: RegistryBlobs
) -> None:
    blob = fake.add_blob("some/image", DATA)
    built(store, BlobSource(store, blobs), named(fake, blob.digest))
    del fake.repository("some/image").blobs[blob.digest]
    built(store, BlobSource(store, blobs, "all"), named(fake, blob.digest))
    with pytest.raises(NotFound):
        BlobSource(store, blobs, "names").pin(named(fake, blob.digest), None, WORK)


def test_a_cached_build_asks_once(fake: FakeRegistry, store: Store, blobs: RegistryBlobs) -> None:
    blob = fake.add_blob("some/image", DATA)
    built(store, BlobSource(store, blobs), named(fake, blob.digest))
    before, handler = len(fake.seen), BlobSource(store, blobs, "none")
    handler.pin(named(fake, blob.digest), None, WORK)
    handler.pin(named(fake, blob.digest), None, WORK)
    assert [one.method for one in fake.seen[before:]] == ["HEAD"]


def test_other_bytes_than_promised_are_refused(fake: FakeRegistry, store: Store, blobs: RegistryBlobs) -> None:
    blob = fake.add_blob("some/image", DATA)
    fake.repository("some/image").blobs[blob.digest] = b"x" * len(DATA)
    handler, source = BlobSource(store, blobs), named(fake, blob.digest)
    with pytest.raises(IntegrityError):
        handler.fetch(source, None, handler.pin(source, None, WORK), WORK)
    assert not store.blobs.has(blob.digest)


@pytest.mark.parametrize("name", ["x", "x:tag", "x:tag@{0}", "x@sha256:12", "@{0}", "x@{0}@", "UPPER/x@{0}"])
def test_what_names_no_blob_is_refused(fake: FakeRegistry, store: Store, blobs: RegistryBlobs, name: str) -> None:
    blob = fake.add_blob("some/image", DATA)
    with pytest.raises(KedgeError):
        BlobSource(store, blobs).pin(Source("docker-image+blob://" + name.format(blob.digest)), None, WORK)


@pytest.mark.parametrize("attrs", [{"perm": "rwx"}, {"uid": "-1"}, {"gid": "root"}])
def test_attributes_that_are_no_numbers_are_refused(
    fake: FakeRegistry, store: Store, blobs: RegistryBlobs, attrs: dict[str, str]
) -> None:
    blob = fake.add_blob("some/image", DATA)
    with pytest.raises(InvalidInput):
        BlobSource(store, blobs).pin(named(fake, blob.digest, **attrs), None, WORK)
