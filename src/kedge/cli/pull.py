"""kedge pull: an image from a registry into the store."""

import os
from typing import TYPE_CHECKING

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.transfer import NO_REFERRERS, PROGRESS, QUIET, shown
from kedge.model.errors import KedgeError
from kedge.model.platform import Platform, of_machine, parse_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kedge.model.digest import Digest
    from kedge.model.reference import Reference
    from kedge.sources.handler import Work


def work(options: Options, console: Console) -> int:
    platform = parse_platform(options.platform) if options.platform else of_machine(os.uname().machine)
    mode = "quiet" if options.quiet else options.progress
    console.print(pull(console, options.image, platform, mode, referrers=not options.no_referrers))
    return 0


def pull(console: Console, text: str, platform: Platform, mode: str, *, referrers: bool = False) -> str:
    """Bring an image with all its layers, showing how far it is; returns its full name. Raises RegistryError.

    With `referrers` also what refers to it; that this cannot be had is told, and no error: the image is there.
    """
    from kedge.model.reference import parse_reference
    from kedge.sources.image import ImageSource

    reference, failure = parse_reference(text), None
    with shown(console, f"pulling {reference}", mode) as progress:
        image = ImageSource(console.store(), console.registry()).pull(reference, platform, progress)
        if referrers:
            failure = _pull_referrers(console, reference, (image.target.digest, image.descriptor.digest), progress)
    if failure:
        print(f"WARNING: what refers to {reference.familiar} was left behind: {failure.message}", file=console.stderr)
    return str(reference)


def _pull_referrers(
    console: Console, reference: "Reference", subjects: "Sequence[Digest]", progress: "Work"
) -> KedgeError | None:
    from kedge.exporters.copy_image import copy_referrers
    from kedge.exporters.places import RegistryReader, StoreWriter

    reader = RegistryReader(console.registry(), reference.repository_only)
    try:
        copy_referrers(reader, StoreWriter(console.store()), subjects, progress)
    except KedgeError as error:
        return error
    return None


COMMAND = Command(
    "pull",
    "Bring an image from a registry into the store",
    work,
    (
        Flag("platform", "Which of an image's platforms", metavar="OS/ARCH", shown_default="this machine's"),
        NO_REFERRERS,
        PROGRESS,
        QUIET,
    ),
    (Argument("IMAGE"),),
    description="What refers to the image (attestations, signatures) comes along; `kedge manifest inspect` shows it.",
    examples=(("kedge pull alpine:3.20", "from Docker Hub"), ("kedge pull registry:5000/app@sha256:…", "by digest")),
    aliases=("image pull",),
)
