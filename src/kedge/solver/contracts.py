"""What the solver needs from others: operations that give an op its meaning, and a store of results.

Owns the two Protocols and the record of a key that later explains a miss. Knows no implementation.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from kedge.model.cachekey import CacheKey, CacheMap, KeyManifest, Selections
from kedge.model.digest import Digest
from kedge.model.graph import Snapshot, Vertex

Checksum: TypeAlias = Callable[[Snapshot, Selections], Digest]  # blocking; called on a leaf thread; raises NotFound


class Operation(Protocol):
    """What one kind of op means. Coroutines of the solver's trunk: whatever blocks goes through `Trunk.call`."""

    async def cache_map(self, vertex: Vertex) -> CacheMap:
        """How the vertex is cached. Idempotent; may ask the network (a tag's digest) but touches no layer."""

    async def run(self, vertex: Vertex, inputs: Sequence[Snapshot]) -> list[Snapshot]:
        """Do it; one snapshot per output. Raises KedgeError and keeps nothing when it fails."""


Manifest: TypeAlias = KeyManifest  # in model, because the store keeps it


class Elsewhere(Protocol):
    """Results that somebody else made, in caches the user named. A coroutine of the trunk."""

    async def found(self, vertex: Vertex, wanted: Collection[int], *, look: bool) -> list[Snapshot | None] | None:
        """Results for the vertex, those of the wanted outputs and maybe more; None when it has not all that is wanted.
        Never raises for a cache's sake.

        With `look`, the files of its inputs may be looked at, for which they may be made. Without it, nothing is made
        or fetched.
        """

    async def knows(self, vertex: Vertex) -> bool:
        """Is there a record of the vertex, with results or without, by what it is made of and not by content?"""


class CacheStore(Protocol):
    """Cached results by key. Atomic, durable, shared by threads and processes. All methods block, briefly but for
    `claim`.
    """

    def results(self, key: CacheKey) -> list[Snapshot] | None:
        """The results stored under the key, None when one of their layers is gone. Marks them as used. Touches no
        layer.
        """

    def put(self, key: CacheKey, results: list[Snapshot], manifest: Manifest | None = None) -> None:
        """Store results, replacing earlier ones, and remember the manifest as its places' latest. Durable on return."""

    def recall(self, definition: Digest, unseen: bool = False) -> CacheKey | None:
        """The key a definition led to, as long as results are stored under it: forgotten together with them.

        With `unseen`, the key it was noted to stand for whether there are results or not; may be forgotten at any time.
        """

    def remember(self, definition: Digest, key: CacheKey, unseen: bool = False) -> None:
        """Note for `recall` with the same `unseen`; replaces an earlier note."""

    def previous(self, place: str) -> Manifest | None:
        """The manifest that the latest `put` for this place gave."""

    def claim(self, key: CacheKey, cancel: threading.Event) -> AbstractContextManager[None]:
        """The right to make this key's results. Entering waits for other holders, of this process and others.

        Raises Cancelled when `cancel` is set while waiting. Entered and left on different threads; leaving one that was
        not entered does nothing. The death of a holder's process releases it.
        """
