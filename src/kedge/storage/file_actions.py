"""The small file actions: making files and directories, removing, linking.

Owns their meaning (BuildKit's file op). Does not know vertices or layers; `root_fd` is the root of a writable merged
tree, and no path leaves it.
"""

from kedge.model import ops
from kedge.storage.ownership import Ids


def make_file(action: ops.MakeFile, root_fd: int, owner: Ids | None = None) -> None:
    """Write `data` at `path`, following symlinks; an existing file keeps its mode. Raises NotFound without a parent."""
    raise NotImplementedError


def make_dir(action: ops.MakeDir, root_fd: int, owner: Ids | None = None) -> None:
    """Make `path`; one that exists is left as it is. With `parents`, missing ones are made alike. Raises NotFound."""
    raise NotImplementedError


def remove(action: ops.Remove, root_fd: int) -> None:
    """Remove `path` and all below it; its last component is not followed. Raises NotFound unless `allow_not_found`."""
    raise NotImplementedError


def symlink(action: ops.Symlink, root_fd: int, owner: Ids | None = None) -> None:
    """Make a symlink at `path` with `target` verbatim. Raises Conflict when `path` exists."""
    raise NotImplementedError
