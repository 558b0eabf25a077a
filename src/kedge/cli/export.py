"""kedge export: an image's file system as one tar."""

import os
from pathlib import Path

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.parse import UsageError


def work(options: Options, console: Console) -> int:
    from kedge.exporters.assemble import Stage
    from kedge.exporters.files import export_tar
    from kedge.exporters.options import ImageOptions
    from kedge.images.lookup import open_image, snapshot_of
    from kedge.model.digest import digest_of
    from kedge.model.platform import of_machine, parse_platform
    from kedge.sources.handler import Work

    if not options.output and console.stdout.isatty():
        raise UsageError("an archive is not written to a terminal", "export", "Use --output, or send it elsewhere.")
    platform = parse_platform(options.platform) if options.platform else None
    image = open_image(console.store(), options.image, platform, of_machine(os.uname().machine))
    stage = Stage(image.config, snapshot_of(console.store(), image))
    destination = Path(options.output) if options.output else console.stdout.buffer
    export_tar(console.store(), [stage], ImageOptions(), destination, Work(digest_of(("export", options.image))))
    return 0


COMMAND = Command(
    "export",
    "Write an image's file system as a tar",
    work,
    (
        Flag("output", "Where to", short="o", metavar="FILE", shown_default="standard output"),
        Flag("platform", "Which of an image's platforms", metavar="OS/ARCH", shown_default="this machine's"),
    ),
    (Argument("IMAGE", complete="image"),),
    description="All layers merged into one tree, without the image's configuration.",
    examples=(("kedge export hello | tar -t", "what is in it?"),),
)
