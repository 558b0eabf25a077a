"""A network of a container's own: the way in and the way out, with real namespaces."""

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Queue
from typing import Any

import pytest

from kedge.containers import lookups, ports
from kedge.containers.ports import Forwarder, Published
from kedge.kernel import syscalls
from kedge.model.errors import Conflict
from kedge.sandbox.network import ADDRESS, GATEWAY, NameServers, has_way_out
from kedge.sandbox.private import open_way_out, raise_loopback

pytestmark = pytest.mark.namespace


class Inside:
    """A thread in a network namespace of its own; `do` runs something there."""

    def __init__(self) -> None:
        self._work: Queue[Callable[[], None] | None] = Queue()
        self._done: Queue[Any] = Queue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        while (work := self._work.get()) is not None:
            try:
                self._done.put(work())
            except BaseException as error:
                self._done.put(error)

    def do(self, work: Callable[[], Any]) -> Any:
        self._work.put(work)
        done = self._done.get(timeout=60)
        if isinstance(done, BaseException):
            raise done
        return done

    def end(self) -> None:
        self._work.put(None)
        self._thread.join()


@pytest.fixture
def inside() -> Iterator[Inside]:
    thread = Inside()
    try:
        thread.do(lambda: raise_loopback([ADDRESS, GATEWAY]))
        yield thread
    finally:
        thread.end()


def namespace_of(inside: Inside) -> int:
    return int(inside.do(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)))


def serve_once(server: socket.socket, say: bytes) -> threading.Thread:
    def serve() -> None:
        with server, server.accept()[0] as client:
            client.sendall(say + client.recv(1000))

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def talk(address: tuple[str, int], data: bytes) -> tuple[bytes, str]:
    """What is answered, and from where we asked."""
    with socket.create_connection(address, 60) as client:
        client.sendall(data)
        return client.makefile("rb").read(), client.getsockname()[0]


def test_what_comes_in_comes_from_the_gateway(inside: Inside) -> None:
    server = inside.do(lambda: socket.create_server(("0.0.0.0", 8000)))
    seen: list[str] = []

    def serve() -> None:
        with server:
            client, (host, _) = server.accept()
            with client:
                seen.append(host)
                client.sendall(b"got " + client.recv(1000))

    thread = threading.Thread(target=serve)
    thread.start()
    forwarder = Forwarder([Published(8000, host="127.0.0.1")])
    try:
        forwarder.start(namespace_of(inside))
        assert talk(("127.0.0.1", forwarder.bound[0].host_port), b"this")[0] == b"got this"
        thread.join(60)
        assert seen == [GATEWAY]
    finally:
        forwarder.close()


def test_datagrams_are_answered_to_whom_they_came_from(inside: Inside) -> None:
    def echo() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((ADDRESS, 53))
        made.settimeout(60)
        return made

    server = inside.do(echo)
    forwarder = Forwarder([Published(53, "udp", "127.0.0.1")])
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    try:
        forwarder.start(namespace_of(inside))
        for number, client in enumerate(clients):
            client.settimeout(60)
            client.sendto(b"%d" % number, ("127.0.0.1", forwarder.bound[0].host_port))
        for _ in clients:
            data, peer = server.recvfrom(100)
            server.sendto(b"to " + data, peer)
        assert [client.recv(100) for client in clients] == [b"to 0", b"to 1", b"to 2"]
    finally:
        forwarder.close()
        for each in (server, *clients):
            each.close()


def test_a_taken_port_is_a_conflict_and_takes_no_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(Conflict, match="already allocated"):
            Forwarder([Published(1, host="127.0.0.1"), Published(2, "tcp", "127.0.0.1", number)])
        found = Forwarder([Published(2, "tcp", "127.0.0.1", number, number + 50)])  # the first free one of a range
        assert found.bound[0].host_port > number
        found.close()
        found.close()


def test_what_goes_out_arrives_where_it_was_meant_for(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_way_out():
        pytest.skip("this kernel has no nf_tables")
    meant: list[tuple[str, int]] = []
    original = Forwarder._meant

    def here(self: Forwarder, client: socket.socket) -> tuple[str, int]:
        meant.append(original(self, client))
        return "127.0.0.1", meant[-1][1]

    monkeypatch.setattr(Forwarder, "_meant", here)
    forwarder = Forwarder([])
    server = socket.create_server(("127.0.0.1", 0))
    thread = serve_once(server, b"from outside: ")
    port = server.getsockname()[1]
    try:
        forwarder.start(namespace_of(inside))
        tcp, dns = inside.do(lambda: open_way_out(ADDRESS, GATEWAY))
        forwarder.give_way_out(tcp.detach(), dns.detach())
        said, asked_from = inside.do(lambda: talk(("203.0.113.7", port), b"x"))
        assert (said, asked_from) == (b"from outside: x", ADDRESS)
        assert meant == [("203.0.113.7", port)]
        with pytest.raises(OSError):  # loopback is the container's own
            inside.do(lambda: socket.create_connection(("127.0.0.1", port), 5))
        thread.join(60)
    finally:
        forwarder.close()


def test_no_connection_leads_to_the_machines_loopback(inside: Inside) -> None:
    """Whatever somebody inside does: connect to our socket itself, or turn other connections there by own rules."""
    from kedge.sandbox import private

    if not has_way_out():
        pytest.skip("this kernel has no nf_tables")
    forwarder = Forwarder([], NameServers(("127.0.0.1",)))
    try:
        forwarder.start(namespace_of(inside))
        tcp, dns = inside.do(lambda: open_way_out(ADDRESS, GATEWAY))
        port = tcp.getsockname()[1]
        forwarder.give_way_out(tcp.detach(), dns.detach())
        evil = [*private._protocol(6), *private._redirect(port)]
        body = private._attribute(1, b"kedge\0") + private._attribute(2, b"out\0") + private._nested(4, *evil)
        for host in ("127.0.0.1", "127.0.0.1", GATEWAY, ADDRESS, "0.0.0.0"):
            with socket.create_server(("127.0.0.1", port)) as server:  # ours, at the same number
                server.settimeout(0.3)
                with suppress(OSError):
                    assert inside.do(lambda host=host: talk((host, port), b"x"))[0] == b""
                with pytest.raises(TimeoutError):
                    server.accept()
            inside.do(lambda: private._send([(private._NEW_RULE, private._APPEND, body)]))
    finally:
        forwarder.close()


def test_names_are_looked_up_by_the_machines_servers(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_way_out():
        pytest.skip("this kernel has no nf_tables")
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(60)
    monkeypatch.setattr(lookups, "PORT", server.getsockname()[1])
    forwarder = Forwarder([], NameServers(("127.0.0.1",)))

    def ask(address: str) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(60)
            client.connect((address, 53))  # only who was asked may answer
            client.send(b"\0\1" + bytes(10) + b"name?")
            return client.recv(100)[12:]

    def serve() -> None:
        for _ in range(2):
            data, peer = server.recvfrom(100)
            server.sendto(data[:2] + b"\x80" + data[3:] + b" 1.2.3.4", peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        forwarder.start(namespace_of(inside))
        tcp, dns = inside.do(lambda: open_way_out(ADDRESS, GATEWAY))
        forwarder.give_way_out(tcp.detach(), dns.detach())
        assert inside.do(lambda: ask(GATEWAY)) == b"name? 1.2.3.4"
        assert inside.do(lambda: ask("9.9.9.9")) == b"name? 1.2.3.4"
        thread.join(60)
    finally:
        forwarder.close()
        server.close()


def test_nothing_stays_open(inside: Inside) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    has_way_out()
    before = count()
    for _ in range(5):
        forwarder = Forwarder([Published(80, host="127.0.0.1"), Published(53, "udp", "127.0.0.1")])
        forwarder.start(namespace_of(inside))
        with socket.create_connection(("127.0.0.1", forwarder.bound[0].host_port), 60) as client:
            assert client.recv(1) == b""  # nobody serves it
        read, write = os.pipe()
        forwarder.close()
        forwarder.give_way_out(read, write)  # too late
    assert count() == before


def test_two_ends_that_break_off_at_once_cost_no_other_connection(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = inside.do(lambda: socket.create_server(("0.0.0.0", 8000)))
    server.settimeout(60)
    held, go_on = threading.Event(), threading.Event()
    ready = ports._Tcp.ready

    def slow(self: Any, mask: int) -> None:
        held.set()
        go_on.wait(60)
        ready(self, mask)

    monkeypatch.setattr(ports._Tcp, "ready", lambda self, mask: step(self, mask))
    step: Callable[[Any, int], None] = ready
    forwarder = Forwarder([Published(8000, host="127.0.0.1")])
    try:
        forwarder.start(namespace_of(inside))
        address = ("127.0.0.1", forwarder.bound[0].host_port)
        first = socket.create_connection(address, 60)
        ends = (first, server.accept()[0])
        first.sendall(b"x")
        assert ends[1].recv(1) == b"x"
        step = slow  # the carrying thread is held up, and hears of both ends in one breath
        second = socket.create_connection(address, 60)
        assert held.wait(60)
        for each in ends:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
        go_on.set()
        with second, server.accept()[0] as other:
            second.sendall(b"still there")
            assert other.recv(100) == b"still there"
    finally:
        go_on.set()
        forwarder.close()
        server.close()


def test_a_machine_without_descriptors_left_is_told_and_no_bug() -> None:
    script = """
import os, resource
from kedge.containers.ports import Forwarder
from kedge.model.errors import StoreError
import selectors, socket, threading
resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    Forwarder(())
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "cannot carry a container's ports: Too many open files\n"
