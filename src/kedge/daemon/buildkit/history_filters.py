"""Which records of builds a client wants to see: `status==error,startedAt>24h`, as `buildx history ls` asks.

Owns what filters are about (BuildKit's solver/llbsolver/history/filter.go). Does not know where records are kept.
"""

import csv
import operator
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from kedge.daemon.buildkit.filters import read_filters
from kedge.dockerfile.durations import parse_duration
from kedge.dockerfile.gitref import parse_git_reference
from kedge.model.errors import InvalidInput, KedgeError

Match = Callable[[Any], bool]
_CANCELLED: Final = 1  # gRPC's code
_COMPARED: Final = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def chosen_by(filters: Sequence[str]) -> Match:
    """A test of records for any of the filters; of each, all comma-separated terms must hold. Raises InvalidInput."""
    chosen = [_read_filter(text) for text in filters]
    return lambda record: not chosen or any(all(term(record) for term in terms) for terms in chosen)


def _read_filter(text: str) -> list[Match]:
    try:
        fields = next(csv.reader([text]), [])
    except csv.Error:
        raise InvalidInput(f"invalid filter {text[:80]!r}") from None
    timed = {field: _timed(field) for field in fields}
    others = ",".join(field for field in fields if timed[field] is None)
    return [*(match for match in timed.values() if match), read_filters([others], _FIELDS)]


def _timed(field: str) -> Match | None:
    """A comparison of times, which are in whole seconds; None for another term."""
    sign = next((sign for sign in _COMPARED if sign in field), "")
    name, _, text = field.partition(sign) if sign else (field, "", "")
    value = _TIMES.get(name)
    if not sign or value is None:
        return None
    limit = parse_duration(text) / 1e9 if name == "duration" else _read_time(text)
    return lambda record: bool(_COMPARED[sign](value(record), limit))


def _read_time(text: str) -> int:
    """So long ago, or a moment (RFC 3339)."""
    try:
        return int(time.time() - parse_duration(text) / 1e9)
    except KedgeError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        raise InvalidInput(f"invalid time {text[:40]!r}") from None


def _status(record: Any) -> str:
    if not record.HasField("CompletedAt"):
        return "running"
    if not record.HasField("error"):
        return "completed"
    return "canceled" if record.error.code == _CANCELLED else "error"


def _repository(record: Any) -> str:
    if source := record.FrontendAttrs.get("vcs:source", ""):
        return str(source)
    try:
        found = parse_git_reference(record.FrontendAttrs.get("context", ""), context=True)
    except KedgeError:
        return ""
    return found.remote if found else ""


def _duration(record: Any) -> float:
    if not record.HasField("CompletedAt"):
        return 0
    return float(record.CompletedAt.ToNanoseconds() - record.CreatedAt.ToNanoseconds()) / 1e9


_FIELDS: Final[dict[str, Callable[[Any], str]]] = {
    "ref": lambda record: str(record.Ref),
    "status": _status,
    "repository": _repository,
}
_TIMES: Final[dict[str, Callable[[Any], float]]] = {
    "startedAt": lambda record: int(record.CreatedAt.seconds),
    "completedAt": lambda record: int(record.CompletedAt.seconds),
    "duration": _duration,
}
