"""Instructions that change an image's config and nothing else: `--change` of `docker commit`.

Owns which instructions these are. They are read as the Dockerfile that they would be.
"""

from collections.abc import Sequence
from typing import Final

from kedge.dockerfile.lower import lower, needed_images
from kedge.dockerfile.options import LowerOptions, ResolvedImage
from kedge.dockerfile.parser import parse
from kedge.dockerfile.stages import read_stages
from kedge.model.errors import InvalidInput
from kedge.model.image import ImageConfig
from kedge.model.value import replace

CHANGES: Final = frozenset(
    "CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD SHELL STOPSIGNAL USER VOLUME WORKDIR".split()
)


def check_changes(changes: Sequence[str]) -> None:
    """Raises InvalidInput for one that is none of `CHANGES`."""
    for change in changes:
        word = change.split(maxsplit=1)[0].upper() if change.split() else ""
        if word not in CHANGES or "\n" in change:
            allowed = ", ".join(sorted(CHANGES))
            raise InvalidInput(f"cannot apply the change {change[:80]!r}", hint=f"Changes are one of: {allowed}.")


def changed(config: ImageConfig, changes: Sequence[str]) -> ImageConfig:
    """The config after the changes; its history stays. Raises InvalidInput, DockerfileError."""
    if not changes:
        return config
    check_changes(changes)
    file = read_stages(parse("\n".join(["FROM base", *changes]) + "\n", "--change"))
    options = LowerOptions(target_platform=config.platform, build_platform=config.platform)
    base = ResolvedImage(replace(config, on_build=()))  # its triggers are for builds
    made = lower(file, options, dict.fromkeys(needed_images(file, options), base)).config
    return replace(made, history=config.history, on_build=(*config.on_build, *made.on_build))
