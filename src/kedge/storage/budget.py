"""The hard cap: space is reserved before it is written, and old things go first when there is none left.

Owns the ledger (one number in the database: what is on disk plus what is about to be). Does not know what is written,
nor what may go: `collect` is given.
"""

from collections.abc import Callable

from kedge.model.errors import StoreError
from kedge.storage.database import Database
from kedge.storage.locks import Lease, Locks

_STEP = 16 << 20  # at most so many bytes are reserved ahead for a stream of unknown length
_HEADROOM = 16 << 20  # at most so much of the cap is left for the database and its journal


class Budget:
    """Admission to a store of at most `max_size` bytes (0: no cap, and nothing here costs anything).

    `count()` measures what the store takes on disk; `collect(bytes)` frees that much of what nobody needs, if it can.
    """

    def __init__(self, database: Database, locks: Locks, lease: Lease, max_size: int) -> None:
        self._database, self._locks, self._lease, self.max_size = database, locks, lease, max_size
        self._limit = max_size - min(_HEADROOM, max_size // 8)
        self.count: Callable[[], int] = lambda: 0
        self.collect: Callable[[int], None] = lambda _: None

    def reserve(self, size: int) -> "Reservation":
        """Room for `size` bytes. Raises StoreError when collecting garbage does not make it."""
        reservation = Reservation(self, "")
        if self.max_size:
            reservation = Reservation(self, self._lease.new_name())
            reservation.cover(size)
        return reservation

    def change(self, name: str, size: int) -> None:
        """Set what `name` has reserved. Raises StoreError when there is no room."""
        # One at a time, also among processes: what is written must be seen as promised or as counted, never as neither.
        with self._locks.held("budget"):
            if missing := self._missing(name, size):
                self.collect(missing)
                missing = self._missing(name, size)
        if not missing:
            return
        raise StoreError(
            f"the store may not grow beyond {self.max_size} bytes, and nothing more can be removed from it",
            hint="Raise max-size in the configuration file, or remove images with `kedge rmi`.",
        )

    def release(self, name: str) -> None:
        """What `name` wrote can be counted now."""
        with self._locks.held("budget"), self._database.transaction() as rows:
            rows.execute("DELETE FROM reservations WHERE name = ?", (name,))

    def step(self) -> int:
        """How much to reserve ahead: asking is not free, holding too much keeps others out."""
        return min(_STEP, self.max_size // 32)

    def _missing(self, name: str, size: int) -> int:
        """Promise `size` bytes to `name`, if they are there; else say how many are missing."""
        taken = self.count()
        with self._database.transaction() as rows:
            promised = "SELECT coalesce(sum(bytes), 0) FROM reservations WHERE name <> ?"
            missing = taken + rows.execute(promised, (name,)).fetchone()[0] + size - self._limit
            if missing <= 0:
                rows.execute("INSERT OR REPLACE INTO reservations VALUES (?, ?)", (name, size))
        return int(max(0, missing))


class Reservation:
    """Room promised to one writer, until `settle`."""

    def __init__(self, budget: Budget, name: str) -> None:
        self._budget, self._name, self._size = budget, name, 0

    def cover(self, size: int) -> None:
        """Make the room at least `size` bytes. Raises StoreError when there is not that much."""
        if self._name and size > self._size:
            size = max(size, self._size + self._budget.step()) if self._size else size
            self._budget.change(self._name, size)
            self._size = size

    def settle(self, actual: int) -> None:
        """The writing is over and took `actual` bytes on disk: give back the promise. Idempotent."""
        if self._name and self._size:
            self._budget.release(self._name)
            self._size = 0
