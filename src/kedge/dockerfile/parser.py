"""From text to nodes: one node for each instruction, with its arguments read as its keyword wants.

Owns the shape of an instruction (flags, JSON or shell form, NAME=value lists, heredocs, comments above). Does not
know what instructions mean, which flags exist or what variables are worth: see `instructions`.
"""

from kedge.dockerfile.arguments import READERS, Arguments, read_flags, read_nothing, split_keyword
from kedge.dockerfile.directives import Directive, escape_of, find_directive, read_directives
from kedge.dockerfile.heredoc import Heredoc, heredocs_of
from kedge.dockerfile.lines import BYTE_ORDER_MARK, LineReader, LogicalLine
from kedge.model.errors import DockerfileError, Location, SourceFile
from kedge.model.event import WarningEvent
from kedge.model.value import dataclass, replace

__all__ = ["Directive", "Dockerfile", "Heredoc", "Node", "parse"]

HEREDOC_INSTRUCTIONS = frozenset({"ADD", "COPY", "RUN"})


@dataclass(frozen=True, slots=True)
class Node:
    """One instruction as written.

    `keyword` is spelled as in the text, `name` in upper case (maybe no instruction at all: unknown ones are no error
    here). `flags` are the `--x=y` words before the arguments, quotes and escapes resolved. `args` is all that follows
    them, blanks stripped, continuation lines joined. `values` are the arguments as the keyword has them read:

    - ADD COPY VOLUME: JSON members, or words at blanks (quotes mean nothing here)
    - CMD ENTRYPOINT RUN SHELL: JSON members, or the one text; HEALTHCHECK the same behind its first word (CMD, NONE)
    - ENV LABEL: key, value, separator for each pair; separator is `=`, or empty in the old form `KEY some value`
    - ARG: quote-aware words; EXPOSE FROM: words at blanks; MAINTAINER STOPSIGNAL USER WORKDIR: the one text
    - ONBUILD: none, the instruction is `child` (with the heredocs); an ONBUILD inside an ONBUILD is not read further

    `json` tells whether `values` came from a JSON array. `comments` are the comment lines above, without `#`.
    `original` is the logical line (continuations joined). `location` covers the instruction's lines, heredocs included.
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

    def locate(self, fault: str) -> Location:
        """Where the text `fault` first stands in the instruction, by line and columns; all its lines if nowhere."""
        return self.location.narrowed(fault)


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

    `text` comes from bytes by `lines.decode`, which keeps what is not UTF-8. Unknown instructions are left to
    `instructions`, and other frontends to `directives.require_own_frontend`. Time is linear in the length of `text`.
    """
    source = SourceFile(name, text.removeprefix(BYTE_ORDER_MARK))
    at_top = read_directives(source, indented=True)
    escape_directive = next((d for d in at_top if d.name == "escape"), None)
    escape = escape_of(escape_directive) if escape_directive else "\\"
    reader = LineReader(source, escape, frozenset(d.location.start for d in at_top if d.location))
    nodes, warnings = [], []
    for line in reader:
        nodes.append(_read_instruction(line, reader))
        if line.has_gap:
            warnings.append(_gap_warning(line, source))
    if not nodes:
        raise DockerfileError("the file has no instructions", location=Location(source, 1, max(1, reader.number)))
    found = (find_directive(source, "syntax"), escape_directive, find_directive(source, "check"))
    return Dockerfile(source, tuple(nodes), escape, tuple(d for d in found if d), tuple(warnings))


def _gap_warning(line: LogicalLine, source: SourceFile) -> WarningEvent:
    # Named where it is noticed, at the end of the instruction, as BuildKit does; lint completes and filters it.
    location = Location(source, line.end, line.end)
    return WarningEvent("NoEmptyContinuation", "Empty continuation line", location=location)


def _read_instruction(line: LogicalLine, reader: LineReader) -> Node:
    location = Location(reader.source, line.start, line.end)
    try:
        node = _read_node(line.text, reader.escape, location, line.comments)
        return _with_heredocs(node, reader) if "<<" in line.text and _may_have_heredocs(node) else node
    except DockerfileError as error:
        raise error.at(location) from None


def _read_node(
    text: str, escape: str, location: Location, comments: tuple[str, ...] = (), is_child: bool = False
) -> Node:
    keyword, rest = split_keyword(text)
    flags, args = read_flags(rest, escape)
    name, child, arguments = keyword.upper(), None, Arguments()
    if name != "ONBUILD":
        arguments = READERS.get(name, read_nothing)(args, escape, name)
    elif args and not is_child:
        child = _read_node(args, escape, location, is_child=True)
    return Node(keyword, text, location, flags, args, *arguments, comments=comments, child=child)


def _may_have_heredocs(node: Node) -> bool:
    bearer = node.child or node
    return bearer.name in HEREDOC_INSTRUCTIONS and not bearer.json


def _with_heredocs(node: Node, reader: LineReader) -> Node:
    heredocs = []
    for heredoc in heredocs_of(node.original):
        content = reader.take_body(heredoc.name, heredoc.chomp)
        if content is None:
            hint = f"A line that is {heredoc.name} and nothing else must end it."
            raise DockerfileError(f"the heredoc {heredoc.name} is not ended", location=node.location, hint=hint)
        heredocs.append(replace(heredoc, content=content))
    location = replace(node.location, end=reader.number)
    child = replace(node.child, heredocs=tuple(heredocs), location=location) if node.child else None
    return replace(node, heredocs=tuple(heredocs), location=location, child=child)
