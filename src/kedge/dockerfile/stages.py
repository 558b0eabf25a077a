"""A Dockerfile as stages of typed instructions.

Owns the split into global ARGs and stages, and lookup by name. Does not know variables' values, images or the graph.
"""

from dataclasses import dataclass

from kedge.dockerfile.findings import Findings
from kedge.dockerfile.instructions import Arg, Command, From
from kedge.dockerfile.parser import Dockerfile, parse
from kedge.model.errors import Location


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
    raise NotImplementedError


def read_dockerfile(text: str, name: str = "Dockerfile", findings: Findings | None = None) -> StagedFile:
    """`read_stages` of a text."""
    return read_stages(parse(text, name), findings)
