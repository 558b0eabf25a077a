"""Results by cache key, and what explains a miss: the solver's CacheStore.

Owns four tables. Does not know what a key means, and opens no layer.
"""

import threading
from contextlib import AbstractContextManager

from kedge.model.cachekey import CacheKey, KeyManifest
from kedge.model.digest import Digest
from kedge.model.graph import Snapshot
from kedge.storage.database import Database
from kedge.storage.locks import Lease, Locks


class ResultStore:
    """Implements kedge.solver.contracts.CacheStore; see there for the contract of each method."""

    def __init__(self, database: Database, locks: Locks, lease: Lease) -> None:
        self._database, self._locks, self._lease = database, locks, lease

    def results(self, key: CacheKey) -> list[Snapshot] | None:
        raise NotImplementedError

    def put(self, key: CacheKey, results: list[Snapshot], manifest: KeyManifest | None = None) -> None:
        raise NotImplementedError

    def recall(self, definition: Digest) -> CacheKey | None:
        raise NotImplementedError

    def remember(self, definition: Digest, key: CacheKey) -> None:
        raise NotImplementedError

    def previous(self, place: str) -> KeyManifest | None:
        raise NotImplementedError

    def claim(self, key: CacheKey, cancel: threading.Event) -> AbstractContextManager[None]:
        raise NotImplementedError
