"""A lowered build, as values.

Owns what `lower` returns and the builder, the exporters and the checks read. Does not know how it came to be.
"""

from kedge.dockerfile.findings import Finding
from kedge.dockerfile.options import SecretUse
from kedge.dockerfile.outline import Outline
from kedge.model.errors import Location
from kedge.model.graph import Edge
from kedge.model.image import ImageConfig
from kedge.model.value import dataclass


@dataclass(frozen=True, slots=True)
class LoweredStage:
    """What a stage became. `edge` is None for an empty root file system; `name` is `stage-N` for an unnamed one.

    `base` is the image at the bottom, as FROM names it ("scratch"; empty for a context). `scan` is set when
    BUILDKIT_SBOM_SCAN_STAGE asks for the stage's packages in the SBOM, which has those of the target anyway.
    """

    name: str
    index: int
    edge: Edge | None
    config: ImageConfig
    location: Location
    scan: bool = False
    base: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A lowered build. `edge` is None when the image has no files at all.

    `config` is complete but for diff ids, and `created` where `epoch` (SOURCE_DATE_EPOCH in seconds) is None. Its
    history's entries that are not `empty_layer` stand in the order of the layers: first those of `base` (the base
    image's config), then those `edge` adds. `history_locations` tells, for each entry of `config.history`, which
    lines made it (None: the base image). `stages` are those lowered, in the order of the file, `name` is the
    target's; `base_location` is the FROM that names the image at the bottom. `is_copied` tells that other stages copy
    out of the target or of a stage it stands on: it is no final stage. `context` is the build context as far as it is
    used.
    """

    edge: Edge | None
    config: ImageConfig
    outline: Outline
    base: ImageConfig | None = None
    name: str = ""
    history_locations: tuple[Location | None, ...] = ()
    stages: tuple[LoweredStage, ...] = ()
    findings: tuple[Finding, ...] = ()
    epoch: int | None = None
    context: Edge | None = None
    scan_context: bool = False
    base_name: str = ""
    base_location: Location | None = None
    is_copied: bool = False

    @property
    def secrets(self) -> tuple[SecretUse, ...]:
        """The secrets that steps name."""
        return self.outline.secrets

    @property
    def ssh(self) -> tuple[SecretUse, ...]:
        """The SSH agents that steps name."""
        return self.outline.ssh
