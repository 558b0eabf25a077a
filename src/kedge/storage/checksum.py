"""The digest of what a selection of files holds: what decides whether COPY is a cache hit.

Owns what counts (path, type, mode, owner, content, link target, device, xattrs; never times). Does not know cache
keys. Files of a client's own directory (`Tree.in_place`) count as owned by 0:0, as BuildKit's clients send them.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kedge.model.cachekey import Selections
from kedge.model.digest import Digest

if TYPE_CHECKING:
    from kedge.storage.stats import StatCache
    from kedge.storage.tree import Tree


@dataclass(slots=True)
class Witness:
    """Which files a checksum read, as (inode, size, mtime, ctime) by path: a later copy of the same tree compares
    them.
    """

    files: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)


def checksum(
    tree: "Tree", selections: Selections, stats: "StatCache | None" = None, witness: Witness | None = None
) -> Digest:
    """The digest of the selected files; equal for equal content on every machine.

    Unchanged files known to `stats` are not read. Raises NotFound naming a path that matches nothing (and the ignore
    pattern that excluded it), SourceError when a file cannot be read or changes meanwhile.
    """
    raise NotImplementedError
