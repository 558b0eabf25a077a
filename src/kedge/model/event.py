"""What a build tells while it runs: the only things that progress displays, web pages and clients ever see.

Owns four event values, and how their texts may stand on a terminal. Times are seconds since the epoch as floats. Events
of one vertex share its digest.
"""

import re
from collections.abc import Callable
from typing import TypeAlias

from kedge.model.digest import Digest
from kedge.model.errors import Location
from kedge.model.value import dataclass


@dataclass(frozen=True, slots=True)
class VertexEvent:
    """The state of a vertex; a later event of the same vertex replaces the earlier one.

    Not started: `started` is None. Running: `completed` is None. `error` is empty unless it failed.
    """

    vertex: Digest
    name: str
    inputs: tuple[Digest, ...] = ()
    started: float | None = None
    completed: float | None = None
    cached: bool = False
    error: str = ""
    group: str = ""
    location: Location | None = None


@dataclass(frozen=True, slots=True)
class StatusEvent:
    """A part of a vertex's work, such as one transfer: `current` of `total` bytes (total 0: unknown or not counted)."""

    vertex: Digest
    id: str
    timestamp: float
    current: int = 0
    total: int = 0
    started: float | None = None
    completed: float | None = None


@dataclass(frozen=True, slots=True)
class LogEvent:
    """Output of a step as it came; `stream` is 1 or 2."""

    vertex: Digest
    stream: int
    data: bytes
    timestamp: float


@dataclass(frozen=True, slots=True)
class WarningEvent:
    """Advice about the user's text. `rule` is the check's name (`StageNameCasing`), `url` where it is explained.

    `arguments` are what the message is about, in the rule's own order, for those who word it otherwise.
    """

    rule: str
    message: str
    detail: str = ""
    url: str = ""
    location: Location | None = None
    vertex: Digest | None = None
    arguments: tuple[str, ...] = ()


Event: TypeAlias = VertexEvent | StatusEvent | LogEvent | WarningEvent
Report: TypeAlias = Callable[[Event], None]  # may be called from any thread; returns fast, never raises


def silent(event: Event) -> None:
    """A Report for callers that do not listen."""


# Controls but for tab and line feed, halves of surrogate pairs (bytes that were no UTF-8), and what turns the direction
# of writing: the first steer a terminal, the last make it show another order than the text has. Compiled when needed.
_UNSEEN = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


def visible(text: str) -> str:
    """A name or message with a replacement character for each that would not be seen as itself: strangers wrote it."""
    return text if text.isascii() and text.isprintable() else re.sub(_UNSEEN, "\ufffd", text)
