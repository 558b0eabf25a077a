"""Ignore-file patterns: which paths a list of patterns means.

Owns the semantics of .dockerignore files (those of moby/patternmatcher). Does not read files or walk directories.
Matching takes time linear in the path; no pattern can make it explode. See `globs` for how one pattern matches.
"""

import posixpath
from collections.abc import Iterable, Iterator

from kedge.model.errors import InvalidInput
from kedge.model.globs import Automaton, State, glob_match, glob_tokens, ignore_tokens
from kedge.model.value import dataclass

__all__ = ["IgnoreFile", "Patterns", "glob_match", "read_ignore_file"]

_MOST_DIRECTORIES = 65536  # how many a Patterns remembers


class Patterns:
    """An ordered list of ignore patterns: the last one that matches a path, or any directory above it, decides.

    Paths are relative, with `/`; a slash at their end does not count. Raises InvalidInput for a malformed pattern. Not
    changed after construction (results are remembered), safe to share between threads.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(clean_path(line.strip()) for line in lines if line.strip())
        tokens = []
        for line in self.lines:
            text = line.removeprefix("!")
            if not text:
                raise InvalidInput(
                    'the pattern "!" excepts nothing', hint="Write what to keep behind the !, or remove it."
                )
            glob_tokens(text)  # refuses what Go's filepath.Match refuses
            tokens.append(ignore_tokens(text))
        self._automaton = Automaton(tokens)
        self._exceptions = frozenset(index for index, line in enumerate(self.lines) if line.startswith("!"))
        # Of each directory seen: the state behind its slash, and the last pattern to match it or a directory above.
        self._directories: dict[str, tuple[State, int]] = {}

    def __bool__(self) -> bool:
        return bool(self.lines)

    def matches(self, path: str) -> bool:
        """Whether `path` is excluded."""
        return self._excludes(self._decided(path))

    def deciding(self, path: str) -> str | None:
        """The pattern (of `lines`) that decided about `path`: an exclusion or a `!` exception; None if none spoke."""
        decided = self._decided(path)
        return self.lines[decided] if decided >= 0 else None

    def may_match_below(self, directory: str) -> bool:
        """Whether anything below `directory` may be kept: because it is not excluded, or by an exception.

        False: the directory can be pruned. An exception that stands above the line which excludes the directory is
        overruled by it for all that is below, too.
        """
        state, decided = self._below(directory.rstrip("/"))
        if not self._excludes(decided):
            return True
        hopeful = self._automaton.hopeful(state)
        return any(index > decided for index in hopeful & self._exceptions)

    def _excludes(self, index: int) -> bool:
        return index >= 0 and index not in self._exceptions

    def _decided(self, path: str) -> int:
        parent, slash, name = path.rstrip("/").rpartition("/")
        state, decided = self._below(parent) if slash else (self._automaton.start, -1)
        return max(decided, self._automaton.advance(state, name).matched)

    def _below(self, directory: str) -> tuple[State, int]:
        known = self._directories.get(directory)
        if known is None:
            state, decided = self._automaton.start, -1
            for name in directory.split("/"):
                state = self._automaton.advance(state, name)
                decided = max(decided, state.matched)
                state = self._automaton.advance(state, "/")
            if len(self._directories) >= _MOST_DIRECTORIES:
                self._directories.clear()
            known = self._directories[directory] = (state, decided)
        return known


@dataclass(frozen=True, slots=True)
class IgnoreFile:
    """An ignore file's text, and the name to show it under."""

    name: str = ".dockerignore"
    text: str = ""

    @property
    def patterns(self) -> tuple[str, ...]:
        return tuple(read_ignore_file(self.text))

    def line_of(self, pattern: str) -> int:
        """The line, counted from 1, that says `pattern`: the last one, which decides; 0 if none does."""
        return max((number for number, said in _numbered(self.text) if clean_path(said) == pattern), default=0)


def read_ignore_file(text: str) -> list[str]:
    """The patterns of a .dockerignore file: comments, blank lines and a byte order mark dropped, paths cleaned.

    A leading slash means the context's root, as no slash does.
    """
    return [pattern for _, pattern in _numbered(text)]


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        pattern = line.strip()
        if line.startswith("#") or not pattern:
            continue
        mark = "!" if pattern.startswith("!") else ""
        pattern = pattern[len(mark) :].strip()
        if pattern:
            pattern = clean_path(pattern)
            pattern = pattern[1:] if len(pattern) > 1 and pattern.startswith("/") else pattern
        yield number, mark + pattern


def clean_path(path: str) -> str:
    """The shortest equal path by text alone, as Go's path.Clean gives it: `a/./b//../c/` is `a/c`, empty is `.`."""
    clean = posixpath.normpath(path)
    return clean[1:] if clean.startswith("//") else clean  # POSIX leaves two leading slashes open, Go does not
