"""Ignore-file patterns and globs: which paths a list of patterns means.

Owns the semantics of .dockerignore files (those of moby/patternmatcher) and of Go's filepath.Match. Does not read files or walk
directories. Matching takes time linear in the path for each pattern; no pattern can make it explode.
"""

from collections.abc import Iterable


class Patterns:
    """An ordered list of ignore patterns: the last one that matches a path, or any directory above it, decides.

    Paths are relative, with `/`, without leading `./`. Raises InvalidInput for a pattern that is malformed. Not changed after
    construction (results may be remembered), safe to share between threads.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        raise NotImplementedError

    @property
    def lines(self) -> tuple[str, ...]:
        """The patterns in force, cleaned, in order."""
        raise NotImplementedError

    @property
    def has_exceptions(self) -> bool:
        """Whether any pattern begins with `!`."""
        raise NotImplementedError

    def __bool__(self) -> bool:
        raise NotImplementedError

    def matches(self, path: str) -> bool:
        """Whether `path` is excluded."""
        raise NotImplementedError

    def deciding(self, path: str) -> str | None:
        """The pattern (as in `lines`) that decided about `path`: an exclusion or a `!` exception; None if none spoke."""
        raise NotImplementedError

    def may_match_below(self, directory: str) -> bool:
        """Whether anything below an *excluded* `directory` may be kept by an exception; False: the directory can be pruned."""
        raise NotImplementedError


def read_ignore_file(text: str) -> list[str]:
    """The patterns of a .dockerignore file: comments, blank lines and a byte order mark dropped, paths cleaned."""
    raise NotImplementedError


def glob_match(pattern: str, path: str) -> bool:
    """Go's filepath.Match on Unix: whether the whole `path` matches; `*` and `?` stop at `/`. Raises InvalidInput."""
    raise NotImplementedError
