"""Where clients arrive: addresses and socket files, who comes, how many of each user at once, and the end.

Owns what both APIs have in common before the first byte is read. A connection gets a thread, in which the API's own
`answer` is called with it. Does not know what is spoken; gRPC itself speaks TLS, with the files that are named here.
"""

import os
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Final

from kedge.daemon.peer import Peer, is_for, peer_of
from kedge.model.errors import Conflict, InvalidInput, Unsupported
from kedge.model.value import dataclass

_MOST: Final = 512  # connections that are answered at once
_MOST_WAITING: Final = 128  # of one user, which are not answered yet: as many as the kernel would keep
_PAUSE: Final = 0.05  # seconds, when there are no descriptors left
_FIRST_PASSED: Final = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_PIECE: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of the server's certificate and key, and of the authority that signs its clients'."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection, who made it, and the socket it was made to."""

    connection: socket.socket
    peer: Peer
    listener: socket.socket

    @property
    def entitled(self) -> bool:
        """Is the socket's file for the peer, even if its mode was loosened?"""
        return is_for(self.peer, self.connection, self.listener)


class Room:
    """Who may have one more of `most` connections, or of what else there is a number of.

    A user may have as many as he leaves free: half of all if he is alone, the next one half of the rest, and so on. So
    whoever takes all that he can get keeps nobody out.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._taken: Counter[Hashable] = Counter()

    def enter(self, user: Hashable) -> bool:
        """One more for the user, if he may."""
        if self._taken[user] >= self._free:
            return False
        self._taken[user] += 1
        self._free -= 1
        return True

    def leave(self, user: Hashable) -> None:
        """One less."""
        self._free += 1
        self._taken[user] -= 1
        if not self._taken[user]:
            del self._taken[user]


class Listener:
    """The sockets of one API. `listen` at each address, `start`; in the end `stop`, then `end`.

    `answer` blocks as long as the connection is of use, and is closed then.
    """

    def __init__(self, answer: Callable[[Arrival], None]) -> None:
        self._answer = answer
        self.stopping = threading.Event()
        self._sockets: list[socket.socket] = []
        self._files: list[Path] = []
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._accept_all, name="accept", daemon=True)
        self._room = Room(_MOST)
        self._waiting: list[Arrival] = []  # the first comes first
        self._live: set[socket.socket] = set()
        self._changed = threading.Condition()

    def listen(self, address: str, group: str = "") -> None:
        """Listen at `unix://PATH`, for owner and group only, or at what systemd passed, `fd://`. Raises KedgeError."""
        scheme, rest = split_address(address)
        if scheme == "unix":
            path = Path(rest).absolute()
            self._sockets.append(_bound(path, _group_id(group)))
            self._files.append(path)
        elif scheme == "fd":
            self._sockets += _passed()
        else:
            raise Unsupported(f"addresses of the kind {scheme[:20]}:// are not supported here")

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections, and take away the sockets' files; systemd keeps its own."""
        self.stopping.set()
        with suppress(OSError):
            os.write(self._waker, b"x")
        if self._thread.is_alive():
            self._thread.join()
        with self._changed:
            for arrival in self._waiting:
                arrival.connection.close()
            self._waiting.clear()
        for path in self._files:
            path.unlink(missing_ok=True)
        for listener in self._sockets:
            listener.close()

    def end(self, patience: float) -> None:
        """Give connections `patience` seconds to end, then break them off."""
        with self._changed:
            self._changed.wait_for(lambda: not self._live, patience)
            for connection in self._live:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._live, patience)
        for fd in (self._wake, self._waker):
            os.close(fd)

    # ---- connections -------------------------------------------------------------------------------------------------

    def _accept_all(self) -> None:
        poll = select.poll()
        by_number = {listener.fileno(): listener for listener in self._sockets}
        for listener in self._sockets:
            listener.setblocking(False)
        for number in (self._wake, *by_number):
            poll.register(number, select.POLLIN)
        while not self.stopping.is_set():
            for number, _ in poll.poll():
                if number in by_number:
                    self._accept(by_number[number])

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no more descriptors: clients wait in the kernel's queue, and we do not ask all the time
            self.stopping.wait(_PAUSE)
            return
        connection.setblocking(True)
        arrival = Arrival(connection, peer_of(connection), listener)
        with self._changed:
            if sum(other.peer.uid == arrival.peer.uid for other in self._waiting) < _MOST_WAITING:
                self._waiting.append(arrival)
            else:
                connection.close()
        self._admit()

    def _admit(self) -> None:
        """Answer those who wait and may come in."""
        while (arrival := self._next()) is not None:
            thread = threading.Thread(target=self._serve, args=(arrival,), name="client", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads
                self._leave(arrival)

    def _next(self) -> Arrival | None:
        with self._changed:
            if self.stopping.is_set():
                return None
            for index, arrival in enumerate(self._waiting):
                if self._room.enter(arrival.peer.uid):
                    self._live.add(arrival.connection)
                    return self._waiting.pop(index)
        return None

    def _serve(self, arrival: Arrival) -> None:
        try:
            self._answer(arrival)
        finally:
            self._leave(arrival)
            self._admit()

    def _leave(self, arrival: Arrival) -> None:
        arrival.connection.close()
        with self._changed:
            self._live.discard(arrival.connection)
            self._room.leave(arrival.peer.uid)
            self._changed.notify_all()


def split_address(address: str) -> tuple[str, str]:
    """Scheme and the rest. Raises InvalidInput."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        raise InvalidInput(f"invalid address {address[:100]!r}: expected unix://PATH or tcp://HOST:PORT")
    return scheme, rest


def default_path() -> Path:
    """`kedge.sock` in /run for root, else in the user's runtime directory."""
    from kedge.kernel.identity import current

    me = current()
    if me.outer_uid == 0:
        return Path("/run/kedge.sock")
    folder = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{me.outer_uid}"
    return Path(folder) / "kedge.sock"


# ---- sockets ---------------------------------------------------------------------------------------------------------


def _bound(path: Path, group: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(0o755, parents=True, exist_ok=True)
        _require_unused(path)
        mask = os.umask(0o117)
        try:
            made.bind(str(path))
        finally:
            os.umask(mask)
        if group >= 0:
            os.chown(path, -1, group)
        made.listen(128)
    except OSError as error:
        made.close()
        raise InvalidInput(f"cannot listen at {path}: {error.strerror or error}") from None
    except BaseException:
        made.close()
        raise
    return made


def _require_unused(path: Path) -> None:
    """Remove the socket of one who is dead; raises Conflict for one who lives."""
    if not path.is_socket():
        if path.exists():
            raise Conflict(f"{path} exists and is no socket")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise Conflict(f"another service listens at {path} already")


def _passed() -> list[socket.socket]:
    """The sockets that systemd opened for this process: sd_listen_fds(3)."""
    count = os.environ.get("LISTEN_FDS", "0")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal() or not int(count):
        raise InvalidInput("fd:// needs sockets passed by systemd (LISTEN_FDS)")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    found = [socket.socket(fileno=number) for number in range(_FIRST_PASSED, _FIRST_PASSED + int(count))]
    for each in found:
        each.set_inheritable(False)
        if each.family != socket.AF_UNIX:
            raise Unsupported("fd:// takes Unix sockets only")
    return found


def _group_id(group: str) -> int:
    """The group's number, -1 for none named."""
    import grp

    if not group or group.isdecimal():
        return int(group or -1)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise InvalidInput(f"there is no group {group[:40]}") from None


# ---- bytes -----------------------------------------------------------------------------------------------------------


def splice(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both sides have ended."""
    back = threading.Thread(target=_carry, args=(other, one), name="splice", daemon=True)
    back.start()
    _carry(one, other)
    back.join()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    buffer = memoryview(bytearray(_PIECE))
    with suppress(OSError):
        while size := source.recv_into(buffer):
            sink.sendall(buffer[:size])
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            end.shutdown(how)
