"""BuildKit's side of the service for Docker's clients: what `/session` and `/grpc` lead to.

Owns the joint between `daemon.engine` and `daemon.service`, so that neither needs the other.
"""

import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kedge.daemon.engine.http import Peer
from kedge.daemon.sessions import registry

if TYPE_CHECKING:
    from kedge.daemon.service import Service


class ServiceBridge:
    """`upgrade.BuildKit` over a running BuildKit service."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    def session(self, metadata: Sequence[tuple[str, str]], peer: Peer, incoming: Iterator[bytes]) -> Iterator[bytes]:
        return self._service.sessions.serve(metadata, registry.Peer(peer.uid, peer.pid), incoming)

    def serve(self, connection: socket.socket, peer: Peer) -> None:
        self._service.server.carry(connection, registry.Peer(peer.uid, peer.pid))
