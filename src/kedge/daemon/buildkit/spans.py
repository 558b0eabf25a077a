"""An ended build as a trace: one span for each step, for clients that draw them (`buildx history trace`).

Owns the form: OpenTelemetry's spans as its Go library writes them in JSON, one after the other. Made from what the
build told, when somebody asks. Does not know builds.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

TRACE_TYPE: Final = "application/vnd.buildkit.otlp.json.v0"
_NO_SPAN: Final = {"TraceID": "0" * 32, "SpanID": "0" * 16, "TraceFlags": "00", "TraceState": "", "Remote": False}


def spans(record: Any, messages: Iterable[Any]) -> bytes:
    """The spans of a build's record and its status messages: the build's own first."""
    trace = hashlib.sha256(record.Ref.encode()).hexdigest()[:32]
    root = _context(trace, "")
    steps = {vertex.digest: vertex for message in messages for vertex in message.vertexes if vertex.HasField("started")}
    ended = [vertex for vertex in steps.values() if vertex.HasField("completed")]
    told = [
        _span(f"build {record.Ref}", root, _NO_SPAN, (record.CreatedAt, record.CompletedAt), record.error.message),
        *(_span(one.name, _context(trace, one.digest), root, (one.started, one.completed), one.error) for one in ended),
    ]
    told[0]["ChildSpanCount"] = len(ended)
    return "\n".join(json.dumps(one) for one in told).encode()


def _context(trace: str, step: str) -> dict[str, Any]:
    id = hashlib.sha256(f"{trace} {step}".encode()).hexdigest()[:16]
    return _NO_SPAN | {"TraceID": trace, "SpanID": id, "TraceFlags": "01"}


def _span(name: str, own: Any, parent: Any, times: tuple[Any, Any], error: str) -> dict[str, Any]:
    return {
        "Name": name,
        "SpanContext": own,
        "Parent": parent,
        "SpanKind": 1,
        "StartTime": _time(times[0]),
        "EndTime": _time(times[1]),
        "Attributes": None,
        "Events": None,
        "Links": None,
        "Status": {"Code": "Error", "Description": error} if error else {"Code": "Unset", "Description": ""},
        "DroppedAttributes": 0,
        "DroppedEvents": 0,
        "DroppedLinks": 0,
        "ChildSpanCount": 0,
        "Resource": [{"Key": "service.name", "Value": {"Type": "STRING", "Value": "kedge"}}],
        "InstrumentationLibrary": {"Name": "kedge", "Version": "", "SchemaURL": ""},
    }


def _time(stamp: Any) -> str:
    moment = datetime.fromtimestamp(stamp.seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{stamp.nanos:09d}Z"
