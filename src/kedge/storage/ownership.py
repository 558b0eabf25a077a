"""Who owns a file of an image, where the kernel may not let us say so.

Owns the choice between real ownership (chown, mknod) and the record in the extended attribute `user.kedge.owner`,
written when this process cannot give files to others, and the prefix of overlayfs's attributes. Does not know tar or
layers.

A record is trusted only by an unprivileged process, and with several mapped ids only on files of the namespace's root:
any process of a build step that owns a file could forge one. Symlinks, FIFOs and devices cannot carry `user.`
attributes (xattr(7)): their owner is then root.
"""

import errno
import os
from enum import Enum

from kedge.kernel import identity
from kedge.model.value import dataclass

OWNER_XATTR = "user.kedge.owner"
PRIVATE_PREFIX = "user.kedge."
_NOT_ALLOWED = (errno.EPERM, errno.EINVAL, errno.EOVERFLOW)  # chown(2): EINVAL for an id that is not mapped
_NO_XATTRS = (errno.EOPNOTSUPP, errno.EPERM, errno.ENODATA)


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
    """What `user.kedge.owner` says: the owner, and for an empty file that stands for a device its `kind` (`c`, `b`)."""

    uid: int
    gid: int
    kind: str = ""
    major: int = 0
    minor: int = 0

    def encode(self) -> bytes:
        """`uid:gid` or `uid:gid:kind:major:minor`."""
        text = f"{self.uid}:{self.gid}"
        return (f"{text}:{self.kind}:{self.major}:{self.minor}" if self.kind else text).encode()


def policy() -> Policy:
    """How this process can own files."""
    who = identity.current()
    if who.privileged:
        return Policy.REAL
    return Policy.SINGLE if who.single_id or who.uid != 0 else Policy.MAPPED


def overlay_prefix() -> str:
    """The prefix of the extended attributes that overlayfs obeys here: `trusted.overlay.` or `user.overlay.`."""
    return "trusted.overlay." if identity.current().privileged else "user.overlay."


def give(target: int | str, uid: int, gid: int, how: Policy, directory_fd: int | None = None) -> None:
    """Make `target` (a descriptor, or a name in `directory_fd` that is not followed) belong to `uid:gid`, or record
    it.
    """
    if how is not Policy.SINGLE:
        try:
            if isinstance(target, int):
                os.fchown(target, uid, gid)
            else:
                os.chown(target, uid, gid, dir_fd=directory_fd, follow_symlinks=False)
        except OSError as error:
            if how is Policy.REAL or error.errno not in _NOT_ALLOWED:
                raise
        else:
            return
    if (uid, gid) != (os.geteuid(), os.getegid()):
        record(target, Record(uid, gid), directory_fd)


def record(target: int | str, value: Record, directory_fd: int | None = None) -> None:
    """Write the record, where the file can carry one."""
    try:
        if isinstance(target, int):
            os.setxattr(target, OWNER_XATTR, value.encode())
        else:
            os.setxattr(f"/proc/self/fd/{directory_fd}/{target}", OWNER_XATTR, value.encode(), follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            raise


def decode(value: bytes, uid: int, gid: int, how: Policy) -> Record | None:
    """The record that `value` spells, if it may be trusted on a file whose real owner is `uid:gid`."""
    if how is Policy.REAL or (how is Policy.MAPPED and (uid or gid)):
        return None
    parts = value.decode("ascii", "replace").split(":")
    numbers = parts[:2] + parts[3:]
    if len(parts) not in (2, 5) or not all(part.isdecimal() and len(part) <= 10 for part in numbers):
        return None
    kind = parts[2] if len(parts) == 5 else ""
    return Record(int(parts[0]), int(parts[1]), kind, *map(int, parts[3:])) if kind in ("", "c", "b") else None
