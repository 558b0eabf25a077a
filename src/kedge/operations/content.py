"""What inputs known by content hold, and the proof that what was checksummed is what is copied.

Owns the bridge from a snapshot to storage's checksum of a mounted tree. Knows no op.
"""

import threading
from typing import TYPE_CHECKING

from kedge.model.cachekey import Selections
from kedge.model.digest import Digest
from kedge.model.graph import Snapshot

if TYPE_CHECKING:
    from kedge.storage.checksum import Witness
    from kedge.storage.store import Store


class Content:
    """Checksums of one build; `checksum` is the solver's. Thread-safe."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._guard = threading.Lock()
        self._witnesses: dict[Snapshot, Witness] = {}

    def checksum(self, snapshot: Snapshot, selections: Selections) -> Digest:
        """The digest of the selected files; raises NotFound for a required one that is not there."""
        from kedge.storage.checksum import Witness, checksum

        with self._store.layers.mounted(snapshot) as tree:
            witness = Witness() if tree.in_place else None
            digest = checksum(tree, selections, self._store.stats, witness)
        if witness is not None:
            with self._guard:
                if known := self._witnesses.get(snapshot):
                    known.files.update(witness.files)
                else:
                    self._witnesses[snapshot] = witness
        return digest

    def witness(self, snapshot: Snapshot) -> "Witness | None":
        """What the checksums of a client's directory saw: a copy of it must see the same."""
        with self._guard:
            return self._witnesses.get(snapshot)
