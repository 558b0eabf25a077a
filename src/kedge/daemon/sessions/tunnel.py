"""A gRPC channel to a client's own services, through bytes that the client carries for us.

Owns the reversal: the client opened the connection, yet we are the one who calls. Does not know sessions or services.
"""

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress

from kedge.daemon.wire.channel import Channel

PIECE = 1 << 16
_LONGEST_FOLDER = 50  # bytes; a socket's whole path has 107 at most: unix(7)


def socket_folder() -> str:
    """Where private sockets may be made: the directory for temporary files, unless its name is too long."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= _LONGEST_FOLDER else "/tmp"


class Tunnel:
    """The channel, and what the client's bytes are to it."""

    def __init__(self) -> None:
        self.channel = Channel()
        self._heard = False

    def pump(self, incoming: Iterator[bytes]) -> Iterator[bytes]:
        """Carry `incoming` to the channel; yields what the channel sends, until one side ends."""
        threading.Thread(target=self._feed, args=(incoming,), name="session", daemon=True).start()
        return self.channel.connection.output()

    def _feed(self, incoming: Iterator[bytes]) -> None:
        with suppress(Exception):  # whatever ends the client's stream ends the session
            for data in incoming:
                self._heard = True
                self.channel.connection.feed(data)
        self.close()

    def heard(self) -> bool:
        """Has anything come since this was asked last?"""
        heard, self._heard = self._heard, False
        return heard

    def close(self) -> None:
        """End the pump, from any thread; calls under way fail."""
        self.channel.close()


def socket_pieces(connection: socket.socket) -> Iterator[bytes]:
    """What arrives on a socket, until it ends."""
    with suppress(OSError):
        while data := connection.recv(PIECE):
            yield data
