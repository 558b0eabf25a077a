"""What reading code sees of a snapshot: one directory descriptor and, for a client's directory, the filter on it.

Owns the value only. Does not know how it was mounted, nor who closes the descriptor: the context manager that gave it.
"""

from typing import Protocol

from kedge.model.value import dataclass


class Filter(Protocol):
    """What a Tree needs of kedge.model.patterns.Patterns."""

    def matches(self, path: str) -> bool:
        """Is the path (relative, `/`-separated, no leading slash) left out?"""

    def may_match_below(self, directory: str) -> bool:
        """May the directory, left out itself, contain a path that is not?"""


@dataclass(frozen=True, slots=True)
class Tree:
    """The root of a merged file system tree.

    `fd` is an O_PATH (or O_RDONLY) directory descriptor, valid while the context manager that gave the tree is entered;
    use it as `dir_fd` and through `kernel.paths`. `patterns` says which paths are to be treated as absent (None: none).
    `in_place` marks a client's own directory: owned by strangers to the image, possibly changing while it is read,
    never to be written to. `writable` marks a draft's tree.
    """

    fd: int
    patterns: Filter | None = None
    in_place: bool = False
    writable: bool = False
