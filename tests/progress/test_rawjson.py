"""rawjson is one JSON object a line with the fields of BuildKit's SolveStatus."""

import base64
import io
import json
from typing import Any

from kedge.model.digest import Digest
from kedge.model.errors import Location, SourceFile
from kedge.model.event import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from kedge.progress.rawjson import RawJson

A = Digest("sha256:a")


def shown(*events: Event) -> list[dict[str, Any]]:
    out = io.StringIO()
    display = RawJson(out)
    display.update(list(events))
    display.close()
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_each_event_is_one_line() -> None:
    lines = shown(VertexEvent(A, "x"), LogEvent(A, 2, b"\xff\n", 0.5), StatusEvent(A, "s", 1.0))
    assert [list(line) for line in lines] == [["vertexes"], ["logs"], ["statuses"]]


def test_a_vertex_has_rfc3339_times_and_leaves_out_what_is_empty() -> None:
    event = VertexEvent(A, "x", (Digest("sha256:b"),), started=1_700_000_000.25, completed=1_700_000_001.0, cached=True)
    assert shown(event) == [{"vertexes": [{
        "digest": "sha256:a", "inputs": ["sha256:b"], "name": "x", "started": "2023-11-14T22:13:20.25Z",
        "completed": "2023-11-14T22:13:21Z", "cached": True}]}]  # fmt: skip


def test_log_bytes_are_base64() -> None:
    (line,) = shown(LogEvent(A, 2, b"\xff\n", 0.0))
    assert line["logs"][0]["stream"] == 2
    assert base64.b64decode(line["logs"][0]["data"]) == b"\xff\n"


def test_a_warning_carries_its_source() -> None:
    place = Location(SourceFile("Dockerfile", "FROM x\n"), 1, 1)
    (line,) = shown(WarningEvent("Rule", "odd", "in detail", "https://example.org/rule", place))
    warning = line["warnings"][0]
    assert base64.b64decode(warning["short"]) == b"Rule: odd"
    assert warning["range"] == [{"start": {"line": 1}, "end": {"line": 1}}]
    assert warning["sourceInfo"]["filename"] == "Dockerfile"


def test_a_status_always_has_its_count() -> None:
    assert shown(StatusEvent(A, "s", 0.0)) == [
        {"statuses": [{"id": "s", "current": 0, "timestamp": "1970-01-01T00:00:00Z", "vertex": "sha256:a"}]}
    ]
