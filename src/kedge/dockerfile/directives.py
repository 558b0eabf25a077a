"""Parser directives: `# syntax=`, `# escape=` and `# check=` at the very top.

Owns where a directive is seen and which frontends Kedge stands in for. Does not know what `check` asks for: see `lint`.
Reference: docs.docker.com "Parser directives"; a `syntax` is also found behind `//` and in a JSON text, as by BuildKit.
"""

import json
import re
from collections.abc import Iterator

from kedge.dockerfile.lines import BLANKS, BYTE_ORDER_MARK, without_end
from kedge.model.errors import DockerfileError, Location, SourceFile, Unsupported
from kedge.model.value import dataclass

KNOWN = ("syntax", "escape", "check")
ESCAPES = ("\\", "`")
_NAME = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=(.+)", re.DOTALL)
_OWN_FRONTEND = re.compile(r"(?:[^/@]+/)*docker/dockerfile(?:-upstream)?(?::[^/@]*)?(?:@.*)?")


@dataclass(frozen=True, slots=True)
class Directive:
    """A directive as read: `value` is the whole text behind `=`, `word` its part before the first space."""

    name: str
    value: str
    location: Location | None = None

    @property
    def word(self) -> str:
        return self.value.partition(" ")[0]


def read_directives(source: SourceFile, *, indented: bool = False) -> tuple[Directive, ...]:
    """The known directives above everything else, in order; raises DockerfileError for one given twice.

    `indented` allows blanks before `#`, as the parser itself does when it looks for `escape`.
    """
    found: dict[str, Directive] = {}
    for directive in _scan(source, 1, "#", indented):
        if directive.name in found:
            raise DockerfileError(f"only one {directive.name} directive can be used", location=directive.location)
        found[directive.name] = directive
    return tuple(found.values())


def find_directive(source: SourceFile, name: str) -> Directive | None:
    """The directive `name`, also behind a `#!` line; `syntax` also in a text that is no Dockerfile (`//`, JSON)."""
    source = SourceFile(source.name, source.text.removeprefix(BYTE_ORDER_MARK))
    first_line = 2 if source.text.startswith("#!") else 1
    prefixes = ("#", "//") if name == "syntax" else ("#",)
    for prefix in prefixes:
        seen: set[str] = set()
        for directive in _scan(source, first_line, prefix, indented=False):
            if directive.name in seen:
                break  # a repeated directive ends the search: what stands above it counts
            if directive.name == name:
                return directive
            seen.add(directive.name)
    return _from_json(source, first_line) if name == "syntax" else None


def escape_of(directive: Directive) -> str:
    """The escape character that an `escape` directive sets; raises DockerfileError."""
    if directive.value not in ESCAPES:
        error = DockerfileError(
            f"invalid escape character {directive.value!r}", hint="Use \\ or `.", fault=directive.value
        )
        raise error.at(directive.location)
    return directive.value


class ForeignFrontend(Unsupported):
    """A text that is for the frontend `image`, with `command_line` as what the `syntax` line says altogether."""

    def __init__(self, directive: Directive) -> None:
        self.image, self.command_line = directive.word, directive.value
        super().__init__(
            f"the frontend image {directive.word} cannot be run",
            location=directive.location,
            hint="Kedge itself reads what docker/dockerfile:1 reads. Remove the syntax line, name that image, or build "
            "through `kedge serve`, which runs frontends.",
        )


def require_own_frontend(directive: Directive | None) -> None:
    """Raises ForeignFrontend for a `syntax` that names another than Docker's; Kedge serves any version of that."""
    if directive is not None and not _OWN_FRONTEND.fullmatch(directive.word):
        raise ForeignFrontend(directive)


def _scan(source: SourceFile, first_line: int, prefix: str, indented: bool) -> Iterator[Directive]:
    rest, number = source.text, 0
    while rest:  # at most a few rounds: directives are few, and any other line ends the scan
        line, _, rest = rest.partition("\n")
        number += 1
        if number < first_line:
            continue
        line = without_end(line)
        match = _match(line.lstrip(BLANKS) if indented else line, prefix)
        if match is None:
            return
        yield Directive(*match, Location(source, number, number))


def _match(line: str, prefix: str) -> tuple[str, str] | None:
    if not line.startswith(prefix):
        return None
    match = _NAME.fullmatch(line[len(prefix) :].lstrip(BLANKS))
    if match is None or match[1].lower() not in KNOWN:
        return None
    return match[1].lower(), match[2].strip("\t\n\f\r ") or match[2][-1]


def _from_json(source: SourceFile, line: int) -> Directive | None:
    text = source.text.partition("\n")[2] if line > 1 else source.text
    if not text.lstrip(" \t\r\n").startswith("{"):
        return None
    try:
        value = json.loads(text).get("syntax")
    except (ValueError, RecursionError):
        return None
    return Directive("syntax", value, Location(source, line, line)) if isinstance(value, str) else None
