"""The display for programs: one JSON object per event and line, with the fields of BuildKit's SolveStatus.

Owns the field names (client/graph.go of BuildKit): `vertexes`, `statuses`, `logs`, `warnings`, each a list of one.
Bytes are base64, times RFC 3339 in UTC.
"""

import base64
import json
import time
from typing import Any

from kedge.model.errors import Location
from kedge.model.event import Event, LogEvent, StatusEvent, VertexEvent
from kedge.progress.drawing import Writer


class RawJson:
    """A display that writes every event at once and keeps nothing."""

    def __init__(self, out: Writer) -> None:
        self._out = out

    def update(self, events: list[Event]) -> None:
        for event in events:
            self._out.write(json.dumps(as_json(event), separators=(",", ":"), ensure_ascii=False) + "\n")
        self._out.flush()

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        self._out.flush()


def as_json(event: Event) -> dict[str, list[dict[str, Any]]]:
    """The SolveStatus that holds only this event."""
    if isinstance(event, VertexEvent):
        group = {"id": event.group, "name": event.group} if event.group else None
        return {
            "vertexes": [
                _without_empty(
                    digest=event.vertex,
                    inputs=list(event.inputs),
                    name=event.name,
                    started=_time(event.started),
                    completed=_time(event.completed),
                    cached=event.cached,
                    error=event.error,
                    progressGroup=group,
                )
            ]
        }
    if isinstance(event, StatusEvent):
        status = _without_empty(
            vertex=event.vertex, total=event.total, started=_time(event.started), completed=_time(event.completed)
        )
        return {"statuses": [{"id": event.id, "current": event.current, "timestamp": _time(event.timestamp)} | status]}
    if isinstance(event, LogEvent):
        return {
            "logs": [
                {
                    "vertex": event.vertex,
                    "stream": event.stream,
                    "data": _base64(event.data),
                    "timestamp": _time(event.timestamp),
                }
            ]
        }
    short = f"{event.rule}: {event.message}" if event.rule else event.message
    return {
        "warnings": [
            _without_empty(
                vertex=event.vertex,
                level=1,
                short=_base64(short.encode()),
                detail=[_base64(event.detail.encode())] if event.detail else [],
                url=event.url,
                **_source(event.location),
            )
        ]
    }


def _source(location: Location | None) -> dict[str, Any]:
    if location is None:
        return {}
    text = {"filename": location.file.name, "data": _base64(location.file.text.encode())}
    return {"sourceInfo": text, "range": [{"start": {"line": location.start}, "end": {"line": location.end}}]}


def _without_empty(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    microseconds = round(seconds * 1_000_000)
    fraction = f".{microseconds % 1_000_000:06}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(microseconds // 1_000_000)) + fraction + "Z"
