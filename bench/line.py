"""A slow line to a registry: the same for every peer, so that what overlaps with a download shows."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def slow_line(target: str, rate: float) -> Iterator[str]:
    """An address on loopback that passes on to `target`; from there come `rate` bytes a second on each connection."""
    host, _, port = target.partition(":")
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_accept, args=(server, (host, int(port)), rate), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(server: socket.socket, target: tuple[str, int], rate: float) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        there = socket.create_connection(target)
        for one, other, limit in ((client, there, 0.0), (there, client, rate)):
            threading.Thread(target=_pump, args=(one, other, limit), daemon=True).start()


def _pump(source: socket.socket, dest: socket.socket, rate: float) -> None:
    with suppress(OSError):
        due = time.monotonic()
        while data := source.recv(1 << 16):
            dest.sendall(data)
            if rate:
                due = max(due, time.monotonic() - 0.1) + len(data) / rate
                time.sleep(max(0, due - time.monotonic()))
    with suppress(OSError):
        dest.shutdown(socket.SHUT_WR)
