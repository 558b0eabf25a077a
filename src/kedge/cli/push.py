"""kedge push: an image of the store to a registry."""

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.transfer import PROGRESS, QUIET, shown


def work(options: Options, console: Console) -> int:
    from kedge.exporters.push import publishable, push
    from kedge.images.lookup import find
    from kedge.model.platform import parse_platform
    from kedge.model.reference import parse_reference

    name = parse_reference(options.image)
    record = find(console.store(), options.image)
    platforms = [parse_platform(options.platform)] if options.platform else []
    with shown(console, f"pushing {name}", "quiet" if options.quiet else options.progress) as progress:
        form = options.compression, options.compression_level
        published = publishable(console.store(), record.target, None, *form)
        pushed = push(console.store(), console.registry(), published, [name], progress, platforms=platforms)
    console.print(str(name) if options.quiet else f"{name.tag}: digest: {pushed.digest} size: {pushed.size}")
    return 0


def _level(text: str) -> int:
    from kedge.model.errors import InvalidInput

    if not text.isdecimal() or int(text) > 22:
        raise InvalidInput("expected a number from 0 to 22")
    return int(text)


COMMAND = Command(
    "push",
    "Send an image to a registry",
    work,
    (
        Flag("compression", "How new layers are compressed", metavar="KIND", default="gzip", choices=("gzip", "zstd")),
        Flag("compression-level", "How hard", metavar="N", convert=_level),
        Flag("platform", "Only this one of an image's platforms", metavar="OS/ARCH"),
        PROGRESS,
        QUIET,
    ),
    (Argument("IMAGE", complete="image"),),
    description="Sends what the registry lacks. A broken connection goes on where it stopped.",
    examples=(("kedge push registry.example.internal:5000/team/app:1.0", "the name says where to"),),
    aliases=("image push",),
)
