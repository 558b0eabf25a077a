"""What belongs to a file besides its name and content, as far as an image cares: owner, mode, attributes.

Owns which extended attributes travel and whose owner counts. Does not know destinations.
"""

import os

from kedge.model.value import dataclass
from kedge.storage import ownership
from kedge.storage.ownership import Policy

_HOST_ONLY = ("security.selinux", "security.ima", "security.evm", "security.apparmor", "security.SMACK")
_OF_A_CLIENT = ("user.", "security.capability")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Owner and extended attributes of a file, sorted by name."""

    uid: int
    gid: int
    xattrs: tuple[tuple[str, bytes], ...]


def read_metadata(directory_fd: int, name: str, status: os.stat_result, in_place: bool, how: Policy) -> Metadata:
    """The metadata of a file (not followed).

    A client's files count as root's, and carry only capabilities and `user.` attributes: everything else is the host's.
    overlayfs's own never travel: the destination may be a layer's bare directory, where they would act.
    """
    path = f"/proc/self/fd/{directory_fd}/{name}"
    uid, gid = (0, 0) if in_place else (status.st_uid, status.st_gid)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # a file system without them
        names = []
    pairs = []
    overlay = ownership.overlay_prefix()
    for key in sorted(names):
        if key.startswith((*_HOST_ONLY, overlay)) or (in_place and not key.startswith(_OF_A_CLIENT)):
            continue
        if key.startswith(ownership.PRIVATE_PREFIX):
            record = None
            if not in_place and key == ownership.OWNER_XATTR:
                record = ownership.decode(os.getxattr(path, key, follow_symlinks=False), uid, gid, how)
            if record is None:
                continue
            uid, gid = record.uid, record.gid
            if not record.kind:
                continue
        pairs.append((key, os.getxattr(path, key, follow_symlinks=False)))
    return Metadata(uid, gid, tuple(pairs))
