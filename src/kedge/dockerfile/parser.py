"""From text to nodes: one node for each instruction, with its arguments read as its keyword wants.

Owns the shape of an instruction (flags, JSON or shell form, NAME=value lists, heredocs, comments above). Does not know what
instructions mean, which flags exist or what variables are worth: see `instructions`.
"""

from dataclasses import dataclass

from kedge.dockerfile.heredoc import Heredoc
from kedge.model.errors import Location, SourceFile
from kedge.model.event import WarningEvent


@dataclass(frozen=True, slots=True)
class Directive:
    """A parser directive: `# name=value` at the top. `value` is the whole text behind `=`; `word` its part before a blank."""

    name: str
    value: str
    location: Location | None = None

    @property
    def word(self) -> str:
        return self.value.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Node:
    """One instruction as written.

    `keyword` is spelled as in the text, `name` in upper case (maybe no instruction at all: unknown ones are not an error here).
    `flags` are the `--x=y` words before the arguments, quotes and escapes resolved. `args` is all that follows them, blanks
    stripped, continuation lines joined. `values` are the arguments as the keyword has them read:

    - ADD COPY VOLUME: JSON members, or words at blanks (quotes mean nothing here)
    - CMD ENTRYPOINT RUN SHELL: JSON members, or the one text; HEALTHCHECK the same behind its first word (CMD, NONE)
    - ENV LABEL: key, value, separator for each pair; separator is `=`, or empty in the old form `KEY some value`
    - ARG: quote-aware words; EXPOSE FROM: words at blanks; MAINTAINER STOPSIGNAL USER WORKDIR: the one text
    - ONBUILD: none, the instruction is `child`

    `json` tells whether `values` came from a JSON array. `comments` are the comment lines right above, without `#`.
    `original` is the logical line (continuations joined). `location` covers the instruction's lines, heredoc bodies included.
    """

    keyword: str
    original: str
    location: Location
    flags: tuple[str, ...] = ()
    args: str = ""
    values: tuple[str, ...] = ()
    json: bool = False
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()
    child: "Node | None" = None

    @property
    def name(self) -> str:
        return self.keyword.upper()

    @property
    def pairs(self) -> tuple[tuple[str, str, str], ...]:
        """ENV and LABEL: (key, value, separator)."""
        return tuple(zip(self.values[0::3], self.values[1::3], self.values[2::3], strict=True))


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole file: `escape` is its escape character, `directives` those read, `warnings` what the text alone shows."""

    source: SourceFile
    nodes: tuple[Node, ...]
    escape: str = "\\"
    directives: tuple[Directive, ...] = ()
    warnings: tuple[WarningEvent, ...] = ()

    def directive(self, name: str) -> Directive | None:
        """The directive `syntax`, `check` or `escape`, if the file has it."""
        return next((d for d in self.directives if d.name == name), None)


def parse(text: str, name: str = "Dockerfile") -> Dockerfile:
    """The nodes of a Dockerfile's text; raises DockerfileError with a Location.

    `text` comes from bytes by `lines.decode`, which keeps what is not UTF-8. Unknown instructions are left to `instructions`.
    Time is linear in the length of `text`.
    """
    raise NotImplementedError


def dump(file: Dockerfile) -> str:
    """The tree in the notation of BuildKit's parser tests, one instruction a line."""
    raise NotImplementedError
