"""Between this machine and a container's own network: published ports on the way in, TCP and name look-ups out.

Owns the listening sockets and the carrying, in one thread for each container. No firewall rule, address or route of
the machine is touched, so no privilege is needed but over the container's network namespace, where sockets towards it
are made; they come from the gateway's address (`sandbox.network`). How a connection that leaves comes to us is the
business of `sandbox.private`. Does not know requests.
"""

import errno
import os
import selectors
import socket
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Literal, TypeAlias

from kedge.containers import lookups
from kedge.containers.lookups import Lookups, Maker
from kedge.kernel import syscalls
from kedge.model.errors import Conflict, StoreError
from kedge.model.value import dataclass, replace
from kedge.sandbox.network import ADDRESS, GATEWAY, NameServers

_CHUNK: Final = 1 << 18
_MOST_PEERS: Final = 512  # of one UDP port
_IDLE: Final = 60.0  # seconds that answers to a UDP peer are waited for
_PAUSE: Final = 0.05  # seconds, when there are no descriptors left
_ORIGINAL_DESTINATION: Final = 80  # SO_ORIGINAL_DST, linux/netfilter_ipv4.h
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
Protocol: TypeAlias = Literal["tcp", "udp"]
_Peer: TypeAlias = tuple[Any, ...]  # an address as recvfrom(2) tells it


@dataclass(frozen=True, slots=True)
class Published:
    """`port` in the container is had at `host_port` of the machine's address `host`; 0: any free one up to `last`.

    `host` "" is every address.
    """

    port: int
    protocol: Protocol = "tcp"
    host: str = ""
    host_port: int = 0
    last: int = 0


class Forwarder:
    """For one run of a container. `bound` tells the addresses and numbers that were had for its published ports.

    `servers` are whom name look-ups go to, as this machine reaches them.
    """

    def __init__(self, published: Sequence[Published], servers: NameServers | None = None) -> None:
        """Take the ports. Raises Conflict where one is taken, StoreError where the machine does not let us."""
        self.bound: list[Published] = []
        self._lookups = Lookups(servers or NameServers(), _outside, self._watch_for_reading)
        self._door: _Door | None = None
        self.connections: set[_Connection] = set()
        self._given: list[tuple[int, int]] = []
        self._listeners: list[socket.socket] = []
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            self._ours, self._theirs = socket.socketpair()
            self._selector = selectors.DefaultSelector()
        except OSError as error:
            raise StoreError(f"cannot carry a container's ports: {os.strerror(error.errno or 0)}") from None
        try:
            for each in published:
                self._take(each)
        except BaseException:
            self.close()
            raise

    def _take(self, wanted: Published) -> None:
        numbers = range(wanted.host_port, max(wanted.host_port, wanted.last) + 1)
        for number in numbers:
            try:
                one = replace(wanted, host_port=number)
                for made, told in _listen(one):
                    self._listeners.append(made)
                    self.bound.append(told)
                    kind = _Udp if one.protocol == "udp" else _Tcp
                    serve = kind(self, made, _always(ADDRESS, one.port), self.inside)
                    self._selector.register(made, _READ, serve.ready)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    text = f"cannot listen on {wanted.host or '0.0.0.0'}:{number}: {os.strerror(error.errno or 0)}"
                    raise StoreError(text) from None
        raise Conflict(
            f"failed to set up container networking: Bind for {wanted.host or '0.0.0.0'}:{wanted.host_port} failed: "
            "port is already allocated"
        )

    def start(self, namespace: int) -> None:
        """Carry, to the network namespace that the descriptor is of; takes the descriptor over."""
        self._door = _Door(namespace)
        self._selector.register(self._theirs, _READ, self._woken)
        self._thread = threading.Thread(target=self._run, name="ports", daemon=True)
        self._thread.start()

    def give_way_out(self, tcp: int, dns: int) -> None:
        """Carry what comes to these sockets (`Stdio.on_way_out`) to where it was meant for; takes them over."""
        self._given.append((tcp, dns))
        try:
            self._ours.send(b"o")
        except OSError:  # the container has ended
            self._close_given()

    def _woken(self, _: int) -> None:
        with suppress(OSError):
            self._theirs.recv(16)
        while self._given:
            tcp, dns = (socket.socket(fileno=fd) for fd in self._given.pop())
            for sock in (tcp, dns):
                sock.setblocking(False)
                self._listeners.append(sock)
            self._selector.register(tcp, _READ, _Tcp(self, tcp, self._meant, _outside).ready)
            self._lookups.serve(dns)

    def _meant(self, client: socket.socket) -> tuple[str, int]:
        """Where a connection from inside was to go before the rule turned it here. Raises OSError for where none leads.

        What is inside may have connected to our socket by itself, or, with NET_ADMIN, made rules of its own: it is not
        to reach what listens on this machine's loopback.
        """
        _, port, address = struct.unpack_from(">HH4s", client.getsockopt(socket.SOL_IP, _ORIGINAL_DESTINATION, 16))
        host = socket.inet_ntoa(address)
        if host == GATEWAY and port == lookups.PORT:
            return self._lookups.order()[0], port
        if address[0] in (0, 127) or address[0] >= 224 or host in (ADDRESS, GATEWAY):
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        return host, port

    def inside(self, kind: socket.SocketKind, _: str) -> socket.socket:
        """A socket in the container's network, from the gateway; only the carrying thread may ask."""
        assert self._door is not None
        made = self._door.make(kind)
        made.setblocking(False)
        made.bind((GATEWAY, 0))
        return made

    def close(self) -> None:
        """Let ports and connections go. Idempotent."""
        self._closing.set()
        with suppress(OSError):
            self._ours.send(b"x")
        if self._thread is not None:
            self._thread.join()
        for each in (*self._listeners, self._ours, self._theirs):
            each.close()
        if self._door is not None:
            self._door.close()
        self._close_given()
        self._selector.close()

    def _close_given(self) -> None:
        while self._given:
            for fd in self._given.pop():
                os.close(fd)

    def _run(self) -> None:
        while not self._closing.is_set():
            for key, mask in self._selector.select(self._lookups.patience(_IDLE / 4)):
                key.data(mask)
            self._lookups.look()
        for connection in list(self.connections):
            connection.close()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket) and key.fileobj not in self._listeners:
                key.fileobj.close()

    def watch(self, sock: socket.socket, events: int, ready: Callable[[int], None]) -> None:
        """Call `ready` on these events of a socket from now on; on none: forget it."""
        known = sock.fileno() in self._selector.get_map()
        if events and known:
            self._selector.modify(sock, events, ready)
        elif events:
            self._selector.register(sock, events, ready)
        elif known:
            self._selector.unregister(sock)

    def _watch_for_reading(self, sock: socket.socket, wanted: bool, ready: Callable[[int], None]) -> None:
        self.watch(sock, _READ if wanted else 0, ready)


class _Door:
    """A thread that lives in a network namespace and makes sockets there: who goes there without privileges over this
    machine's own cannot come back.
    """

    def __init__(self, namespace: int) -> None:
        self._asked: SimpleQueue[socket.SocketKind | None] = SimpleQueue()
        self._made: SimpleQueue[socket.socket | OSError] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(namespace,), name="door", daemon=True)
        self._thread.start()

    def make(self, kind: socket.SocketKind) -> socket.socket:
        """A socket there, for one caller at a time. Raises OSError."""
        self._asked.put(kind)
        made = self._made.get()
        if isinstance(made, OSError):
            raise made
        return made

    def close(self) -> None:
        """Idempotent."""
        self._asked.put(None)
        self._thread.join()

    def _run(self, namespace: int) -> None:
        refusal: OSError | None = None
        try:
            syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        except OSError as error:
            refusal = error
        finally:
            os.close(namespace)
        while (kind := self._asked.get()) is not None:
            try:
                self._made.put(refusal or socket.socket(socket.AF_INET, kind))
            except OSError as error:
                self._made.put(error)


def _listen(one: Published) -> list[tuple[socket.socket, Published]]:
    """Listening sockets for one port: on every address, one for IPv4 and one for IPv6."""
    hosts = [one.host] if one.host else ["0.0.0.0", "::"]
    found: list[tuple[socket.socket, Published]] = []
    number = one.host_port
    for host in hosts:
        try:
            made = _bound(host, number, one.protocol)
        except OSError as error:
            if found and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                break  # no IPv6 here
            for earlier, _ in found:
                earlier.close()
            raise
        number = made.getsockname()[1]
        found.append((made, replace(one, host=host, host_port=number)))
    return found


def _bound(host: str, number: int, protocol: Protocol) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, number))
        if protocol == "tcp":
            made.listen(512)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _outside(kind: socket.SocketKind, host: str) -> socket.socket:
    """A socket of this machine's."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    made.setblocking(False)
    return made


def _always(host: str, port: int) -> "There":
    return lambda _: (host, port)


There: TypeAlias = Callable[[socket.socket], tuple[str, int]]  # where what came to a socket leads to


class _Tcp:
    """One listening socket; `there` tells where a connection leads to, `make` gives a socket that gets there."""

    def __init__(self, owner: Forwarder, sock: socket.socket, there: There, make: Maker) -> None:
        self._owner, self._sock, self._there, self._make = owner, sock, there, make

    def ready(self, mask: int) -> None:
        try:
            client, _ = self._sock.accept()
        except BlockingIOError:
            return
        except OSError:  # no more descriptors: clients wait in the queue, and we do not ask all the time
            time.sleep(_PAUSE)
            return
        try:
            there = self._there(client)
            server = self._make(socket.SOCK_STREAM, there[0])
        except OSError:
            client.close()
            return
        client.setblocking(False)
        _Connection(self._owner, client, server).begin(there)


class _Connection:
    """Two sockets; what one says the other is told. A side that ends its own half may still be answered."""

    def __init__(self, owner: Forwarder, client: socket.socket, server: socket.socket) -> None:
        self._owner, self._ends = owner, (client, server)
        self._waiting = [b"", b""]  # what came from that end, and has not gone to the other
        self._over = [False, False]  # that end says nothing more
        self._told = [False, False]  # and the other knows
        self._connected = False
        owner.connections.add(self)

    def begin(self, there: tuple[str, int]) -> None:
        try:
            code = self._ends[1].connect_ex(there)
        except OSError:  # the address is none here
            return self.close()
        if code not in (0, errno.EINPROGRESS):
            return self.close()
        self._connected = code == 0
        self._update()

    def _ready(self, index: int, mask: int) -> None:
        if self not in self._owner.connections:
            return  # closed by what the other end was ready for in the same breath
        try:
            if not self._connected:
                if code := self._ends[1].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(code, os.strerror(code))
                self._connected = True
            if mask & _READ and not self._waiting[index] and not self._over[index]:
                with suppress(BlockingIOError):
                    data = self._ends[index].recv(_CHUNK)
                    self._waiting[index], self._over[index] = data, not data
            for end in (0, 1):
                self._pass_on(end)
        except OSError:
            return self.close()
        if all(self._told):
            return self.close()
        self._update()

    def _pass_on(self, end: int) -> None:
        other = self._ends[1 - end]
        if self._waiting[end]:
            with suppress(BlockingIOError):
                self._waiting[end] = self._waiting[end][other.send(self._waiting[end]) :]
        if self._over[end] and not self._waiting[end] and not self._told[end]:
            self._told[end] = True
            other.shutdown(socket.SHUT_WR)

    def _update(self) -> None:
        for index, sock in enumerate(self._ends):
            events = _READ if self._connected and not self._waiting[index] and not self._over[index] else 0
            if self._waiting[1 - index] or (index == 1 and not self._connected):
                events |= _WRITE
            self._owner.watch(sock, events, partial(self._ready, index))

    def close(self) -> None:
        """End both halves. Idempotent."""
        self._owner.connections.discard(self)
        for sock in self._ends:
            self._owner.watch(sock, 0, lambda _: None)
            sock.close()


class _Udp:
    """One socket and those for its peers, each of which is answered for a while."""

    def __init__(self, owner: Forwarder, sock: socket.socket, there: There, make: Maker) -> None:
        self._owner, self._sock, self._there, self._make = owner, sock, there, make
        self._peers: OrderedDict[_Peer, tuple[socket.socket, float]] = OrderedDict()  # least recently heard first

    def ready(self, mask: int) -> None:
        self._forget(time.monotonic() - _IDLE)
        with suppress(OSError):
            data, peer = self._sock.recvfrom(_CHUNK)
            known = self._peers.pop(peer, None)
            sock = known[0] if known else self._new(peer)
            self._peers[peer] = (sock, time.monotonic())
            sock.send(data)

    def _new(self, peer: _Peer) -> socket.socket:
        there = self._there(self._sock)
        made = self._make(socket.SOCK_DGRAM, there[0])
        try:
            made.connect(there)
        except BaseException:
            made.close()
            raise
        self._owner.watch(made, _READ, lambda _: self._answer(made, peer))
        return made

    def _answer(self, sock: socket.socket, peer: _Peer) -> None:
        with suppress(OSError):
            self._sock.sendto(sock.recv(_CHUNK), peer)

    def _forget(self, before: float) -> None:
        while self._peers:
            peer, (sock, heard) = next(iter(self._peers.items()))
            if heard >= before and len(self._peers) < _MOST_PEERS:
                return
            del self._peers[peer]
            self._owner.watch(sock, 0, lambda _: None)
            sock.close()
