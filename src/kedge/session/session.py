"""The contract between a build and the client it builds for.

Owns the Protocol. Does not know whether the client is this process (`local.py`) or at the other end of a connection.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of the client's, readable at `path`; `unfiltered` when ignore patterns are still to be applied."""

    path: Path
    unfiltered: bool = True


class Session(Protocol):
    """The client. All methods block, are idempotent and safe from several threads."""

    def directory(self, name: str) -> Directory:
        """The directory lent under a name (`context`, `dockerfile`, a named context); raises NotFound."""

    def secret(self, id: str) -> bytes | None:
        """A secret's bytes, None when there is none of this id. Raises InvalidInput for one that cannot be read."""

    def ssh(self, id: str, uid: int, gid: int, mode: int) -> AbstractContextManager[Path | None]:
        """The path of a socket, with this owner and mode, that speaks the SSH agent protocol while the context lasts.

        None when there is no agent of this id.
        """
