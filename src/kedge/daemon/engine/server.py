"""HTTP for all who arrive: a connection's requests, one after the other.

Owns who is refused, what a bug is answered with, and that connections nobody uses end at once when the service does.
Does not know what a request means: `answer` is given each Exchange.

Access is by the socket's file: mode 0660, owner and group. Who connects is asked of the kernel as well: the service's
own user, root, or a member of the socket's group; so that a socket whose mode was loosened by accident opens nothing.
"""

import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

from kedge.daemon.engine.http import Connection, Disconnected, Exchange
from kedge.daemon.listening import Arrival, Listener
from kedge.model.errors import Cancelled


class Server:
    """Use: `listen` for each address, then `start`, then `stop`, then `close`."""

    def __init__(self, answer: Callable[[Exchange], None]) -> None:
        self._answer = answer
        self._listener = Listener(self._arrived)
        self._connections: set[Connection] = set()
        self._guard = threading.Lock()

    def listen(self, address: str, group: str = "") -> None:
        """Serve at `unix://PATH` or `fd://` (systemd). Raises KedgeError."""
        self._listener.listen(address, group)

    def start(self) -> None:
        """Begin to answer."""
        self._listener.start()

    def stop(self) -> None:
        """Take no more connections, and end those that wait for a request."""
        self._listener.stop()
        with self._guard:
            for connection in self._connections:
                if not connection.busy:
                    connection.close()

    def close(self, patience: float = 10.0) -> None:
        """Give what works `patience` seconds, then end that too."""
        self.stop()
        self._listener.end(patience)

    def _arrived(self, arrival: Arrival) -> None:
        connection = Connection(arrival.connection, arrival.peer, self._listener.stopping)
        with self._guard:
            self._connections.add(connection)
        try:
            for exchange in connection.requests():
                if not arrival.entitled:
                    exchange.json(403, {"message": "permission denied: the socket is not yours"})
                    return
                self._one(exchange)
        except (Disconnected, OSError):
            pass
        finally:
            with self._guard:
                self._connections.discard(connection)

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
