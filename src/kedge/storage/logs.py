"""The full output of every step, as it came. Owns the files under `logs/`; knows nothing of what is in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from kedge.model.digest import Digest


@dataclass(frozen=True, slots=True)
class LogRecord:
    """The kept output of the last run of one vertex; `size` in bytes, `started` in seconds since the epoch."""

    vertex: Digest
    name: str
    started: float
    size: int


class LogWriter:
    """One log being written: a context manager. What is written is in the file at once, also if the process dies."""

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def __enter__(self) -> "LogWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError


class Logs:
    """Full step logs by vertex digest; a later run of the same vertex replaces the earlier log."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def writer(self, vertex: Digest, name: str) -> LogWriter:
        """A log for a run of `vertex` that starts now. The file is made with the first byte."""
        raise NotImplementedError

    def open(self, vertex: Digest) -> BinaryIO | None:
        """The output of the vertex's last run, to be closed by the caller."""
        raise NotImplementedError

    def list(self) -> Sequence[LogRecord]:
        """All logs, newest first."""
        raise NotImplementedError
