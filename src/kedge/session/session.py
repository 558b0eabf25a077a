"""The contract between a build and the client it builds for.

Owns the Protocol. Does not know whether the client is this process (`local.py`) or at the other end of a connection.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from kedge.model.credential import Credential


class Session(Protocol):
    """The client. All methods block, are idempotent and safe from several threads."""

    def directory(self, name: str) -> Path:
        """The directory lent under a name (`context`, `dockerfile`, a named context), unfiltered; raises NotFound."""

    def secret(self, id: str) -> bytes | None:
        """A secret's bytes, None when there is none of this id. Raises InvalidInput for one that cannot be read."""

    def ssh(self, id: str, uid: int, gid: int, mode: int) -> AbstractContextManager[Path | None]:
        """The path of a socket, with this owner and mode, that speaks the SSH agent protocol while the context lasts.

        None when there is no agent of this id.
        """

    def credential(self, registry: str) -> Credential | None:
        """What to send to a registry host, None for nothing."""
