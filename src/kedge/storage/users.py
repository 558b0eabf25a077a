"""Users and groups as an image's own /etc/passwd and /etc/group name them.

Owns the syntax `user[:group]` and bounded parsing; never asks the host's name service. Does not know who asks.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kedge.model import ops
from kedge.storage.ownership import Ids

if TYPE_CHECKING:
    from kedge.storage.tree import Tree


@dataclass(frozen=True, slots=True)
class User:
    """Who a process runs as. `groups` are supplementary; `home` is `/` when nothing names one; `name` may be empty."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"
    name: str = ""


def resolve_user(tree: "Tree | int | None", text: str) -> User:
    """The user that USER's `text` means in `tree` (or a root descriptor); "" is root; None stands for an empty tree.

    A numeric text is always an id (0 to 2147483647). Raises NotFound for a name without an entry, InvalidInput for an
    id out of range or malformed (CVE-2024-40635) and for files too large to be honest.
    """
    raise NotImplementedError


def resolve_owner(tree: "Tree | int | None", owner: ops.Owner) -> Ids:
    """The ids that --chown's `owner` means in `tree`: a missing group is the user's own for a name, the same number
    for an id.
    """
    raise NotImplementedError
