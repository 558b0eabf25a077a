"""What is known of a build so far, put together from its events.

Owns one `Row` per step (or per group of steps shown as one). Does not know how a row looks, nor what time it is.
"""

from collections import deque
from collections.abc import Iterable

from kedge.model.digest import Digest
from kedge.model.event import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent, visible
from kedge.model.value import dataclass, field, replace

KEPT_LINES = 20  # of a step's output, to be shown again when it fails
# What a step's error says when nothing is wrong with the step itself: our own words, and BuildKit's.
_CANCELLED = ("cancelled", "canceled", "stopped", "the build was stopped", "the step was stopped")


@dataclass(slots=True)
class Part:
    """One part of a step's work, such as a transfer: its newest status, and whether a display has yet to show it."""

    status: StatusEvent
    fresh: bool = True

    @property
    def done(self) -> bool:
        return self.status.completed is not None


@dataclass(slots=True)
class Row:
    """One line of a build. `number` is 0 until a display gives one. `members` are its vertices' newest events."""

    name: str
    number: int = 0
    members: dict[Digest, VertexEvent] = field(default_factory=dict)
    spans: dict[float, float | None] = field(default_factory=dict)  # when it ran: start -> end
    parts: dict[str, Part] = field(default_factory=dict)
    warnings: list[WarningEvent] = field(default_factory=list)
    fresh_output: list[LogEvent] = field(default_factory=list)
    tail: deque[tuple[float, bytes]] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))  # (time, line)
    tail_open: bool = False  # the last line of `tail` has no newline yet
    updates: int = 0  # since a display last showed it
    told: bool = False  # a display has shown how it ended

    @property
    def started(self) -> float | None:
        return min(self.spans, default=None)

    @property
    def completed(self) -> float | None:
        """When the last member ended; None while one runs or none has started."""
        ends = [end for end in self.spans.values() if end is not None]
        return max(ends) if ends and len(ends) == len(self.spans) else None

    @property
    def over(self) -> bool:
        """Is nothing of it going on? A base image's layers come later than its step, when something needs them."""
        return self.completed is not None and (bool(self.error) or all(part.done for part in self.parts.values()))

    @property
    def cached(self) -> bool:
        return bool(self.members) and all(member.cached for member in self.members.values())

    @property
    def error(self) -> str:
        return visible(next((member.error for member in self.members.values() if member.error), ""))

    @property
    def cancelled(self) -> bool:
        return self.error.startswith(_CANCELLED) or self.error.endswith("context canceled")

    @property
    def failed(self) -> bool:
        return bool(self.error) and not self.cancelled

    def seconds(self, now: float) -> float:
        """How long it has run, without gaps and without counting twice what ran side by side."""
        total, reached = 0.0, float("-inf")
        parts: dict[float, float | None] = {}
        for status in (part.status for part in self.parts.values()):
            if status.started is not None:
                last = status.timestamp if self.completed is not None else None
                parts[status.started] = last if status.completed is None else status.completed
        for start, end in sorted((parts | self.spans).items()):
            end = now if end is None else end
            if end > reached:
                total += end - max(start, reached)
                reached = end
        return max(total, 0.0)


class Trace:
    """The rows of a build in the order in which they started."""

    def __init__(self) -> None:
        self.rows: list[Row] = []  # started ones
        self._by_vertex: dict[Digest, Row] = {}
        self._by_group: dict[str, Row] = {}
        self._early: list[Event] = []  # of vertices not announced yet

    @property
    def known(self) -> int:
        """How many rows there are, started or not."""
        return len({id(row) for row in self._by_vertex.values()})

    def add(self, events: Iterable[Event]) -> None:
        """Take in events; one of a vertex that was never announced waits for it."""
        for event in events:
            self._add(event)

    def _add(self, event: Event) -> None:
        if isinstance(event, VertexEvent):
            self._vertex(event)
            return
        row = self._by_vertex.get(event.vertex) if event.vertex else None
        if row is None:
            if event.vertex:
                self._early.append(event)
            return
        if isinstance(event, StatusEvent) and event.id in row.parts and row.parts[event.id].done and event.completed:
            return  # told twice
        row.updates += 1
        if isinstance(event, StatusEvent):
            row.parts.setdefault(event.id, Part(event)).status = event
            row.parts[event.id].fresh = True
        elif isinstance(event, LogEvent):
            row.fresh_output.append(event)
            _keep(row, event)
        else:
            row.warnings.append(event)

    def _vertex(self, event: VertexEvent) -> None:
        row = self._by_vertex.get(event.vertex)
        if row is None:
            row = self._by_group.get(event.group) if event.group else None
            row = row or Row(visible(event.group or event.name))
            self._by_vertex[event.vertex] = row
            if event.group:
                self._by_group[event.group] = row
        if not event.group:
            row.name = visible(event.name) or row.name
        if event.started is not None:
            if not row.spans:
                self.rows.append(row)
            before = row.members.get(event.vertex)
            if before and before.started is not None and before.completed is None:
                event = replace(event, started=before.started)  # told to start again: it never stopped
            row.spans[event.started or 0.0] = event.completed
        row.members[event.vertex] = event
        row.updates += 1
        if self._early:
            early, self._early = self._early, []
            self.add(early)


def _keep(row: Row, event: LogEvent) -> None:
    """Add output to the row's last lines, joining a line that came in pieces."""
    lines = event.data.split(b"\n")
    for index, line in enumerate(lines):
        last = index == len(lines) - 1
        if last and not line:
            row.tail_open = False if len(lines) > 1 else row.tail_open
            break
        if index == 0 and row.tail_open and row.tail:
            time, begun = row.tail.pop()
            row.tail.append((time, (begun + line)[-4000:]))
        else:
            row.tail.append((event.timestamp, line[-4000:]))
        row.tail_open = last
