"""What a build tells, kept for whoever listens: now, or only later.

Owns the log of one build and its form as status messages. Does not know builds.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from kedge.daemon.buildkit.advice import advice
from kedge.daemon.buildkit.wording import reworded
from kedge.daemon.wire import control, timestamp
from kedge.model.digest import Digest
from kedge.model.event import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent, visible
from kedge.model.value import dataclass

_AT_ONCE: Final = 500  # events in a message
_MOST: Final = 64 << 20  # bytes kept for listeners beside the steps themselves; the store has all of their output
_EVENT: Final = 256  # bytes that an event takes beside its data
_DEFINITION: Final = "[internal] load build definition"


@dataclass
class Counts:
    """What a finished build's record says of its steps."""

    total: int = 0
    cached: int = 0
    completed: int = 0
    warnings: int = 0


class EventLog:
    """The events of one build. `names` maps our digests to what the client calls the vertices."""

    def __init__(self) -> None:
        self.names: dict[Digest, str] = {}
        self._events: list[Any] = []  # events, and status messages of a client's own
        self._changed = threading.Condition()
        self._closed = False
        self._definition = ""
        self.size = 0  # about how many bytes the events take

    def report(self, event: Event) -> None:
        """Keep an event; from any thread. What comes after the end is dropped."""
        with self._changed:
            if self._closed:
                return
            if isinstance(event, VertexEvent):
                if not self._definition and event.name.startswith(_DEFINITION):
                    self._definition = event.vertex
            elif self.size > _MOST:
                return
            self._keep(event, len(event.data) if isinstance(event, LogEvent) else 0)

    def add(self, message: Any) -> None:
        """Keep a status message that is one already."""
        with self._changed:
            if not self._closed and self.size <= _MOST:
                self._keep(message, message.ByteSize())

    def _keep(self, event: Any, size: int) -> None:
        self.size += _EVENT + size
        self._events.append(event)
        self._changed.notify_all()

    def close(self) -> None:
        """There will be no more events."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def listen(self, stopped: threading.Event | None = None) -> Iterator[Any]:
        """Status messages from the beginning until the end of the build, as they come."""
        at = 0
        while True:
            with self._changed:
                while at == len(self._events) and not self._closed:
                    self._changed.wait(1.0)
                    if stopped is not None and stopped.is_set():
                        return
                events = self._events[at : at + _AT_ONCE]
                if not events:
                    return
            at += len(events)
            yield self._message(events)

    def _message(self, events: list[Any]) -> Any:
        message = control.StatusResponse()
        for event in events:
            if isinstance(event, control.StatusResponse):
                message.MergeFrom(event)
            else:
                _ADD[type(event)](message, event, self.names, self._definition)
        return message

    def failed(self, message: str) -> str:
        """The vertex that failed with a message, by the client's name; empty for none."""
        with self._changed:
            found = (e for e in reversed(self._events) if isinstance(e, VertexEvent) and e.error == message)
            event = next(found, None)
            return self.names.get(event.vertex, event.vertex) if event else ""

    def counts(self) -> Counts:
        """A summary of what happened."""
        with self._changed:
            last = {event.vertex: event for event in self._events if isinstance(event, VertexEvent)}
            warnings = sum(isinstance(event, WarningEvent) for event in self._events)
        states = last.values()
        return Counts(
            len(states),
            sum(event.cached for event in states),
            sum(event.completed is not None and not event.error for event in states),
            warnings,
        )


def to_timestamp(seconds: float | None) -> Any:
    """A time as a message; None for none."""
    if seconds is None:
        return None
    return timestamp.Timestamp(seconds=int(seconds), nanos=int((seconds - int(seconds)) * 1e9))


Names = Mapping[Digest, str]


def _name(digest: Digest, names: Names) -> str:
    return names.get(digest, digest)


def _add_vertex(message: Any, event: VertexEvent, names: Names, definition: str) -> None:
    told = message.vertexes.add(
        digest=_name(event.vertex, names),
        inputs=[_name(one, names) for one in event.inputs],
        name=visible(event.name),
        cached=event.cached,
        started=to_timestamp(event.started),
        completed=to_timestamp(event.completed),
        error=reworded(event.error),
    )
    if event.group:
        told.progressGroup.id = told.progressGroup.name = event.group


def _add_status(message: Any, event: StatusEvent, names: Names, definition: str) -> None:
    id = visible(event.id)
    message.statuses.add(
        ID=id,
        vertex=_name(event.vertex, names),
        name="transferring" if id.startswith("transferring ") else id,
        current=event.current,
        total=event.total,
        timestamp=to_timestamp(event.timestamp),
        started=to_timestamp(event.started),
        completed=to_timestamp(event.completed),
    )


def _add_log(message: Any, event: LogEvent, names: Names, definition: str) -> None:
    message.logs.add(
        vertex=_name(event.vertex, names), timestamp=to_timestamp(event.timestamp), stream=event.stream, msg=event.data
    )


def _add_warning(message: Any, event: WarningEvent, names: Names, definition: str) -> None:
    event = advice(event)
    text = f"{event.rule}: {event.message}" if event.rule else event.message
    if event.location:
        text += f" (line {event.location.start})"
    told = message.warnings.add(
        vertex=_name(event.vertex, names) if event.vertex else definition,
        level=1,
        short=text.encode("utf-8", "surrogateescape"),
        detail=[event.detail.encode("utf-8", "surrogateescape")] if event.detail else [],
        url=event.url,
    )
    if event.location:
        told.info.filename = event.location.file.name
        told.info.data = event.location.file.text.encode("utf-8", "surrogateescape")
        told.info.language = "Dockerfile"
        told.ranges.add(start={"line": event.location.start}, end={"line": event.location.end})


_ADD: Final[dict[Any, Callable[..., None]]] = {
    VertexEvent: _add_vertex,
    StatusEvent: _add_status,
    LogEvent: _add_log,
    WarningEvent: _add_warning,
}
