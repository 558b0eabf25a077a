"""BuildKit's side of the service for Docker's clients: what `/session` and `/grpc` lead to.

Owns the joint between `daemon.engine` and `daemon.service`, so that neither needs the other.
"""

import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc

from kedge.daemon.peer import Peer
from kedge.daemon.sessions.tunnel import Tunnel, socket_pieces
from kedge.daemon.wire import control
from kedge.daemon.wire.calls import Calls
from kedge.model.errors import KedgeError

if TYPE_CHECKING:
    from kedge.daemon.service import Service


class ServiceBridge:
    """`upgrade.BuildKit` over a running BuildKit service."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    def session(
        self, metadata: Sequence[tuple[str, str]], peer: Peer, incoming: Iterator[bytes]
    ) -> Generator[bytes, None, None]:
        return self._service.sessions.serve(metadata, peer, incoming)

    def solve(
        self, peer: Peer, ref: str, session: str, attrs: dict[str, str], names: str, tell: Callable[[bytes], None]
    ) -> str:
        """As a client of our own service would, on behalf of the peer."""
        ours, theirs = socket.socketpair()
        tunnel = Tunnel()
        threads = [
            threading.Thread(target=self.serve, args=(theirs, peer), name="carry", daemon=True),
            threading.Thread(target=_pump, args=(tunnel, ours), name="solve", daemon=True),
        ]
        calls = Calls(tunnel.channel, control.services["Control"])
        threads.append(threading.Thread(target=_listen, args=(calls, ref, tell), name="status", daemon=True))
        try:
            for thread in threads:
                thread.start()
            exporter = control.Exporter(Type="moby", Attrs={"name": names} if names else {})
            request = control.SolveRequest(
                Ref=ref, Session=session, Frontend="dockerfile.v0", FrontendAttrs=attrs, Exporters=[exporter]
            )
            response = calls.unary("Solve", request).ExporterResponse
            threads[-1].join(10)
            return str(response.get("containerimage.config.digest", ""))
        except grpc.RpcError as error:
            raise KedgeError(str(error.details() or "the build failed")) from None
        finally:
            tunnel.close()
            ours.close()

    def serve(self, connection: socket.socket, peer: Peer) -> None:
        self._service.server.carry(connection, peer)


def _pump(tunnel: Tunnel, connection: socket.socket) -> None:
    with suppress(OSError):
        for data in tunnel.pump(socket_pieces(connection)):
            connection.sendall(data)


def _listen(calls: Calls, ref: str, tell: Callable[[bytes], None]) -> None:
    with suppress(grpc.RpcError):
        for message in calls.listen("Status", control.StatusRequest(Ref=ref)):
            tell(message.SerializeToString())
