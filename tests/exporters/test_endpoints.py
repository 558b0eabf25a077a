"""The places of `kedge copy`, by name."""

import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.exporters.endpoints import Endpoint, World, copy, parse_endpoint
from kedge.model.digest import sha256
from kedge.model.errors import InvalidInput, InvalidReference, NotFound
from kedge.model.image import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, Manifest, canonical_json
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry
from kedge.storage.store import Store


class Quiet:
    def status(self, id: str, current: int = 0, total: int = 0, **_: object) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Registry() as registry, Store.open(tmp_path / "store") as store:
        yield World(registry, lambda: store)


def add(fake: FakeRegistry) -> Descriptor:
    layer = fake.add_blob("a/b", gzip.compress(bytes(1024)), OCI_LAYER_GZIP)
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [sha256(bytes(1024))]}}
    manifest = Manifest(fake.add_blob("a/b", canonical_json(config), OCI_CONFIG), (layer,))
    return fake.add_manifest("a/b", "v1", manifest.to_bytes())


def test_an_image_goes_all_the_way_round(fake: FakeRegistry, world: World, tmp_path: Path) -> None:
    target = add(fake)
    stations = [
        f"{fake.address}/a/b:v1",
        f"store://{fake.address}/c/d:v2",
        f"oci-layout://{tmp_path}/layout:v3",
        f"oci-archive://{tmp_path}/archive.tar:v4",
        f"docker-image://{fake.address}/e/f:v5",
    ]
    for before, after in itertools.pairwise(stations):
        assert copy(before, [after], world, Quiet()).digest == target.digest
    assert fake.repository("e/f").manifests == fake.repository("a/b").manifests
    assert fake.repository("e/f").tags == {"v5": target.digest}


def test_several_places_at_once(fake: FakeRegistry, world: World, tmp_path: Path) -> None:
    add(fake)
    places = [f"oci-layout://{tmp_path}/one:x", f"oci-archive://{tmp_path}/two.tar", f"{fake.address}/g/h:v1"]
    copy(f"{fake.address}/a/b:v1", places, world, Quiet())
    assert (tmp_path / "one" / "index.json").exists()
    assert (tmp_path / "two.tar").exists()
    assert "v1" in fake.repository("g/h").tags


def test_places_are_read() -> None:
    assert parse_endpoint("alpine:3") == Endpoint("docker-image", "alpine:3")
    assert parse_endpoint("store://alpine") == Endpoint("store", "alpine")
    for text in ("", "docker://alpine", "oci-layout://", "ftp://x"):
        with pytest.raises((InvalidInput, InvalidReference)):
            parse_endpoint(text)


def test_what_is_not_there_is_named(fake: FakeRegistry, world: World, tmp_path: Path) -> None:
    for source in (f"{fake.address}/x:y", "store://nothing", f"oci-layout://{tmp_path}/nothing:v1"):
        with pytest.raises(NotFound):
            copy(source, [f"oci-layout://{tmp_path}/out"], world, Quiet())
    assert not (tmp_path / "out").exists()
