"""kedge import: an image of a root file system archive."""

import os
from typing import BinaryIO

from kedge.cli.build_flags import pair
from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.parse import UsageError
from kedge.model.errors import NotFound


def work(options: Options, console: Console) -> int:
    from kedge.images.import_root import import_root
    from kedge.model.digest import digest_of
    from kedge.model.platform import of_machine, parse_platform
    from kedge.model.reference import parse_reference
    from kedge.sources.handler import Work

    platform = parse_platform(options.platform) if options.platform else of_machine(os.uname().machine)
    names = [parse_reference(options.name)] if options.name else []
    with _opened(options.file, console) as stream:
        made = import_root(
            console.store(),
            stream,
            platform,
            Work(digest_of(("import", options.file))),
            names,
            options.change,
            options.message,
            dict(options.label),
        )
    console.print(made.id)
    return 0


def _opened(text: str, console: Console) -> BinaryIO:
    if text == "-":
        if console.stdin.isatty():
            raise UsageError("- reads an archive from standard input, which is a terminal", "import")
        return console.stdin
    if text.startswith(("http://", "https://")):
        raise UsageError(
            "kedge import takes a file or -, no URL", "import", f"Try: curl -L {text} | kedge import - NAME"
        )
    try:
        return open(text, "rb")
    except OSError as error:
        raise NotFound(f"cannot read {text}: {error.strerror}") from None


COMMAND = Command(
    "import",
    "Make an image of a root file system archive",
    work,
    (
        Flag("change", "Apply a Dockerfile instruction to the image", short="c", metavar="INSTRUCTION", many=True),
        Flag("label", "Set a label", metavar="KEY=VALUE", many=True, convert=pair),
        Flag("message", "What the history says", short="m", metavar="TEXT", default=""),
        Flag("platform", "The platform it is for", metavar="OS/ARCH", shown_default="this machine's"),
    ),
    (Argument("FILE"), Argument("NAME[:TAG]", optional=True)),
    description="FILE is a tar, plain or compressed, or - for standard input. It becomes the one layer of the image.",
    examples=(
        ("kedge import rootfs.tar.gz base:1", "from a file"),
        ("mmdebstrap bookworm | kedge import --change 'CMD [\"bash\"]' - debian:mine", "from a pipe"),
    ),
    aliases=("image import",),
)
