"""Look-ups out of a container's own network: which name server is asked, and whose answer counts."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from kedge.containers import lookups
from kedge.containers.ports import Forwarder
from kedge.sandbox.network import NameServers

ASK, SAID = b"\x01\x00" + b"\0\1" + bytes(6), b"\x81\x80" + b"\0\1\0\1" + bytes(4)  # headers from their second byte on
Talk = Callable[[bytes], list[bytes]]
ONE, TWO, THREE = (f"127.0.0.{number}" for number in (2, 3, 4))


def question(number: int = 1) -> bytes:
    return number.to_bytes(2, "big") + ASK + b"\3www\0\0\1\0\1"


def answer(asked: bytes, text: bytes, code: int = 0) -> bytes:
    return asked[:2] + bytes([SAID[0], SAID[1] | code]) + SAID[2:] + text


class Server:
    """A name server; `say` tells what is answered to a question."""

    def __init__(self, address: str, say: Talk) -> None:
        self._asked: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, lookups.PORT))
        self._say = say
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                data, peer = self._socket.recvfrom(1000)
                if data == b"end":
                    return
                self._asked.append(data)
                for each in self._say(data):
                    self._socket.sendto(each, peer)

    def heard(self) -> list[bytes]:
        """End it; all questions that came."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"end", self._socket.getsockname())
        self._thread.join(60)
        return self._asked

    def close(self) -> None:
        self.heard()
        self._socket.close()


Serve = Callable[[str, Talk], Server]
Ask = Callable[..., socket.socket]


@pytest.fixture(autouse=True)
def _port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is free at all addresses, in place of 53."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        monkeypatch.setattr(lookups, "PORT", probe.getsockname()[1])


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[Server] = []

    def start(address: str, say: Talk) -> Server:
        made.append(Server(address, say))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Ask as from inside: a socket that has sent the question."""
    forwarders: list[Forwarder] = []
    clients: list[socket.socket] = []

    def start(servers: NameServers, *questions: bytes) -> socket.socket:
        forwarder = Forwarder([], servers)
        forwarders.append(forwarder)
        forwarder.start(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        tcp = socket.create_server(("127.0.0.1", 0))
        dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        dns.bind(("127.0.0.1", 0))
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        clients.append(client)
        client.settimeout(60)
        client.connect(dns.getsockname())
        forwarder.give_way_out(tcp.detach(), dns.detach())
        for each in questions:
            client.send(each)
        return client

    yield start
    for each in (*forwarders, *clients):
        each.close()


def silence(_: bytes) -> list[bytes]:
    return []


def knows(text: bytes) -> Talk:
    return lambda asked: [answer(asked, text)]


def fails(code: int) -> Talk:
    return lambda asked: [answer(asked, b"failed", code)]


def test_the_first_that_answers_is_enough(serve: Serve, ask: Ask) -> None:
    first, second = serve(ONE, knows(b"one")), serve(TWO, knows(b"two"))
    client = ask(NameServers((ONE, TWO)), question())
    assert client.recv(1000) == answer(question(), b"one")
    assert (first.heard(), second.heard()) == ([question()], [])


def test_the_next_is_asked_when_one_does_not_answer_in_time(serve: Serve, ask: Ask) -> None:
    first, second = serve(ONE, silence), serve(TWO, knows(b"two"))
    client = ask(NameServers((ONE, TWO), timeout=0.2), question())
    assert client.recv(1000) == answer(question(), b"two")
    client.send(question(2))  # for a while the silent one comes last
    assert client.recv(1000) == answer(question(2), b"two")
    assert first.heard() == [question()]
    assert second.heard() == [question(), question(2)]


def test_nobody_is_waited_for_where_nobody_listens(serve: Serve, ask: Ask) -> None:
    serve(TWO, knows(b"two"))
    client = ask(NameServers((ONE, TWO), timeout=3600), question())
    assert client.recv(1000) == answer(question(), b"two")


@pytest.mark.parametrize("code", [2, 4, 5])
def test_the_next_is_asked_when_one_fails(serve: Serve, ask: Ask, code: int) -> None:
    serve(ONE, fails(code))
    serve(TWO, knows(b"two"))
    client = ask(NameServers((ONE, TWO), timeout=3600), question())
    assert client.recv(1000) == answer(question(), b"two")


def test_a_name_that_is_not_there_is_an_answer(serve: Serve, ask: Ask) -> None:
    serve(ONE, fails(3))
    second = serve(TWO, knows(b"two"))
    client = ask(NameServers((ONE, TWO)), question())
    assert client.recv(1000) == answer(question(), b"failed", 3)
    assert second.heard() == []


def test_when_all_fail_that_is_the_answer_and_nobody_is_asked_twice(serve: Serve, ask: Ask) -> None:
    servers = [serve(address, fails(2)) for address in (ONE, TWO)]
    client = ask(NameServers((ONE, TWO), timeout=3600, attempts=5), question())
    assert client.recv(1000) == answer(question(), b"failed", 2)
    assert [each.heard() for each in servers] == [[question()], [question()]]


def test_the_answer_of_a_slow_server_counts(serve: Serve, ask: Ask) -> None:
    others_turn = threading.Event()

    def slow(asked: bytes) -> list[bytes]:
        others_turn.wait(60)
        return [answer(asked, b"late")]

    def silent(_: bytes) -> list[bytes]:
        others_turn.set()
        return []

    serve(ONE, slow)
    serve(TWO, silent)
    client = ask(NameServers((ONE, TWO), timeout=0.2, attempts=300), question())
    assert client.recv(1000) == answer(question(), b"late")


def test_silent_servers_are_asked_so_often_and_no_more(serve: Serve, ask: Ask) -> None:
    silent = [serve(address, silence) for address in (ONE, TWO)]
    failing = serve(THREE, fails(2))
    client = ask(NameServers((ONE, TWO, THREE), timeout=0.3, attempts=3), question())
    assert client.recv(1000) == answer(question(), b"failed", 2)  # the only one that said anything
    assert [each.heard() for each in silent] == [[question()] * 3, [question()] * 3]
    assert failing.heard() == [question()]


def test_answers_find_who_asked_and_a_question_that_comes_again_waits_with_the_first(serve: Serve, ask: Ask) -> None:
    def say(asked: bytes) -> list[bytes]:
        return [] if asked == question(1) else [answer(asked, b"this")]

    server = serve(ONE, say)
    client = ask(NameServers((ONE,), timeout=3600), question(1), question(1), question(2), question(3))
    assert {client.recv(1000), client.recv(1000)} == {answer(question(n), b"this") for n in (2, 3)}
    assert server.heard() == [question(1), question(2), question(3)]


def test_what_is_no_answer_to_the_question_is_dropped(serve: Serve, ask: Ask) -> None:
    right = answer(question(), b"this")
    serve(ONE, lambda asked: [b"", b"x", right[:11], question(), answer(question(7), b"other"), right])
    assert ask(NameServers((ONE,), timeout=3600), question()).recv(1000) == right


def test_too_many_questions_cost_the_eldest(serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "_MOST", 3)
    many = [question(number) for number in range(8)]
    server = serve(ONE, lambda asked: [answer(each, b"this") for each in many] if asked == many[-1] else [])
    before = len(os.listdir("/proc/self/fd"))
    client = ask(NameServers((ONE,), timeout=3600), *many)
    assert client.recv(1000) == answer(many[-1], b"this")
    assert server.heard() == many
    assert len(os.listdir("/proc/self/fd")) <= before + 6 + 3  # six: the forwarder and its client
