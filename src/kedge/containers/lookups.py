"""Name look-ups that leave a container's own network, passed on to name servers as resolv.conf(5) has it.

Owns the questions under way: which server is asked, for how long, and whose answer counts. Reads of a message its
header only (RFC 1035, 4.1.1). Does not know who waits for sockets, nor how a question comes here (`ports`).

Whoever asks from inside knows one server, the gateway, and waits `timeout` seconds for it. So that he hears of the
second server before he asks again, each is given its part of that time; an answer that comes later still counts.
"""

import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias

from kedge.sandbox.network import NameServers

PORT: Final = 53
_MOST: Final = 256  # questions under way: each may have a socket for each server
_LONGEST: Final = 1 << 16  # bytes of a message
_HEADER: Final = 12
_IS_ANSWER, _CODE = 0x80, 0x0F  # in bytes 2 and 3 of a header
_FAILED: Final = frozenset((2, 4, 5))  # SERVFAIL, NOTIMP, REFUSED: as in glibc, another server may know better
_PASSED_OVER: Final = 30.0  # seconds for which a server that did not answer is asked after the others

Maker: TypeAlias = Callable[[socket.SocketKind, str], socket.socket]  # a socket from which an address can be reached
Watch: TypeAlias = Callable[[socket.socket, bool, Callable[[int], None]], None]


class _Question:
    """A message from inside, and what became of it so far."""

    def __init__(self, listener: socket.socket, peer: Any, data: bytes, servers: list[str]) -> None:
        self.listener, self.peer, self.data = listener, peer, data
        self.rest = deque(servers)
        self.sockets: dict[str, socket.socket] = {}
        self.asked = ""  # the server that it is the turn of
        self.deadline = 0.0
        self.failed: set[str] = set()
        self.failure = b""  # the last answer of one that failed

    @property
    def key(self) -> tuple[socket.socket, Any, bytes]:
        return self.listener, self.peer, self.data


class Lookups:
    """All of one run of a container. Everything is called by one thread; `make` and `watch` are the carrier's."""

    def __init__(self, servers: NameServers, make: Maker, watch: Watch) -> None:
        self._servers, self._make, self._watch = servers, make, watch
        self._wait = servers.timeout / len(servers.addresses)
        self._questions: dict[tuple[socket.socket, Any, bytes], _Question] = {}  # the eldest first
        self._silent: dict[str, float] = {}  # server -> until when it is passed over

    def serve(self, listener: socket.socket) -> None:
        """Answer what comes to this socket, which does not block."""
        self._watch(listener, True, lambda _: self._hear(listener))

    def order(self) -> list[str]:
        """The servers as they are to be asked now."""
        now = time.monotonic()
        return sorted(self._servers.addresses, key=lambda server: self._silent.get(server, 0.0) > now)

    def patience(self, most: float) -> float:
        """Seconds after which `look` has something to do, or `most`."""
        earliest = min((each.deadline for each in self._questions.values()), default=float("inf"))
        return max(0.0, min(most, earliest - time.monotonic()))

    def look(self) -> None:
        """Ask the next server where one did not answer in time."""
        now = time.monotonic()
        for question in [each for each in self._questions.values() if each.deadline <= now]:
            self._silent[question.asked] = now + _PASSED_OVER
            self._ask_next(question)

    def _hear(self, listener: socket.socket) -> None:
        with suppress(OSError):
            data, peer = listener.recvfrom(_LONGEST)
            question = _Question(listener, peer, data, self.order() * self._servers.attempts)
            if question.key in self._questions:
                return  # asked again, while it is under way
            if len(self._questions) >= _MOST:
                self._end(next(iter(self._questions.values())))
            self._questions[question.key] = question
            self._ask_next(question)

    def _ask_next(self, question: _Question) -> None:
        while question.rest:
            server = question.rest.popleft()
            if server in question.failed:
                continue
            with suppress(OSError):  # no way leads there, or there are no descriptors left
                self._socket(question, server).send(question.data)
                question.asked, question.deadline = server, time.monotonic() + self._wait
                return
        self._end(question, question.failure)

    def _socket(self, question: _Question, server: str) -> socket.socket:
        made = question.sockets.get(server)
        if made is None:
            made = self._make(socket.SOCK_DGRAM, server)
            try:
                made.connect((server, PORT))
            except BaseException:
                made.close()
                raise
            question.sockets[server] = made
            self._watch(made, True, partial(self._answered, question, server))
        return made

    def _answered(self, question: _Question, server: str, _: int) -> None:
        sock = question.sockets.get(server)
        if sock is None:
            return  # another server's answer came in the same breath
        try:
            data = sock.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:  # nobody listens there
            if server == question.asked:
                self._ask_next(question)
            return
        if len(data) < _HEADER or data[:2] != question.data[:2] or not data[2] & _IS_ANSWER:
            return
        self._silent.pop(server, None)
        if data[3] & _CODE not in _FAILED:
            return self._end(question, data)
        question.failed.add(server)
        question.failure = data
        if server == question.asked:
            self._ask_next(question)

    def _end(self, question: _Question, answer: bytes = b"") -> None:
        self._questions.pop(question.key, None)
        for sock in question.sockets.values():
            self._watch(sock, False, lambda _: None)
            sock.close()
        question.sockets.clear()
        if answer:
            with suppress(OSError):
                question.listener.sendto(answer, question.peer)
