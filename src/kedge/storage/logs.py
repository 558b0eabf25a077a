"""The full output of every step, as it came.

Owns the files under `logs/` and the table `logs`; knows nothing of what is in them.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from kedge.model.digest import Digest
from kedge.model.value import dataclass
from kedge.storage.budget import Budget, Reservation
from kedge.storage.database import Database
from kedge.storage.disk import translated
from kedge.storage.locks import Lease


@dataclass(frozen=True, slots=True)
class LogRecord:
    """The kept output of the last run of one vertex; `size` in bytes, `started` in seconds since the epoch."""

    vertex: Digest
    name: str
    started: float
    size: int


class LogWriter:
    """One log being written: a context manager. What is written is in the file at once, also if the process dies."""

    def __init__(self, logs: "Logs", vertex: Digest, name: str) -> None:
        self._logs, self._vertex, self._name = logs, vertex, name
        self._started, self._fd, self._size = time.time(), -1, 0

    def write(self, data: bytes) -> None:
        """Append output of the step. Raises StoreError for a full disk or store."""
        if self._fd < 0:
            self._fd, self._reservation = self._logs._create(self._vertex, self._name, self._started)
        self._reservation.cover(self._size + len(data))
        rest = memoryview(data)
        with translated("keep a step's output"):
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        self._size += len(data)

    def __enter__(self) -> "LogWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._reservation.settle(self._size)
            self._fd = -1


class Logs:
    """Full step logs by vertex digest; a later run of the same vertex replaces the earlier log."""

    def __init__(self, root: Path, database: Database, lease: Lease, budget: Budget) -> None:
        self._directory, self._database, self._lease, self._budget = root / "logs", database, lease, budget

    def writer(self, vertex: Digest, name: str) -> LogWriter:
        """A log for a run of `vertex` that starts now. The file is made with the first byte."""
        return LogWriter(self, vertex, name)

    def open(self, vertex: Digest) -> BinaryIO | None:
        """The output of the vertex's last run, to be closed by the caller."""
        row = self._database.row("SELECT file FROM logs WHERE vertex = ?", vertex)
        with translated("read a log"), suppress(FileNotFoundError):
            return open(self._directory / row[0], "rb") if row else None
        return None

    def list(self) -> Sequence[LogRecord]:
        """All logs, newest first."""
        records = []
        for vertex, name, started, file in self._database.rows("SELECT * FROM logs ORDER BY started DESC"):
            with suppress(FileNotFoundError):
                size = (self._directory / file).stat().st_size
                records.append(LogRecord(Digest(vertex), name, started, size))
        return records

    def _create(self, vertex: Digest, name: str, started: float) -> tuple[int, Reservation]:
        file = self._lease.new_name()
        reservation = self._budget.reserve(0)
        with translated("keep a step's output"):
            fd = os.open(self._directory / file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with self._database.transaction() as rows:
            earlier = rows.execute("SELECT file FROM logs WHERE vertex = ?", (vertex,)).fetchone()
            rows.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?)", (vertex, name, started, file))
        if earlier:
            (self._directory / earlier[0]).unlink(missing_ok=True)
        return fd, reservation
