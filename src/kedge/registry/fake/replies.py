"""Requests and answers of the fake registry as values, and what can be done to an answer.

Owns the rules that bend answers, and their order. Does not know what is asked for.
"""

import json
import re
import threading
from collections.abc import Callable
from io import BufferedIOBase
from typing import Any, TypeAlias

from kedge.model.value import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came. `headers` have lower-case names; `received` counts the body's bytes."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    received: int = 0
    body: bytes = b""  # of small requests that carry a form

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent. `cut_at` bytes of the body are sent, then the connection is reset, whatever
    Content-Length says. `delay` seconds pass before the first byte; `drip` is (bytes, seconds between them)."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_at: int | None = None
    delay: float = 0.0
    drip: tuple[int, float] | None = None
    endless: bool = False


Bend: TypeAlias = Callable[[Seen, Reply], Reply]


class Body:
    """A request's body, as far as it has not been read."""

    def __init__(self, stream: BufferedIOBase, size: int) -> None:
        self._stream, self.left = stream, size

    def read(self) -> bytes:
        """All of it."""
        data, self.left = self._stream.read(self.left), 0
        return data

    def receive(self, into: bytearray, broken_after: int | None) -> None:
        """Take it piece by piece; ConnectionError after `broken_after` bytes, or when the client leaves."""
        left = self.left if broken_after is None else min(broken_after, self.left)
        self.left = 0
        while left:
            piece = self._stream.read(min(left, 65536))
            if not piece:
                raise ConnectionError
            into += piece
            left -= len(piece)
        if broken_after is not None:
            raise ConnectionError


def json_reply(status: int, value: object) -> Reply:
    """An answer that is a document."""
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


def error_reply(status: int, code: str, message: str) -> Reply:
    """A refusal in the specification's form."""
    return json_reply(status, {"errors": [{"code": code, "message": message}]})


# ---- bending ---------------------------------------------------------------------------------------------------------


def bend(**changes: Any) -> Bend:
    """A rule's effect that sets fields of the Reply."""
    return lambda seen, reply: replace(reply, **changes)


def header(name: str, value: str | None) -> Bend:
    """A rule's effect that sets (None: removes) one header."""

    def change(seen: Seen, reply: Reply) -> Reply:
        kept = {key: text for key, text in reply.headers.items() if key.lower() != name.lower()}
        return replace(reply, headers=kept if value is None else kept | {name: value})

    return change


def redirect(url: str, status: int = 307) -> Bend:
    """A rule's effect that sends the client elsewhere."""
    return bend(status=status, headers={"Location": url, "Content-Length": "0"}, body=b"")


def answer(status: int, body: bytes = b"", **headers: str) -> Bend:
    """A rule's effect that answers something else altogether; `_` in header names is `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return bend(status=status, headers=named, body=body)


@dataclass(slots=True)
class _Rule:
    method: str
    path: re.Pattern[str]
    bend: Bend
    left: int


class Rules:
    """What is done to which answers, in the order in which that was asked for."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def add(self, method: str, path: str, effect: Bend, times: int) -> None:
        with self._lock:
            self._rules.append(_Rule(method, re.compile(path), effect, times))

    def bent(self, seen: Seen, reply: Reply) -> Reply:
        """The answer after the first rule that has a turn left, or as it is."""
        with self._lock:
            for rule in self._rules:
                if rule.left and rule.method in ("", seen.method) and rule.path.search(seen.path):
                    rule.left -= 1
                    return rule.bend(seen, reply)
        return reply
