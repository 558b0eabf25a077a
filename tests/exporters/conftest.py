"""A store, registries that talk to it, and images in them."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kedge.model.digest import sha256
from kedge.model.image import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, Manifest, canonical_json
from kedge.model.platform import Platform
from kedge.model.reference import Reference, parse_reference
from kedge.model.settings import NetworkSettings, Settings
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry
from kedge.sources.fetch import store_fetch
from kedge.storage.store import Store
from tests.archives import tar_of

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")


class Told:
    """Steps that remember."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, int, bool]] = []

    def status(self, id: str, current: int = 0, total: int = 0, *, started: Any = None, done: bool = False) -> None:
        self.events.append((id, current, total, done))


@pytest.fixture
def steps() -> Told:
    return Told()


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def other() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def client() -> Iterator[Registry]:
    with Registry(Settings(network=NetworkSettings(attempts=4, timeout=5, backoff=0.005))) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path, client: Registry) -> Iterator[Store]:
    """A store that fetches what it lacks."""
    with Store.open(tmp_path / "store", store_fetch(client)) as opened:
        yield opened


def add_image(fake: FakeRegistry, platform: Platform = AMD, text: str = "world", tag: str = "") -> Descriptor:
    """An image of one layer with one file in a registry."""
    plain = tar_of({"hello": text})
    layer = fake.add_blob("some/image", gzip.compress(plain, mtime=0), OCI_LAYER_GZIP)
    config = {"os": platform.os, "architecture": platform.architecture, "rootfs": {"diff_ids": [sha256(plain)]}}
    manifest = Manifest(fake.add_blob("some/image", canonical_json(config), OCI_CONFIG), (layer,))
    return fake.add_manifest("some/image", tag, manifest.to_bytes())


def at(fake: FakeRegistry, name: str = "some/image:v1") -> Reference:
    return parse_reference(f"{fake.address}/{name}")
