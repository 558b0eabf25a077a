"""A gRPC channel to a client's own services, through bytes that the client carries for us.

Owns the reversal: the client opened the connection, yet we are the one who calls. The bytes, HTTP/2, are pumped between
where they come from and a private socket that only our channel connects to. Does not know sessions or services.
"""

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc

_LARGEST_ANSWER = 16 << 20  # bytes of one message of a client's, who is not trusted; as in BuildKit
_OPTIONS = (
    ("grpc.max_receive_message_length", _LARGEST_ANSWER),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.default_authority", "localhost"),
)
_PATIENCE = 20.0  # seconds for our own channel to connect to our own socket
PIECE = 1 << 16
_LONGEST_FOLDER = 50  # bytes; a socket's whole path has 107 at most: unix(7)


def socket_folder() -> str:
    """Where private sockets may be made: the directory for temporary files, unless its name is too long."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= _LONGEST_FOLDER else "/tmp"


class Tunnel:
    """The channel, and the end of the socket that the client's bytes go through."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory(prefix="kedge-session-", dir=socket_folder()) as folder:
            path = Path(folder) / "socket"
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(str(path))
                os.chmod(path, 0o600)
                listener.listen(1)
                listener.settimeout(_PATIENCE)
                self.channel = grpc.insecure_channel(f"unix:{path}", _OPTIONS)
                self.channel.subscribe(_ignore, try_to_connect=True)
                try:
                    self._end, _ = listener.accept()
                except OSError:
                    self.channel.close()
                    raise
                self.channel.unsubscribe(_ignore)  # else a thread looks at the channel five times a second
        self._end.settimeout(None)
        self._heard = False

    def pump(self, incoming: Iterator[bytes]) -> Iterator[bytes]:
        """Carry `incoming` to the channel; yields what the channel sends, until one side ends."""
        threading.Thread(target=self._feed, args=(incoming,), name="session", daemon=True).start()
        with suppress(OSError):
            while data := self._end.recv(PIECE):
                yield data

    def _feed(self, incoming: Iterator[bytes]) -> None:
        with suppress(Exception):  # whatever ends the client's stream ends the session
            for data in incoming:
                self._heard = True
                self._end.sendall(data)
        self.close_socket()

    def heard(self) -> bool:
        """Has anything come since this was asked last?"""
        heard, self._heard = self._heard, False
        return heard

    def close_socket(self) -> None:
        """End the pump, from any thread."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the channel and free the socket; calls under way fail."""
        self.close_socket()
        self.channel.close()
        self._end.close()


def socket_pieces(connection: socket.socket) -> Iterator[bytes]:
    """What arrives on a socket, until it ends."""
    with suppress(OSError):
        while data := connection.recv(PIECE):
            yield data


def _ignore(state: object) -> None:
    """Nobody needs to know the channel's state; asking for it makes it connect."""
