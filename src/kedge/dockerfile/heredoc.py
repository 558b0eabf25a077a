"""Heredocs: recognising `<<NAME` words and what their bodies are.

Owns the redirection word's grammar. Does not know which instructions may have one; `parser` reads the bodies.
"""

import re
from dataclasses import dataclass

_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Heredoc:
    """One heredoc: `content` is the body as written, lines with their ends, without the terminator line.

    `expand` is False when any part of the name was quoted: variables in the body are then literal. `chomp` (`<<-`) asks for
    leading tabs to be removed, which `body` has done. `fd` is the number before `<<`, 0 when there is none.
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
    """The heredoc that a word announces (no content yet), None if it announces none; raises DockerfileError for a bad quote."""
    raise NotImplementedError


def heredocs_of(line: str) -> tuple[Heredoc, ...]:
    """All heredocs that a logical line announces, in order, without content."""
    raise NotImplementedError
