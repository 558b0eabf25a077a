"""Who owns a file of an image, where the kernel may not let us say so.

Owns the choice between real ownership (chown, mknod) and the record in the extended attribute `user.kedge.owner`, written
when this process cannot give files to others, and the names of overlayfs's attributes. Does not know tar or layers.

A record is trusted only by an unprivileged process, and with several mapped ids only on files of namespace root: any
process of a build step that owns a file could forge one.
"""

from dataclasses import dataclass
from enum import Enum

from kedge.kernel import identity

OWNER_XATTR = "user.kedge.owner"
PRIVATE_PREFIX = "user.kedge."


class Policy(Enum):
    """`REAL`: root of the initial namespace. `MAPPED`: several ids in a user namespace. `SINGLE`: one id only."""

    REAL = "real"
    MAPPED = "mapped"
    SINGLE = "single"


@dataclass(frozen=True, slots=True)
class Ids:
    """A user and a group id as the image sees them."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Record:
    """What `user.kedge.owner` says: the owner, and for an empty file that stands for a device its `kind` (`c`, `b`, `p`)."""

    uid: int
    gid: int
    kind: str = ""
    major: int = 0
    minor: int = 0

    def encode(self) -> bytes:
        """`uid:gid` or `uid:gid:kind:major:minor`."""
        raise NotImplementedError


def policy() -> Policy:
    """How this process can own files."""
    raise NotImplementedError


def overlay_prefix() -> str:
    """The prefix of the extended attributes that overlayfs obeys here: `trusted.overlay.` or `user.overlay.`."""
    return "trusted.overlay." if identity.current().privileged else "user.overlay."


def give(path: str | int, ids: Ids, *, directory_fd: int | None = None) -> None:
    """Make `path` (a name in `directory_fd`, not followed, or a descriptor) belong to `ids`, really or by record."""
    raise NotImplementedError


def recorded(path: str | int, uid: int, gid: int) -> Record | None:
    """The trusted record of a file whose real owner is `uid:gid`; None where there is none or none may be trusted."""
    raise NotImplementedError
