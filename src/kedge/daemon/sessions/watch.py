"""Whether the clients of open sessions are still there: one that is silent is asked, and given up at last.

A machine that sleeps, a network that is gone, a client that hangs: none of these closes a connection, and a build that
waits for a secret would wait for ever. Silence is counted in turns, not by a clock: a service that was itself stopped
finds what has come meanwhile before it judges. Whoever sends bytes is alive, however slow its answers are.

Owns the counting and the question, which every gRPC server has some answer to. Does not know what a session is for.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar

from kedge.daemon.wire.channel import Call, Channel

CUSTOM: Final = "x-buildkit-session-health-custom-timeout"  # what a client may ask for, in milliseconds
TURN: Final = 1.0  # seconds
PATIENCE: Final = 60  # turns without a byte; BuildKit gives up between 35 and 50 seconds, however busy the line is
_PAUSE: Final = 10  # turns of silence between two questions
_QUESTION: Final = "/grpc.health.v1.Health/Check"


class Watched(Protocol):
    """A session as it is watched."""

    @property
    def channel(self) -> Channel: ...

    @property
    def patience(self) -> int: ...

    def heard(self) -> bool:
        """Has anything come since this was asked last?"""
        ...


W = TypeVar("W", bound=Watched)


class Watch(Generic[W]):
    """Counts the silence of sessions, and calls `end` with each that was silent for as many turns as its patience."""

    def __init__(self, end: Callable[[W], None]) -> None:
        self._end = end
        self._silence: dict[W, int] = {}
        self._asked: dict[W, Call] = {}

    def turn(self, sessions: Iterable[W]) -> None:
        """One more turn over those that are open now."""
        silence, asked = self._silence, self._asked
        self._silence, self._asked = {}, {}
        for one in sessions:
            count = 0 if one.heard() else silence.get(one, 0) + 1
            if count > one.patience:
                # in a thread of its own: what it ends may take a while, and the others are watched meanwhile
                with suppress(RuntimeError):  # no thread is to be had now: the next turn tries again
                    threading.Thread(target=self._end, args=(one,), name="silent", daemon=True).start()
                    continue
            self._silence[one] = count
            question = asked.get(one)
            if count and count % min(_PAUSE, -(-one.patience // 2)) == 0 and (question is None or question.done()):
                # What it says is not looked at: one that knows no such question says so.
                question = one.channel.ask(_QUESTION)
            if question is not None:
                self._asked[one] = question


def read_patience(text: str) -> int:
    """The turns of silence that a client asks for itself; those of all others for what is no number."""
    if not text.isdecimal() or len(text) > 9:
        return PATIENCE
    return max(2, round(int(text) / 1000 / TURN))
