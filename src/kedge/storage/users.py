"""Users and groups as an image's own /etc/passwd and /etc/group name them: passwd(5), group(5).

Owns the syntax `user[:group]` and bounded parsing; never asks the host's name service. Does not know who asks. Files
are read as data of a stranger: only regular ones, inside the root, never more than 32 MiB, no line over 1 MiB.
"""

import os
import re
import stat
from collections.abc import Iterator

from kedge.kernel import paths
from kedge.model import ops
from kedge.model.errors import InvalidInput, NotFound
from kedge.model.value import dataclass
from kedge.storage.ownership import Ids
from kedge.storage.tree import Tree

_MAX_ID = 2**31 - 1  # what runtimes accept; the kernel's last ids wrap around elsewhere (CVE-2024-40635)
_MAX_FILE = 32 << 20
_MAX_LINE = 1 << 20
_MAX_GROUPS = 65536  # setgroups(2), NGROUPS_MAX
_NUMERIC = re.compile(r"[-+]?(0[xX][0-9a-fA-F]*|[0-9]+)")


@dataclass(frozen=True, slots=True)
class User:
    """Who a process runs as. `groups` are supplementary; `home` is `/` when nothing names one; `name` may be empty."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"
    name: str = ""


def resolve_user(tree: Tree | int | None, text: str) -> User:
    """The user that USER's `text` means in `tree` (or a root descriptor); "" is root; None stands for an empty tree.

    A numeric text is always an id (0 to 2147483647). Supplementary groups are those that list the user, unless a group
    is given. Raises NotFound for a name without an entry, InvalidInput for an id out of range or malformed and for
    files too large to be honest.
    """
    root = tree.fd if isinstance(tree, Tree) else tree
    user, _, group = text.partition(":")
    wanted = _id_or_name(user, "user") if user else 0
    found = _passwd(root, wanted)
    if found is None:
        if isinstance(wanted, str):
            raise NotFound(f"no user {wanted!r} in the image's /etc/passwd")
        found = User(wanted, 0)
    if group:
        return User(found.uid, _group(root, _id_or_name(group, "group")), (), found.home, found.name)
    return User(found.uid, found.gid, _memberships(root, found.name), found.home, found.name)


def resolve_owner(tree: Tree | int | None, owner: ops.Owner) -> Ids:
    """The ids that --chown's `owner` means in `tree`: without a group, a name's own one or the same number as the id.

    Raises as `resolve_user` does; BuildKit makes an unknown name root's, silently.
    """
    root = tree.fd if isinstance(tree, Tree) else tree
    ids = Ids(0, 0)
    if isinstance(owner.user, int):
        ids = Ids(_checked(owner.user, "user"), owner.user)
    elif owner.user is not None:
        wanted = _id_or_name(owner.user, "user")
        found = User(wanted, wanted) if isinstance(wanted, int) else _passwd(root, wanted)
        if found is None:
            raise NotFound(f"no user {wanted!r} in the image's /etc/passwd")
        ids = Ids(found.uid, found.gid)
    if isinstance(owner.group, int):
        return Ids(ids.uid, _checked(owner.group, "group"))
    return ids if owner.group is None else Ids(ids.uid, _group(root, _id_or_name(owner.group, "group")))


def _id_or_name(text: str, what: str) -> int | str:
    """A number if the text looks like one in any notation, which must then be plain decimal in range; else a name."""
    if not _NUMERIC.fullmatch(text.strip()):
        if any(character.isspace() or not character.isprintable() for character in text):
            raise InvalidInput(f"invalid {what} {text!r}")
        return text
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"invalid {what} id {text!r}: expected decimal digits only")
    return _checked(int(text) if len(text) < 20 else _MAX_ID + 1, what, text)


def _checked(value: int, what: str, text: str = "") -> int:
    if not 0 <= value <= _MAX_ID:
        raise InvalidInput(f"invalid {what} id {text or value}: it must be between 0 and {_MAX_ID}")
    return value


def _passwd(root: int | None, wanted: int | str) -> User | None:
    """The first entry with that name, or id; an entry whose ids are no numbers in range is none."""
    for fields in _entries(root, "/etc/passwd", isinstance(wanted, str)):
        if len(fields) < 4 or (isinstance(wanted, str) and fields[0] != wanted):
            continue
        uid, gid = _entry_id(fields[2]), _entry_id(fields[3])
        if uid is None or gid is None or (isinstance(wanted, int) and uid != wanted):
            continue
        return User(uid, gid, home=fields[5] if len(fields) > 5 and fields[5] else "/", name=fields[0])
    return None


def _group(root: int | None, wanted: int | str) -> int:
    if isinstance(wanted, int):
        return wanted
    for fields in _entries(root, "/etc/group", True):
        if len(fields) > 2 and fields[0] == wanted and (gid := _entry_id(fields[2])) is not None:
            return gid
    raise NotFound(f"no group {wanted!r} in the image's /etc/group")


def _memberships(root: int | None, name: str) -> tuple[int, ...]:
    if not name:
        return ()
    groups: dict[int, None] = {}
    for fields in _entries(root, "/etc/group", False):
        if len(fields) > 3 and name in fields[3].split(",") and (gid := _entry_id(fields[2])) is not None:
            groups[gid] = None
            if len(groups) > _MAX_GROUPS:
                raise InvalidInput(f"the image's /etc/group puts {name!r} into more than {_MAX_GROUPS} groups")
    return tuple(groups)


def _entry_id(text: str) -> int | None:
    valid = text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= _MAX_ID
    return int(text) if valid else None


def _entries(root: int | None, path: str, required: bool) -> Iterator[list[str]]:
    """The fields of each line. What is no regular file counts as absent, or with `required` says so."""
    fd = None if root is None else _open(root, path, required)
    if fd is None:
        return
    with open(fd, "rb") as file:
        if os.fstat(fd).st_size > _MAX_FILE:
            raise InvalidInput(f"the image's {path} is larger than {_MAX_FILE >> 20} MiB")
        taken = 0
        while line := file.readline(_MAX_LINE + 1):
            taken += len(line)
            if len(line) > _MAX_LINE or taken > _MAX_FILE:
                raise InvalidInput(f"a line of the image's {path} is longer than {_MAX_LINE >> 20} MiB")
            text = line.decode("utf-8", "surrogateescape").strip()
            if text and not text.startswith("#"):
                yield text.split(":")


def _open(root: int, path: str, required: bool) -> int | None:
    """Looked at by an O_PATH descriptor before it is opened: a FIFO would block, a device act (CVE-2024-9676)."""
    try:
        seen = paths.open_in_root(root, path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if required and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise InvalidInput(f"cannot read the image's {path}: {error.strerror}") from None
        return None
    try:
        before = os.fstat(seen)
        if not stat.S_ISREG(before.st_mode):
            if required:
                raise InvalidInput(f"the image's {path} is no regular file")
            return None
        fd = os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(seen)
    return fd
