"""Stages tied together, as values that `plan` fills and lowering reads.

Owns their fields. Does not know how they are found.
"""

from kedge.dockerfile import contexts
from kedge.dockerfile.findings import Findings
from kedge.dockerfile.instructions import Command
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage
from kedge.dockerfile.outline import Capture
from kedge.dockerfile.stages import Stage, StagedFile
from kedge.dockerfile.variables import Globals
from kedge.model.errors import Location
from kedge.model.platform import Platform
from kedge.model.value import dataclass, field

SCRATCH = "scratch"


@dataclass(eq=False, slots=True)
class Step:
    """An instruction in a stage; `sources` are the stages its --from or its mounts name, in the mounts' order."""

    command: Command
    sources: list["StagePlan"] = field(default_factory=list)
    onbuild: bool = False


@dataclass(eq=False, slots=True)
class StagePlan:
    """A stage, or an image that --from names (`stage` is None). `base` is the stage it is built on, if it is one.

    `context` replaces the whole stage, `base_context` what it starts from. `total` counts the steps that names show,
    `written` those of them that are not ONBUILD triggers: all that is known when the base is looked up.
    """

    stage: Stage | None
    index: int
    label: str
    base_name: str
    location: Location
    platform: Platform | None = None
    base: "StagePlan | None" = None
    context: contexts.NamedContext | None = None
    base_context: contexts.NamedContext | None = None
    image: ResolvedImage | None = None
    request: ImageRequest | None = None
    steps: list[Step] = field(default_factory=list)
    needs: dict["StagePlan", Step] = field(default_factory=dict)
    total: int = 0
    written: int = 0
    no_cache: bool = False
    triggers_read: bool = False
    capture: Capture = field(default_factory=Capture)

    @property
    def name(self) -> str:
        return self.stage.name if self.stage else ""

    @property
    def called(self) -> str:
        """What errors call the stage; empty for an image that --from names."""
        return self.stage.label if self.stage else ""

    @property
    def comments(self) -> tuple[str, ...]:
        return self.stage.source.comments if self.stage else ()

    @property
    def is_scratch(self) -> bool:
        return self.base is None and self.base_name == SCRATCH and self.context is None


@dataclass(slots=True)
class Plan:
    """All stages in order, images named by --from after them.

    `needed` are those to lower, `missing` images unknown yet.
    """

    file: StagedFile
    options: LowerOptions
    globals: Globals
    findings: Findings
    stages: list[StagePlan] = field(default_factory=list)
    by_name: dict[str, StagePlan] = field(default_factory=dict)
    nameless: dict[str, StagePlan] = field(default_factory=dict)
    target: StagePlan = field(init=False, repr=False)
    needed: list[StagePlan] = field(default_factory=list)
    missing: set[ImageRequest] = field(default_factory=set)

    @property
    def names(self) -> list[str]:
        """What stages are called, for hints."""
        return [plan.label for plan in self.stages if plan.stage and plan.label]
