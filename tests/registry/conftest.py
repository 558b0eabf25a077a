"""A fake registry, a client that does not wait long, and a place for blobs."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from kedge.model.credential import Credential
from kedge.model.errors import IntegrityError
from kedge.model.image import Descriptor
from kedge.model.settings import NetworkSettings, RegistryHost, Settings
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry

QUICK = NetworkSettings(attempts=5, connect_timeout=5, timeout=2, backoff=0.005, longest_pause=0.5)

Connect = Callable[..., Registry]


@dataclass
class Memory:
    """A BlobSink in memory that verifies as the store does."""

    blob: Descriptor
    data: bytearray = field(default_factory=bytearray)
    committed: bool = False

    @property
    def offset(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        assert not self.committed
        self.data += data

    def restart(self) -> None:
        self.data.clear()

    def commit(self) -> None:
        algorithm, _, text = self.blob.digest.partition(":")
        if hashlib.new(algorithm, self.data).hexdigest() != text:
            raise IntegrityError("other bytes than promised")
        self.committed = True


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make clients: `connect(credentials={host: Credential}, hosts={host: RegistryHost}, network=…)`."""
    made: list[Registry] = []

    def make(
        credentials: dict[str, Credential] | None = None,
        hosts: dict[str, RegistryHost] | None = None,
        network: NetworkSettings = QUICK,
    ) -> Registry:
        settings = Settings(network=network, registries=hosts or {})
        made.append(Registry(settings, lambda host: (credentials or {}).get(host)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def client(connect: Connect) -> Registry:
    return connect()
