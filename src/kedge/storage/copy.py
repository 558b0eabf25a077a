"""Copying between trees as COPY and ADD mean it (BuildKit's file op, fsutil's copy).

Owns destination rules, metadata and the copying of bytes. Does not know vertices or layers: the destination is the
writable merged tree of a draft, where the kernel copies up.
"""

from typing import TYPE_CHECKING

from kedge.model import ops
from kedge.storage.checksum import Witness
from kedge.storage.ownership import Ids

if TYPE_CHECKING:
    from kedge.storage.tree import Tree


def copy(
    action: ops.Copy, source: "Tree", dest_fd: int, owner: Ids | None = None, *, witness: Witness | None = None
) -> None:
    """Perform `action` from `source` into the tree whose root is `dest_fd`.

    `owner` None keeps each file's own (0:0 for a client's directory). With `witness`, a file that changed since it was
    checksummed raises SourceError. Raises NotFound for a source that is not there, InvalidInput for a destination of
    the wrong kind or a bad mode, IntegrityError for a hostile archive, StoreError for a full disk. Not atomic.
    """
    raise NotImplementedError
