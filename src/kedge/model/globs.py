"""Globs: the grammar of Go's filepath.Match, with `**` where asked for, and an automaton that matches many at once.

Owns syntax and matching. Does not know what the patterns are for. Matching is a walk through states that are made on
first need and remembered: time is linear in the text, whatever the patterns; a step not yet known costs their length.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from kedge.model.errors import InvalidInput
from kedge.model.value import dataclass, field

Step = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Token:
    """A place in a pattern: which character leads to the next place, which ones keep us here.

    `skips` are the distances to places that are reached from here without any character.
    """

    leads: Step
    stays: Step
    skips: tuple[int, ...] = ()


def _never(character: str) -> bool:
    return False


def _always(character: str) -> bool:
    return True


def _in_name(character: str) -> bool:
    return character != "/"


def _slash(character: str) -> bool:
    return character == "/"


def _literal(expected: str) -> Token:
    return Token(expected.__eq__, _never)


_ANY = Token(_in_name, _never)
_STAR = Token(_never, _in_name, skips=(1,))
_ANYTHING = Token(_never, _always, skips=(1,))
_DIRECTORIES = (Token(_never, _never, skips=(1, 2)), Token(_slash, _always))  # `**/`: nothing, or all up to some `/`


def glob_tokens(pattern: str) -> tuple[Token, ...]:
    """The places of a filepath.Match pattern; raises InvalidInput for malformed ones."""
    return _tokens(pattern, double_stars=False)


def ignore_tokens(pattern: str) -> tuple[Token, ...]:
    """The places of an ignore pattern, where `**` crosses directories; raises InvalidInput for malformed ones."""
    if pattern.startswith("**") and pattern[2:3] != "/" and not set(pattern[2:]) & set("*?[]\\"):
        return (_ANYTHING, *map(_literal, pattern[2:]))  # `**.go` ends any path; with more wildcards, names only
    return _tokens(pattern, double_stars=True)


def _tokens(pattern: str, double_stars: bool) -> tuple[Token, ...]:
    tokens: list[Token] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if double_stars and character == "*" and pattern[position : position + 1] == "*":
            position += 2 if pattern[position + 1 : position + 2] == "/" else 1
            tokens += _DIRECTORIES if position < len(pattern) else (_ANYTHING,)
        elif character == "*":
            tokens.append(_STAR)
        elif character == "?":
            tokens.append(_ANY)
        elif character == "[":
            token, position = _class(pattern, position, strict=double_stars)
            tokens.append(token)
        elif character == "\\":
            escaped, position = _character(pattern, position - 1)
            tokens.append(_literal(escaped))
        else:
            tokens.append(_literal(character))
    return tuple(tokens)


def _class(pattern: str, position: int, strict: bool) -> tuple[Token, int]:
    """The `[a-z]` that begins before `position`; `strict` refuses backward ranges, which match nothing otherwise."""
    negated = pattern[position : position + 1] == "^"
    position += negated
    ranges: list[tuple[str, str]] = []
    while not ranges or pattern[position : position + 1] != "]":
        if pattern[position : position + 1] in ("-", "]"):
            raise _malformed(pattern)
        low, position = _character(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            if pattern[position + 1 : position + 2] in ("-", "]"):
                raise _malformed(pattern)
            high, position = _character(pattern, position + 1)
        if strict and low > high:
            raise _malformed(pattern)
        ranges.append((low, high))
    return Token(lambda c: any(low <= c <= high for low, high in ranges) != negated, _never), position + 1


def _character(pattern: str, position: int) -> tuple[str, int]:
    if pattern[position : position + 1] == "\\":
        position += 1
    if position >= len(pattern):
        raise _malformed(pattern)
    return pattern[position], position + 1


def _malformed(pattern: str) -> InvalidInput:
    return InvalidInput(f"malformed pattern {pattern!r}", hint="Write \\ before a character that shall mean itself.")


# ---- matching --------------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class State:
    """Where all patterns are after one text: `alive` places, and the last of the patterns that match it (-1: none)."""

    alive: tuple[int, ...]
    matched: int
    after: dict[str, "State"] = field(default_factory=dict)


class Automaton:
    """Patterns, as token lists, read side by side. Safe to share between threads: all it changes are memories."""

    _MOST_STATES = 4096

    def __init__(self, patterns: Iterable[Sequence[Token]]) -> None:
        self._tokens: list[Token | None] = []  # None: a pattern's end
        self._owner: list[int] = []  # of each place, the pattern's index
        self._states: dict[tuple[int, ...], State] = {}
        entries = []
        for index, pattern in enumerate(patterns):
            entries.append(len(self._tokens))
            self._tokens += [*pattern, None]
            self._owner += [index] * (len(pattern) + 1)
        self.start = self._state(entries)

    def advance(self, state: State, text: str) -> State:
        """The state after `text`, read from `state`."""
        for character in text:
            state = state.after.get(character) or self._step(state, character)
        return state

    def hopeful(self, state: State) -> set[int]:
        """The patterns that a longer text could still match."""
        return {self._owner[place] for place in state.alive if self._tokens[place] is not None}

    def _step(self, state: State, character: str) -> State:
        places: list[int] = []
        for place in state.alive:
            token = self._tokens[place]
            if token is None:
                continue
            if token.leads(character):
                places.append(place + 1)
            if token.stays(character):
                places.append(place)
        following = self._state(places)
        if len(state.after) < self._MOST_STATES:
            state.after[character] = following
        return following

    def _state(self, places: list[int]) -> State:
        reached, waiting = set(places), list(places)
        while waiting:
            place = waiting.pop()
            token = self._tokens[place]
            for distance in token.skips if token else ():
                if place + distance not in reached:
                    reached.add(place + distance)
                    waiting.append(place + distance)
        key = tuple(sorted(reached))
        known = self._states.get(key)
        if known is None:
            if len(self._states) >= self._MOST_STATES:
                self._forget()
            ends = [self._owner[place] for place in key if self._tokens[place] is None]
            known = self._states[key] = State(key, max(ends, default=-1))
        return known

    def _forget(self) -> None:
        for state in list(self._states.values()):
            state.after.clear()
        self._states.clear()


@lru_cache(maxsize=1024)
def _glob(pattern: str) -> Automaton:
    return Automaton([glob_tokens(pattern)])


def glob_match(pattern: str, path: str) -> bool:
    """Go's filepath.Match on Unix: whether the whole `path` matches; `*` and `?` stop at `/`. Raises InvalidInput."""
    automaton = _glob(pattern)
    return automaton.advance(automaton.start, path).matched >= 0
