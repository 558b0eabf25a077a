"""A Dockerfile as stages of typed instructions.

Owns the split into global ARGs and stages, and lookup by name. Does not know variables' values, images or the graph.
"""

from kedge.dockerfile.findings import Findings
from kedge.dockerfile.instructions import Arg, Command, From
from kedge.dockerfile.parser import Dockerfile, Node, parse
from kedge.dockerfile.read import doc_comment, read_instruction
from kedge.model.errors import DockerfileError, KedgeError, Location
from kedge.model.value import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM and what follows it. `doc` is the comment above FROM that starts with the stage's name."""

    index: int
    source: From
    commands: tuple[Command, ...]
    doc: str = ""

    @property
    def name(self) -> str:
        """The name after AS in lower case, or empty."""
        return self.source.stage

    @property
    def label(self) -> str:
        """What messages call the stage: its name or `stage-N`."""
        return self.source.stage or f"stage-{self.index}"

    @property
    def location(self) -> Location:
        return self.source.location


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A whole Dockerfile, typed: `args` stand before the first stage."""

    file: Dockerfile
    args: tuple[Arg, ...]
    stages: tuple[Stage, ...]


def read_stages(file: Dockerfile, findings: Findings | None = None) -> StagedFile:
    """Type the nodes of `file` and group them into stages; `findings` hears what the reading checks find.

    Raises DockerfileError, with location and nearest word, for anything BuildKit would not accept.
    """
    findings = findings if findings is not None else Findings()
    args: list[Arg] = []
    sources: list[From] = []
    commands: list[list[Command]] = []
    for node in file.nodes:
        typed = _in_stage(sources, node, findings)
        if isinstance(typed, From):
            sources.append(typed)
            commands.append([])
        elif sources:
            commands[-1].append(typed)
        elif isinstance(typed, Arg):
            args.append(typed)
        else:
            hint = "Only ARG may stand before the first FROM."
            raise DockerfileError(f"{typed.name} stands before the first FROM", location=typed.location, hint=hint)
    if not sources:
        raise DockerfileError("the Dockerfile has no stage", hint="Start it with FROM.", location=_first_line(file))
    stages = tuple(
        Stage(index, source, tuple(commands[index]), doc_comment(source.comments, source.stage))
        for index, source in enumerate(sources)
    )
    _check_names(stages, findings)
    _check_casing(stages, findings)
    return StagedFile(file, tuple(args), stages)


def _in_stage(sources: list[From], node: Node, findings: Findings) -> From | Command:
    try:
        return read_instruction(node, findings)
    except KedgeError as error:
        current = sources[-1].stage or f"stage-{len(sources) - 1}" if sources else ""
        raise error.at(node.location, current) from None


def _first_line(file: Dockerfile) -> Location:
    return file.nodes[0].location if file.nodes else Location(file.source, 1, 1)


def _check_names(stages: tuple[Stage, ...], findings: Findings) -> None:
    seen: set[str] = set()
    for stage in stages:
        comments = stage.source.comments
        if stage.name in ("context", "scratch"):
            findings.report("ReservedStageName", stage.location, stage.name, comments=comments)
        if stage.name and stage.name in seen:
            findings.report("DuplicateStageName", stage.location, stage.name, comments=comments)
        seen.add(stage.name)


def _check_casing(stages: tuple[Stage, ...], findings: Findings) -> None:
    """Keywords should all be written in the case that most are; a tie counts as upper case."""
    everything = [typed for stage in stages for typed in (stage.source, *stage.commands)]
    lower = sum(typed.word == typed.word.lower() for typed in everything)
    upper = sum(typed.word == typed.word.upper() for typed in everything)
    for typed in everything:
        wanted = typed.word.lower() if lower > upper else typed.word.upper()
        if typed.word != wanted:
            case = "lowercase" if lower > upper else "uppercase"
            findings.report("ConsistentInstructionCasing", typed.location, typed.word, case, comments=typed.comments)


def read_dockerfile(text: str, name: str = "Dockerfile", findings: Findings | None = None) -> StagedFile:
    """`read_stages` of a text."""
    return read_stages(parse(text, name), findings)
