"""Who is at the other end of a connection, as the kernel or a certificate says.

Owns the question, and what follows from the answer: what all connections of one user have in common, and whether a
socket's file is for that user. Does not know what is spoken.
"""

import os
import socket
import stat
import struct
from typing import Final

from kedge.model.value import dataclass

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid
_PEER_GROUPS: Final = 59  # SO_PEERGROUPS, include/uapi/asm-generic/socket.h


@dataclass(frozen=True, slots=True)
class Peer:
    """A user of this machine, a certificate's name, or nobody known."""

    uid: int | None = None
    pid: int | None = None
    name: str = ""
    gid: int | None = None

    @property
    def realm(self) -> str:
        """What sessions of one client have in common, and no other client has."""
        return f"uid {self.uid}" if self.uid is not None else f"name {self.name}"

    def __str__(self) -> str:
        return f"uid={self.uid} pid={self.pid}" if self.uid is not None else self.name or "unknown"


def peer_of(connection: socket.socket) -> Peer:
    """Who connected to a Unix socket; nobody where the kernel does not say."""
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return Peer()
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return Peer(uid, pid, gid=gid)


def is_for(peer: Peer, connection: socket.socket, listener: socket.socket) -> bool:
    """Is the listening socket's file for the peer: the service's own user, root, or a member of the file's group?

    Whatever the file's mode lets in besides: one that was loosened by accident opens nothing.
    """
    if peer.uid in (os.geteuid(), 0):
        return True
    try:
        status = os.stat(listener.getsockname())
    except (OSError, ValueError, TypeError):
        return False
    if not stat.S_ISSOCK(status.st_mode):
        return False
    return status.st_gid in {peer.gid, *_groups(connection)} and bool(status.st_mode & 0o020)


def _groups(connection: socket.socket) -> tuple[int, ...]:
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, _PEER_GROUPS, 4096)
    except OSError:
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
