"""Heredocs: recognising `<<NAME` words and what their bodies are.

Owns the redirection word's grammar. Does not know which instructions may have one; `parser` reads the bodies.
"""

import re

from kedge.dockerfile.words import expand
from kedge.model.errors import DockerfileError
from kedge.model.value import dataclass

_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)
_WORD = re.compile(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)")
_MAX_FD_DIGITS = 9  # no process has more descriptors


@dataclass(frozen=True, slots=True)
class Heredoc:
    """One heredoc: `content` is the body as written, lines with their ends, without the terminator line.

    `expand` is False when any part of the name was quoted: variables in the body are then literal. `chomp` (`<<-`)
    asks for leading tabs to be removed, which `body` has done. `fd` is the number before `<<`, 0 when there is none.
    """

    name: str
    fd: int = 0
    expand: bool = True
    chomp: bool = False
    content: str = ""

    @property
    def body(self) -> str:
        """The content, leading tabs removed if `<<-` asked for it."""
        return _LEADING_TABS.sub("", self.content) if self.chomp else self.content


def parse_heredoc(word: str) -> Heredoc | None:
    """The heredoc that a word announces (no content yet), None if it announces none.

    Raises DockerfileError for a quote that is not closed.
    """
    match = _WORD.fullmatch(word)
    if match is None or not match[3]:
        return None
    names = expand(match[3], {}, keep_unset=True).words
    if len(names) != 1:
        return None
    name, raw = names[0], "".join(expand(match[3], {}, keep_unset=True, raw_quotes=True).words)
    if len(match[1]) > _MAX_FD_DIGITS:
        raise DockerfileError(f"the file descriptor of the heredoc {name} is too large")
    # Quotes that are in the raw form only have quoted something: then the body is literal.
    return Heredoc(name, int(match[1] or 0), _quotes(name) == _quotes(raw), match[2] == "-")


def heredocs_of(line: str) -> tuple[Heredoc, ...]:
    """All heredocs that a logical line announces, in order, without content."""
    try:
        words = expand(line, {}, raw_quotes=True, raw_escapes=True, keep_unset=True).words
    except DockerfileError:
        return ()  # the line is a shell's to judge: what is no word here can be one there
    return tuple(heredoc for word in words if "<<" in word and (heredoc := parse_heredoc(word)) is not None)


def _quotes(word: str) -> int:
    return word.count("'") + word.count('"')
