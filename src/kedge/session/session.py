"""The contract between a build and the client it builds for.

Owns the Protocol. Does not know whether the client is this process (`local.py`) or at the other end of a connection.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from kedge.model.credential import Credential
from kedge.model.value import dataclass


@dataclass(frozen=True, slots=True)
class Wanted:
    """The part of a lent directory that is needed; more may be there. Ignore-file patterns, relative to it.

    `follow` names files and, where they are links, what they lead to; without any, everything. `hint` tells apart what
    a client lends under one name for several uses, so that each is kept for the next time. With `only`, what these
    patterns match, and what all else is called in the file `NAMES`.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow: tuple[str, ...] = ()
    hint: str = ""
    session: str = ""  # id of the session that lends it, where a build has several
    anew: bool = False  # also what has the size and time that it had: those are not to be trusted
    only: tuple[str, ...] | None = None


EVERYTHING = Wanted()
NAMES = ".fsutil-metadata"  # each file's Stat of BuildKit's transfer, behind the length of its message
Progress: TypeAlias = Callable[[int, bool], None]  # bytes so far; is that all


def untold(size: int, done: bool) -> None:
    """A Progress for those who do not listen."""


class Session(Protocol):
    """The client. All methods block, are idempotent and safe from several threads."""

    def directory(self, name: str, wanted: Wanted = EVERYTHING, progress: Progress = untold) -> Path:
        """The directory lent under a name (`context`, `dockerfile`, a named context), unfiltered; raises NotFound.

        At least what is `wanted` of it is there, and stays as it is until the build ends. `progress` hears of a
        transfer, where there is one.
        """

    def secret(self, id: str) -> bytes | None:
        """A secret's bytes, None when there is none of this id. Raises InvalidInput for one that cannot be read."""

    def ssh(self, id: str, uid: int, gid: int, mode: int) -> AbstractContextManager[Path | None]:
        """The path of a socket, with this owner and mode, that speaks the SSH agent protocol while the context lasts.

        None when there is no agent of this id.
        """

    def upload(self, url: str) -> BinaryIO | None:
        """The bytes that are offered once under a URL of the client's own (`http://buildkit-session/ID`), None for
        none.
        """

    def credential(self, registry: str) -> Credential | None:
        """What to send to a registry host, None for nothing."""
