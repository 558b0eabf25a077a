"""The listening socket and its connections: a thread each.

Owns where the service listens, who may connect, how many at once, and the graceful end. Does not know what a request
means: `serve` is given what answers an Exchange.

Access is by the socket's file: mode 0660, owner and group. Who connects is asked of the kernel as well: the service's
own user, root, or a member of the socket's group; so that a socket whose mode was loosened by accident opens nothing.
"""

import os
import select
import socket
import stat
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from kedge.daemon.engine.http import Connection, Disconnected, Exchange, Peer
from kedge.model.errors import Cancelled, Conflict, StoreError

_MOST: Final = 512  # connections at once; more wait in the kernel's queue
_PEER_GROUPS: Final = 59  # SO_PEERGROUPS, include/uapi/asm-generic/socket.h
_FIRST_PASSED: Final = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)


def default_path() -> Path:
    """`kedge.sock` in /run for root, else in the user's runtime directory."""
    from kedge.kernel.identity import current

    me = current()
    if me.outer_uid == 0:
        return Path("/run/kedge.sock")
    folder = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{me.outer_uid}"
    return Path(folder) / "kedge.sock"


class OwnSocket(socket.socket):
    """A listening socket whose file we made, and take away."""


def listen(path: Path, group: int = -1) -> socket.socket:
    """A listening socket at `path`, for the owner and group only; a stale one is replaced. Raises Conflict,
    StoreError.
    """
    made = OwnSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                    raise Conflict(f"another service listens on {path}")
                except ConnectionRefusedError:
                    path.unlink()
        mask = os.umask(0o117)
        try:
            made.bind(str(path))
        finally:
            os.umask(mask)
        if group >= 0:
            os.chown(path, -1, group)
        made.listen(128)
        return made
    except OSError as error:
        made.close()
        raise StoreError(f"cannot listen on {path}: {error.strerror or error}") from None
    except BaseException:
        made.close()
        raise


def passed_sockets() -> list[socket.socket]:
    """The listening sockets that systemd passed to this process: sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "0")
    numbers = range(_FIRST_PASSED, _FIRST_PASSED + (int(count) if count.isdecimal() else 0))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    for number in numbers:
        os.set_inheritable(number, False)
    return [socket.socket(fileno=number) for number in numbers]


class Server:
    """Serves listening sockets until `stop`."""

    def __init__(self, listeners: list[socket.socket], answer: Callable[[Exchange], None]) -> None:
        self._listeners, self._answer = listeners, answer
        self.stopping = threading.Event()
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._room = threading.BoundedSemaphore(_MOST)
        self._connections: set[Connection] = set()
        self._changed = threading.Condition()

    def run(self) -> None:
        """Accept connections until `stop` is called."""
        poll = select.poll()
        for listener in self._listeners:
            listener.setblocking(False)
            poll.register(listener, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        by_number = {listener.fileno(): listener for listener in self._listeners}
        while not self.stopping.is_set():
            for number, _ in poll.poll():
                if number in by_number:
                    self._accept(by_number[number])

    def stop(self) -> None:
        """Let `run` return; may be called from a signal handler."""
        self.stopping.set()
        with suppress(OSError):
            os.write(self._waker, b"x")

    def close(self, patience: float = 10.0) -> None:
        """End what waits, give what works `patience` seconds, then end that too."""
        self.stop()
        for listener in self._listeners:
            if isinstance(listener, OwnSocket):
                with suppress(OSError):
                    os.unlink(listener.getsockname())
            listener.close()
        with self._changed:
            for connection in self._connections:
                if not connection.busy:
                    connection.close()
            self._changed.wait_for(lambda: not self._connections, patience)
            for connection in self._connections:
                connection.close()
            self._changed.wait_for(lambda: not self._connections, patience)
        for fd in (self._wake, self._waker):
            os.close(fd)

    def _accept(self, listener: socket.socket) -> None:
        while not self._room.acquire(timeout=0.2):
            if self.stopping.is_set():
                return
        try:
            accepted, _ = listener.accept()
        except OSError:
            self._room.release()
            return
        accepted.setblocking(True)
        thread = threading.Thread(target=self._serve, args=(accepted, listener), name="client", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads
            accepted.close()
            self._room.release()

    def _serve(self, accepted: socket.socket, listener: socket.socket) -> None:
        connection: Connection | None = None
        try:
            with accepted:
                peer = Peer.of(accepted)
                connection = Connection(accepted, peer, self.stopping)
                with self._changed:
                    self._connections.add(connection)
                allowed = may_connect(peer, accepted, listener)
                for exchange in connection.requests():
                    if not allowed:
                        exchange.json(403, {"message": "permission denied: the socket is not yours"})
                        return
                    self._one(exchange)
        except (Disconnected, OSError):
            pass
        finally:
            with self._changed:
                if connection is not None:
                    self._connections.discard(connection)
                self._changed.notify_all()
            self._room.release()

    def _one(self, exchange: Exchange) -> None:
        try:
            self._answer(exchange)
        except (Disconnected, Cancelled):
            pass
        except Exception:  # a bug: told here, whole, and to the client without its inside
            traceback.print_exc(file=sys.stderr)
            with suppress(Disconnected):
                if not exchange.started:
                    exchange.json(500, {"message": "internal error; the service's log has more"})


def may_connect(peer: Peer, accepted: socket.socket, listener: socket.socket) -> bool:
    """Is the peer one of those for whom the socket's file is?"""
    if peer.uid in (os.geteuid(), 0):
        return True
    try:
        path = listener.getsockname()
        status = os.stat(path)
    except (OSError, ValueError, TypeError):
        return False
    if not stat.S_ISSOCK(status.st_mode):
        return False
    return status.st_gid in {peer.gid, *_groups(accepted)} and bool(status.st_mode & 0o020)


def _groups(accepted: socket.socket) -> tuple[int, ...]:
    try:
        data = accepted.getsockopt(socket.SOL_SOCKET, _PEER_GROUPS, 4096)
    except OSError:
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
