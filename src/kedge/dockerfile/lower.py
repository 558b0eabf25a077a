"""From stages to the graph: `needed_images` asks, the caller answers, `lower` builds.

Pure: the same file, options and images give the same graph, by digest. Behaviour is BuildKit's dockerfile2llb.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kedge.dockerfile.findings import Finding, Findings
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage, SecretUse
from kedge.dockerfile.stages import StagedFile
from kedge.model.errors import Location
from kedge.model.graph import Edge
from kedge.model.image import ImageConfig


@dataclass(frozen=True, slots=True)
class LoweredStage:
    """What a stage became. `edge` is None for an empty root file system; `name` is `stage-N` for an unnamed one."""

    name: str
    index: int
    edge: Edge | None
    config: ImageConfig
    location: Location


@dataclass(frozen=True, slots=True)
class Target:
    """A lowered build. `edge` is None when the image has no files at all.

    `config` is complete but for diff ids, `created` and history times; its history's entries that are not `empty_layer`
    stand in the order of the layers that `edge` adds to those of `base`. `history_locations` tells, for each entry of
    `config.history`, which lines made it (None: the base image). `stages` are those lowered, the target last but for
    order of the file. `epoch` is SOURCE_DATE_EPOCH in seconds.
    """

    edge: Edge | None
    config: ImageConfig
    base: ImageConfig | None = None
    name: str = ""
    history_locations: tuple[Location | None, ...] = ()
    stages: tuple[LoweredStage, ...] = ()
    findings: tuple[Finding, ...] = ()
    secrets: tuple[SecretUse, ...] = ()
    ssh: tuple[SecretUse, ...] = ()
    epoch: int | None = None


def needed_images(
    file: StagedFile, options: LowerOptions, images: Mapping[ImageRequest, ResolvedImage] | None = None
) -> set[ImageRequest]:
    """The images still to be resolved before `lower` can run, given those known.

    Call it again with the answers until it returns nothing: an ONBUILD trigger in an image may name further images.
    Raises DockerfileError, NotFound.
    """
    raise NotImplementedError


def lower(
    file: StagedFile,
    options: LowerOptions,
    images: Mapping[ImageRequest, ResolvedImage],
    findings: Findings | None = None,
) -> Target:
    """The graph and image config of the target stage.

    Every error is a KedgeError with file, line and stage.
    """
    raise NotImplementedError
