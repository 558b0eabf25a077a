"""Words: quotes, escapes and variables of the Dockerfile language.

Owns what `$x`, `${x:-y}`, `'…'`, `"…"` and the escape character mean, and how a text is split into words. Does not know which
instruction expands what, nor where values come from. Reference: docs.docker.com "Environment replacement"; where that is silent,
the tables in conformance/shell decide.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expansion:
    """A text after expansion: as one `text`, and split into `words` at unquoted blanks.

    `matched` and `unmatched` are the names of variables read that were set and not set, each once, in the order of first use.
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

    `raw_quotes` and `raw_escapes` keep those characters in the result (they still quote and escape); `process_quotes=False`
    gives quotes no meaning at all (heredoc bodies); `keep_unset` leaves variables that `env` lacks as they were written. Raises
    DockerfileError without a location, which the caller adds with `.at(location)`: unterminated quote, bad substitution,
    unknown modifier, or the message of `${x:?message}`.
    """
    raise NotImplementedError


def split(text: str, escape: str = "\\") -> tuple[str, ...]:
    """The blank-separated words of `text`, quotes and escapes kept as written; expands nothing. Never fails."""
    raise NotImplementedError
