"""What the handlers share: the store, registries, containers, events.

Owns construction and lifetime of these parts. Does not know requests. Every request opens the store for itself, which
is cheap and protects what it uses until it is done; and a registry client with its own client's credentials, so that no
client ever borrows another's.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kedge import __version__
from kedge.containers.supervised import Supervised
from kedge.containers.supervisor import Supervisor
from kedge.daemon.engine.events import Events
from kedge.model.credential import CredentialSource, anonymous
from kedge.model.platform import Platform, of_machine
from kedge.model.settings import Settings
from kedge.storage.store import Store, default_root

if TYPE_CHECKING:
    from kedge.daemon.engine.upgrade import BuildKit
    from kedge.registry.client import Registry


class Builds:
    """Builds under way that a client has given an id, to be cancelled by it."""

    def __init__(self) -> None:
        self._stops: dict[str, Callable[[], None]] = {}
        self._lock = threading.Lock()

    def note(self, id: str, stop: Callable[[], None]) -> None:
        with self._lock:
            self._stops[id] = stop

    def forget(self, id: str) -> None:
        with self._lock:
            self._stops.pop(id, None)

    def cancel(self, id: str) -> None:
        with self._lock:
            stop = self._stops.get(id)
        if stop is not None:
            stop()


class Engine:
    """The engine behind one service. `root` is the store's, None for the default. `granted`: entitlements, as builds
    ask for them; a container with all rights needs security.insecure.
    """

    def __init__(
        self,
        root: Path | None,
        settings: Settings,
        buildkit: "BuildKit | None" = None,
        granted: Sequence[str] = (),
    ) -> None:
        self.root = (root or default_root()).absolute()
        self.settings, self.buildkit, self.granted = settings, buildkit, frozenset(granted)
        self.events = Events()
        self.builds = Builds()
        self.host: Platform = of_machine(os.uname().machine)
        self.started = time.time()
        with Store.open(self.root):
            pass  # said now, if it cannot be used
        self.supervisor = Supervisor(self.root, self._tell, settings.sandbox.process_sandbox)
        self.headers = (
            ("Server", f"Kedge/{__version__} (linux)"),
            ("Api-Version", "1.50"),
            ("Docker-Experimental", "false"),
            ("Ostype", "linux"),
        )

    @contextmanager
    def store(self, credentials: CredentialSource = anonymous) -> Iterator[Store]:
        """The store, for one request; layers that are not here yet come from registries as this client may ask."""
        with Store.open(self.root, max_size=self.settings.store.max_size) as store, self.registry(credentials) as late:
            from kedge.sources.fetch import store_fetch

            store.fetch = store_fetch(late)
            store.images.keeps_replaced = True  # Docker's clients know images by their ids
            yield store

    @contextmanager
    def registry(
        self, credentials: CredentialSource = anonymous, cancel: threading.Event | None = None
    ) -> "Iterator[Registry]":
        """All registries, as one client may ask them."""
        from kedge.registry.client import Registry

        with Registry(self.settings, credentials, cancel or threading.Event()) as registry:
            yield registry

    def _tell(self, one: Supervised, action: str, details: dict[str, str]) -> None:
        from kedge.daemon.engine.containers import labels_of

        attributes = labels_of(one) | {"image": one.record.image, "name": one.record.name} | details
        self.events.tell("container", action, one.record.id, attributes)

    def close(self) -> None:
        """Stop all containers."""
        self.supervisor.close()
