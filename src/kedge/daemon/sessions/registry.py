"""The sessions that clients hold open now, by id.

Owns their lifetime and who may use which. Does not know what is asked through them.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress

from kedge.daemon.peer import Peer
from kedge.daemon.sessions import watch
from kedge.daemon.sessions.tunnel import Tunnel
from kedge.daemon.wire.calls import Calls
from kedge.daemon.wire.channel import Channel
from kedge.model.errors import Conflict, InvalidInput, NotFound

# As BuildKit's client names them in its metadata (session/session.go).
ID, SHARED_KEY = "x-docker-expose-session-uuid", "x-docker-expose-session-sharedkey"
_LONGEST_ID = 256
MOST_OF_ONE = 250  # sessions of one client at once: each holds a thread of the service, and a build holds three more
PATIENCE = 10.0  # seconds that a build waits for its session: the client opens both at the same time


class ClientSession:
    """One session: whose it is, and the channel on which the client's services are called."""

    def __init__(self, id: str, shared_key: str, peer: Peer, tunnel: Tunnel, patience: int = watch.PATIENCE) -> None:
        self.id, self.shared_key, self.peer, self.patience = id, shared_key, peer, patience
        self._tunnel = tunnel
        self.closed = threading.Event()
        self._on_close: list[Callable[[], None]] = []
        self._guard = threading.Lock()

    @property
    def channel(self) -> Channel:
        """The channel to the client."""
        return self._tunnel.channel

    def heard(self) -> bool:
        """Has anything come from the client since this was asked last?"""
        return self._tunnel.heard()

    def calls(self, service: object) -> Calls:
        """The methods of a service on the client's side."""
        return Calls(self._tunnel.channel, service)

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called when the client goes away; at once if it has. What is returned takes that back."""
        with self._guard:
            if not self.closed.is_set():
                self._on_close.append(callback)
                return lambda: self._forget(callback)
        callback()
        return lambda: None

    def _forget(self, callback: Callable[[], None]) -> None:
        with self._guard, suppress(ValueError):
            self._on_close.remove(callback)

    def close(self) -> None:
        """End it; idempotent."""
        with self._guard:
            self.closed.set()
            callbacks, self._on_close = self._on_close, []
        self._tunnel.close()
        for callback in callbacks:
            callback()


class Sessions:
    """All sessions of the service."""

    def __init__(self) -> None:
        self._open: dict[str, ClientSession] = {}
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None
        self._over = threading.Event()

    def serve(
        self, metadata: Sequence[tuple[str, str | bytes]], peer: Peer, incoming: Iterator[bytes]
    ) -> Generator[bytes, None, None]:
        """Be the other side of a session that a client opened, until it ends. Raises InvalidInput, Conflict at once.

        The session ends with the generator: close it, also when nothing of it was taken.
        """
        id, shared_key = _one(metadata, ID), _one(metadata, SHARED_KEY)
        if not id or len(id) > _LONGEST_ID or not id.isprintable():
            raise InvalidInput("a session needs an id")
        with self._changed:
            self._require_room(id, peer)
        session = ClientSession(id, shared_key, peer, Tunnel(), watch.read_patience(_one(metadata, watch.CUSTOM)))
        with self._changed:
            try:
                self._require_room(id, peer)
            except Conflict:
                session.close()
                raise
            self._open[id] = session
            self._changed.notify_all()
            self._have_watched()
        pump = self._pump(session, incoming)
        next(pump)  # closing a generator that never began would not end the session
        return pump

    def _require_room(self, id: str, peer: Peer) -> None:
        if id in self._open:
            raise Conflict(f"a session {id[:40]} is open already")
        if sum(one.peer.realm == peer.realm for one in self._open.values()) >= MOST_OF_ONE:
            raise Conflict(f"this client has {MOST_OF_ONE} sessions open already")

    def _pump(self, session: ClientSession, incoming: Iterator[bytes]) -> Generator[bytes, None, None]:
        try:
            yield b""
            yield from session._tunnel.pump(incoming)
        finally:
            self._end(session)

    def _end(self, session: ClientSession) -> None:
        with self._changed:
            if self._open.get(session.id) is session:
                del self._open[session.id]
        session.close()

    def _have_watched(self) -> None:
        """Have a thread look after the sessions while there are any; the guard is held."""
        if self._watcher is None:
            watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
            with suppress(RuntimeError):  # no thread is to be had now: the next session tries again
                watcher.start()
                self._watcher = watcher

    def _watch(self) -> None:
        watching = watch.Watch(self._end)
        while not self._over.wait(watch.TURN):
            with self._changed:
                if not (sessions := list(self._open.values())):
                    self._watcher = None
                    return
            watching.turn(sessions)

    def get(self, id: str, peer: Peer, patience: float = PATIENCE) -> ClientSession:
        """The session of that id, waited for; raises NotFound, also when it is another client's."""
        id = id.rpartition(":")[2]  # a prefix tells contexts of one client apart; sessions have none
        end = time.monotonic() + patience
        with self._changed:
            while True:
                found = self._open.get(id)
                if found is not None and found.peer.realm == peer.realm:
                    return found
                left = end - time.monotonic()
                if left <= 0:
                    raise NotFound(f"no active session for {id[:40]}")
                self._changed.wait(left)

    def close(self) -> None:
        """End all sessions."""
        self._over.set()
        with self._changed:
            sessions = list(self._open.values())
        for session in sessions:
            session.close()


def _one(metadata: Sequence[tuple[str, str | bytes]], key: str) -> str:
    return next((str(value) for name, value in metadata if name.lower() == key), "")
