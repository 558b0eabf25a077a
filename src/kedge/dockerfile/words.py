"""Words: quotes, escapes and variables of the Dockerfile language.

Owns what `$x`, `${x:-y}`, `'…'`, `"…"` and the escape character mean, and how a text is split into words. Does not
know which instruction expands what, nor where values come from. Reference: docs.docker.com "Environment replacement";
where that is silent, the tables in conformance/shell decide.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from kedge.dockerfile.lines import BLANKS
from kedge.dockerfile.wildcards import Wildcard
from kedge.model.errors import DockerfileError
from kedge.model.value import dataclass

MAX_RESULT = (
    16 * 1024 * 1024
)  # characters: variables that double themselves must end in an error, not in the OOM killer
MAX_DEPTH = 50  # of ${a:-${b:-…}}; each level costs some Python frames

_BLANK = re.compile(f"[{BLANKS}]+")
_SPECIAL_PARAMETERS = "@*#?-$!0"  # POSIX 2.5.2: never set here
_MODIFIERS = "+-?#%"
_MODIFIERS_HINT = (
    "There are ${x:-w} ${x-w} ${x:+w} ${x+w} ${x:?m} ${x?m} ${x#p} ${x##p} ${x%p} ${x%%p} ${x/p/r} ${x//p/r}."
)


@dataclass(frozen=True, slots=True)
class Expansion:
    """A text after expansion: as one `text`, and split into `words` at unquoted blanks.

    `matched` and `unmatched` are the names of variables read that were set and not set, each once, in the order of
    first use.
    """

    text: str
    words: tuple[str, ...]
    matched: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


def expand(
    text: str,
    env: Mapping[str, str],
    escape: str = "\\",
    *,
    raw_quotes: bool = False,
    raw_escapes: bool = False,
    process_quotes: bool = True,
    keep_unset: bool = False,
) -> Expansion:
    """`text` with its variables replaced by `env` and its quotes and escapes resolved.

    `raw_quotes` and `raw_escapes` keep those characters in the result (they still quote and escape);
    `process_quotes=False` gives quotes no meaning at all (heredoc bodies); `keep_unset` leaves variables that `env`
    lacks as they were written. Raises DockerfileError without a location, which the caller adds with `.at(location)`:
    unterminated quote, bad substitution, unknown modifier, the message of `${x:?message}`, or a result that outgrows
    all sense.
    """
    return _Expander(text, env, escape, raw_quotes, process_quotes, keep_unset).run(raw_escapes)


def split(text: str, escape: str = "\\") -> tuple[str, ...]:
    """The blank-separated words of `text`, quotes and escapes kept as written; expands nothing. Never fails.

    An escape character at the very end is dropped.
    """
    return tuple(_word_pattern(escape).findall(text))


@lru_cache
def _word_pattern(escape: str) -> re.Pattern[str]:
    e = re.escape(escape)
    double_quoted = rf'"(?:{e}.|[^"{e}])*"?'
    return re.compile(rf"""(?:{e}.|'[^']*'?|{double_quoted}|[^'"{e}{BLANKS}]+)+""", re.DOTALL)


@lru_cache
def _plain_pattern(escape: str) -> re.Pattern[str]:
    return re.compile(rf"""[^$<'"{re.escape(escape)}]+""")


class _Words:
    """Collects words: raw text sticks together, other text is cut at its blanks."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._current: list[str] = []

    def add(self, text: str) -> None:
        first, *others = _BLANK.split(text)
        self.add_raw(first)
        for word in others:
            self.flush()
            self.add_raw(word)

    def add_raw(self, text: str) -> None:
        self._current.append(text)

    def flush(self) -> None:
        word = "".join(self._current)
        if word:  # `""` alone makes no word
            self.done.append(word)
        self._current.clear()


class _Expander:
    """One pass over one text, by index; nested `${…}` recurse, at most MAX_DEPTH deep."""

    def __init__(
        self, text: str, env: Mapping[str, str], escape: str, raw_quotes: bool, process_quotes: bool, keep_unset: bool
    ) -> None:
        self.text = text
        self.env = env
        self.escape = escape
        self.raw_quotes = raw_quotes
        self.process_quotes = process_quotes
        self.keep_unset = keep_unset
        self.position = 0
        self.depth = 0
        self.produced = 0
        self.plain = _plain_pattern(escape)
        self.matched: dict[str, None] = {}
        self.unmatched: dict[str, None] = {}

    def run(self, raw_escapes: bool) -> Expansion:
        words = _Words()
        text = self._until("", raw_escapes, words)
        words.flush()
        return Expansion(text, tuple(words.done), tuple(self.matched), tuple(self.unmatched))

    # ---- the cursor --------------------------------------------------------------------------------------------------

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _next(self) -> str:
        character = self.text[self.position : self.position + 1]
        self.position += 1
        return character

    # ---- running text ------------------------------------------------------------------------------------------------

    def _until(self, stop: str, raw_escapes: bool, words: _Words | None = None) -> str:
        """The expansion of all up to the character `stop`, which is consumed, or to the end when `stop` is empty."""
        result: list[str] = []
        while character := self._peek():
            if character == stop:
                self.position += 1
                return "".join(result)
            piece, raw = self._piece(character, stop, raw_escapes)
            result.append(piece)
            if words is not None:
                words.add_raw(piece) if raw else words.add(piece)
        if stop:
            raise DockerfileError(f"syntax error: missing {stop!r} in a substitution")
        return "".join(result)

    def _piece(self, character: str, stop: str, raw_escapes: bool) -> tuple[str, bool]:
        """The next piece of running text, and whether blanks in it stick."""
        if character == "$":
            return self._dollar(), False
        if character == "<":
            return self._angle(), True
        if character == "'" and self.process_quotes:
            return self._single_quoted(), True
        if character == '"' and self.process_quotes:
            return self._double_quoted(raw_escapes), True
        if character == self.escape:
            self.position += 1
            escaped = self._next()
            return (character if raw_escapes else "") + escaped, True
        if character in "'\"":
            self.position += 1
            return character, False
        return self._plain(stop), False

    def _plain(self, stop: str) -> str:
        match = self.plain.match(self.text, self.position)
        assert match is not None  # the caller has seen an ordinary character
        end = match.end()
        if stop:
            found = self.text.find(stop, self.position, end)
            end = found if found >= 0 else end
        piece = self.text[self.position : end]
        self.position = end
        return piece

    def _angle(self) -> str:
        """`<`, or `<<` with the blanks behind it, so that `<< EOF` stays one word."""
        start = self.position
        self.position += 1
        if self._peek() == "<":
            self.position += 1
            while self._peek() in ("\t", "\r", " "):
                self.position += 1
        return self.text[start : self.position]

    def _single_quoted(self) -> str:
        start = self.position
        end = self.text.find("'", start + 1)
        if end < 0:
            raise DockerfileError("a single quote is not closed", fault=self.text[start:])
        self.position = end + 1
        return self.text[start : end + 1] if self.raw_quotes else self.text[start + 1 : end]

    def _double_quoted(self, raw_escapes: bool) -> str:
        start, quote = self.position, '"' if self.raw_quotes else ""
        result = [quote]
        self.position += 1
        while character := self._peek():
            if character == '"':
                self.position += 1
                return "".join(result) + quote
            if character == "$":
                result.append(self._dollar())
            elif character == self.escape:
                result.append(self._escape_in_quotes(raw_escapes))
            elif character in "<'":
                self.position += 1
                result.append(character)
            else:
                result.append(self._plain(""))
        raise DockerfileError("a double quote is not closed", fault=self.text[start:])

    def _escape_in_quotes(self, raw_escapes: bool) -> str:
        """Inside double quotes only `"`, `$` and the escape character itself can be escaped."""
        kept = self.escape if raw_escapes else ""
        self.position += 1
        if self._peek() in ('"', "$", self.escape):
            return kept + self._next()
        return kept + (self.escape if self._peek() else "")

    # ---- variables ---------------------------------------------------------------------------------------------------

    def _dollar(self) -> str:
        start = self.position
        self.position += 1
        if self._peek() == "{":
            return self._grown(self._braced())
        name = self._name()
        if not name:
            return "$"
        value = self._value(name)
        if value is None:
            return self.text[start : self.position] if self.keep_unset else ""
        return self._grown(value)

    def _grown(self, value: str) -> str:
        self.produced += len(value)
        if self.produced > MAX_RESULT:
            raise DockerfileError(f"the expanded text is longer than {MAX_RESULT >> 20} MiB")
        return value

    def _value(self, name: str) -> str | None:
        value = self.env.get(name)
        (self.unmatched if value is None else self.matched)[name] = None
        return value

    def _name(self) -> str:
        """Letters, digits and `_`; or digits alone; or one special parameter."""
        start, first = self.position, self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self.position += 1
        elif first and first in _SPECIAL_PARAMETERS:
            self.position += 1
        else:
            while (c := self._peek()) and (c == "_" or c.isalpha() or c.isdecimal()):
                self.position += 1
        return self.text[start : self.position]

    def _braced(self) -> str:
        start = self.position - 1  # at the dollar
        self.position += 1
        if self._peek() in ("", "{", "}", ":"):
            problem = "bad substitution" if self._peek() else "missing '}'"
            raise DockerfileError(f"syntax error: {problem}", fault=self.text[start : self.position + 1])
        name, modifier = self._name(), self._next()
        if modifier == "}":
            value = self._value(name)
            return f"${{{name}}}" if value is None and self.keep_unset else value or ""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise DockerfileError(f"variables are nested more than {MAX_DEPTH} deep")
        result = self._replaced(name) if modifier == "/" else self._modified(name, modifier, start)
        self.depth -= 1
        return result

    def _modified(self, name: str, modifier: str, start: int) -> str:
        """`${name-word}` and its kin; a colon before the modifier makes an empty value count as unset."""
        colon = ":" if modifier == ":" else ""
        modifier = self._next() if colon else modifier
        is_pattern = modifier in ("#", "%")
        if (not colon and (not modifier or modifier not in _MODIFIERS)) or (colon and is_pattern):
            raise self._unsupported(name, colon + modifier, start)
        word = self._until("}", is_pattern)
        value = self._value(name)
        if value is None and self.keep_unset:
            return f"${{{name}{colon}{modifier}{word}}}"
        missing = value is None or (bool(colon) and not value)
        match modifier:
            case "-":
                return word if missing else value or ""
            case "+":
                return "" if missing else word
            case "?":
                if missing:
                    problem = "unset" if value is None else "empty"
                    message = f"{name}: {word or f'is not allowed to be {problem}'}"
                    raise DockerfileError(message, fault=self.text[start : self.position])
                return value or ""
            case "#" | "%":
                return _trimmed(value or "", modifier, word)
        raise self._unsupported(name, colon + modifier, start)

    def _unsupported(self, name: str, modifier: str, start: int) -> DockerfileError:
        message = f"unsupported modifier {modifier!r} in the substitution of {name}"
        return DockerfileError(message, hint=_MODIFIERS_HINT, fault=self.text[start : self.position])

    def _replaced(self, name: str) -> str:
        """`${name/pattern/replacement}`, with a second slash everywhere."""
        everywhere = self._peek() == "/"
        self.position += everywhere
        pattern = self._until("/", raw_escapes=True)
        replacement = self._until("}", raw_escapes=True)
        value = self._value(name)
        if value is None and self.keep_unset:
            return f"${{{name}{'//' if everywhere else '/'}{pattern}/{replacement}}}"
        value = value or ""
        if everywhere and len(replacement) * (len(value) + 1) > MAX_RESULT:
            raise DockerfileError(f"replacing in {name} could make a text longer than {MAX_RESULT >> 20} MiB")
        return Wildcard(pattern).replace(value, replacement, everywhere=everywhere)


def _trimmed(value: str, modifier: str, pattern: str) -> str:
    longest = pattern.startswith(modifier)
    wildcard = Wildcard(pattern[longest:])
    trim = wildcard.without_prefix if modifier == "#" else wildcard.without_suffix
    return trim(value, longest=longest)
