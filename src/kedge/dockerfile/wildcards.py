"""Shell patterns inside `${name#pattern}` and its kin: `*` and `?`, no brackets.

Owns their matching, which takes time linear in the value for each `*`-free run of the pattern: nothing backtracks.
Does not know variables. Reference: POSIX "Pattern Matching Notation", without bracket expressions, as BuildKit has
it.
"""

import re
from collections.abc import Iterator

from kedge.model.errors import DockerfileError

_ANY = None  # the token for `?`; a `*` separates runs of tokens
_MAX_RUN_WITH_ANY = 100  # only runs with `?` cost their length for each character of the value

_Run = list[str | None]


class Wildcard:
    """A parsed pattern. Raises DockerfileError for a backslash before anything but `* ? } /` and itself."""

    def __init__(self, pattern: str) -> None:
        self._runs = list(_parse(pattern))

    def without_prefix(self, value: str, *, longest: bool) -> str:
        """`value` without the shortest or longest prefix that matches."""
        return _without_prefix(self._runs, value, longest)

    def without_suffix(self, value: str, *, longest: bool) -> str:
        """`value` without the shortest or longest suffix that matches."""
        mirrored = [run[::-1] for run in reversed(self._runs)]
        return _without_prefix(mirrored, value[::-1], longest)[::-1]

    def replace(self, value: str, replacement: str, *, everywhere: bool) -> str:
        """`value` with the first or every leftmost longest match replaced; the replacement is literal."""
        if len(self._runs) == 1 and self._runs[0] and (literal := _literal(self._runs[0])) is not None:
            return value.replace(literal, replacement, -1 if everywhere else 1)
        parts, position = [], 0
        finders = [_Finder(run) for run in self._runs]
        while (found := _search(finders, value, position)) is not None:
            start, end = found
            parts += [value[position:start], replacement]
            if end == start:  # an empty match: step over one character, as it would match here forever
                parts.append(value[end : end + 1])
                end += 1
            position = end
            if not everywhere or position > len(value) or (len(finders) > 1 and position >= len(value)):
                break
        return "".join(parts) + value[position:]


class _Finder:
    """Finds one run of literal characters and `?` in a text."""

    def __init__(self, run: _Run) -> None:
        self.length = len(run)
        self._literal = _literal(run)
        if self._literal is None:
            if len(run) > _MAX_RUN_WITH_ANY:
                raise DockerfileError(f"the pattern has more than {_MAX_RUN_WITH_ANY} characters around a ?")
            source = "".join("." if t is _ANY else re.escape(t) for t in run)
            self._forward = re.compile(source, re.DOTALL)
            self._backward = re.compile("".join("." if t is _ANY else re.escape(t) for t in reversed(run)), re.DOTALL)

    def at_start(self, text: str) -> bool:
        if self._literal is not None:
            return text.startswith(self._literal)
        return self._forward.match(text) is not None

    def first(self, text: str, start: int) -> int:
        if self._literal is not None:
            return text.find(self._literal, start)
        match = self._forward.search(text, start)
        return match.start() if match else -1

    def last(self, text: str, start: int) -> int:
        """The last position at or behind `start`."""
        if self._literal is not None:
            return text.rfind(self._literal, start)
        match = self._backward.search(text[start:][::-1])
        return len(text) - match.end() if match else -1


def _literal(run: _Run) -> str | None:
    return None if _ANY in run else "".join(token for token in run if token is not None)


def _parse(pattern: str) -> Iterator[_Run]:
    run: _Run = []
    characters = iter(pattern)
    for character in characters:
        if character == "*":
            yield run
            run = []
        elif character == "?":
            run.append(_ANY)
        elif character == "\\":
            run.append(_escaped(next(characters, "")))
        else:
            run.append(character)
    yield run


def _escaped(character: str) -> str:
    if character in ("*", "?", "\\", "}", "/"):
        return character
    raise DockerfileError(
        f"invalid escape \\{character} in a pattern", hint="Only * ? / } and \\ can be escaped there."
    )


def _without_prefix(runs: list[_Run], value: str, longest: bool) -> str:
    first, *others = [_Finder(run) for run in runs]
    if not first.at_start(value):
        return value
    end = _chain(others, value, first.length, longest)
    return value if end is None else value[end:]


def _search(finders: list[_Finder], value: str, position: int) -> tuple[int, int] | None:
    """The leftmost match at or behind `position`, the longest one there."""
    first, *others = finders
    start = first.first(value, position)
    if start < 0:
        return None
    end = _chain(others, value, start + first.length, longest=True)
    return None if end is None else (start, end)


def _chain(finders: list[_Finder], value: str, end: int, longest: bool) -> int | None:
    """Where a match ends that has reached `end` and goes on with a `*` before each of `finders`.

    Taking every run at its first place leaves most room for those behind it; only the last run decides how long the
    match is.
    """
    for index, finder in enumerate(finders):
        is_last = index == len(finders) - 1
        place = finder.last(value, end) if longest and is_last else finder.first(value, end)
        if place < 0:
            return None
        end = place + finder.length
    return end
