"""kedge pull: an image from a registry into the store."""

import os

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.transfer import PROGRESS, QUIET, shown
from kedge.model.platform import Platform, of_machine, parse_platform


def work(options: Options, console: Console) -> int:
    platform = parse_platform(options.platform) if options.platform else of_machine(os.uname().machine)
    console.print(pull(console, options.image, platform, "quiet" if options.quiet else options.progress))
    return 0


def pull(console: Console, text: str, platform: Platform, mode: str) -> str:
    """Bring an image with all its layers, showing how far it is; returns its full name. Raises RegistryError."""
    from kedge.model.reference import parse_reference
    from kedge.sources.image import ImageSource

    reference = parse_reference(text)
    with shown(console, f"pulling {reference}", mode) as progress:
        ImageSource(console.store(), console.registry()).pull(reference, platform, progress)
    return str(reference)


COMMAND = Command(
    "pull",
    "Bring an image from a registry into the store",
    work,
    (
        Flag("platform", "Which of an image's platforms", metavar="OS/ARCH", shown_default="this machine's"),
        PROGRESS,
        QUIET,
    ),
    (Argument("IMAGE"),),
    examples=(("kedge pull alpine:3.20", "from Docker Hub"), ("kedge pull registry:5000/app@sha256:…", "by digest")),
    aliases=("image pull",),
)
