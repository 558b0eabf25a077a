"""What the displays for people have in common: they draw the rows of a build, and tell of failures in the end.

Owns the order of these things. Does not know what a drawing looks like.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from kedge.model.event import Event
from kedge.progress.trace import Row, Trace


class Writer(Protocol):
    """A text stream."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


class TraceDisplay(ABC):
    """A Display of a Trace."""

    def __init__(self, out: Writer) -> None:
        self._out, self._trace = out, Trace()

    def update(self, events: list[Event]) -> None:
        self._trace.add(events)
        self._draw()

    def refresh(self) -> None:
        self._draw()

    def close(self) -> None:
        self._draw(final=True)
        for row in self._trace.rows:
            if row.failed:
                self._tell_failure(row)
        self._out.flush()

    @abstractmethod
    def _draw(self, final: bool = False) -> None:
        """Draw what is due; with `final`, everything."""

    @abstractmethod
    def _tell_failure(self, row: Row) -> None:
        """Show the last output of a step that failed."""
