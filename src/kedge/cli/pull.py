"""kedge pull: an image from a registry into the store."""

import os

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.model.errors import KedgeError
from kedge.model.platform import Platform, of_machine, parse_platform
from kedge.model.value import replace
from kedge.progress.display import MODES


def work(options: Options, console: Console) -> int:
    platform = parse_platform(options.platform) if options.platform else of_machine(os.uname().machine)
    name = pull(console, options.image, platform, "quiet" if options.quiet else options.progress)
    console.print(name)
    return 0


def pull(console: Console, text: str, platform: Platform, progress: str) -> str:
    """Bring an image with all its layers, showing how far it is; returns its full name. Raises RegistryError."""
    import time

    from kedge.model.digest import digest_of
    from kedge.model.event import VertexEvent
    from kedge.model.reference import parse_reference
    from kedge.progress.display import Screen, choose
    from kedge.sources.handler import Work
    from kedge.sources.image import ImageSource

    reference = parse_reference(text)
    event = VertexEvent(digest_of(("pull", text)), f"pulling {reference}", started=time.time())
    with Screen(choose(progress, console.stderr)) as screen:
        screen(event)
        try:
            ImageSource(console.store(), console.registry()).pull(reference, platform, Work(event.vertex, screen))
        except KedgeError as error:
            screen(replace(event, completed=time.time(), error=error.message))
            raise
        screen(replace(event, completed=time.time()))
    return str(reference)


COMMAND = Command(
    "pull",
    "Bring an image from a registry into the store",
    work,
    (
        Flag("platform", "Which of an image's platforms", metavar="OS/ARCH", shown_default="this machine's"),
        Flag("progress", "How to show the transfer", metavar="MODE", default="auto", choices=MODES),
        Flag("quiet", "Show nothing but the image's name", short="q"),
    ),
    (Argument("IMAGE"),),
    examples=(("kedge pull alpine:3.20", "from Docker Hub"), ("kedge pull registry:5000/app@sha256:…", "by digest")),
    aliases=("image pull",),
)
