"""kedge load: images from an archive into the store."""

from contextlib import nullcontext
from typing import Any

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.parse import UsageError
from kedge.model.errors import NotFound


def work(options: Options, console: Console) -> int:
    from kedge.images.load import load
    from kedge.images.lookup import shown_name

    with _opened(options.input or options.file, console) as stream:
        loaded = load(console.store(), stream)
    for image in loaded:
        for name in image.names:
            console.print(f"Loaded image: {shown_name(name)}")
        if not image.names:
            console.print(f"Loaded image ID: {image.id}")
    return 0


def _opened(path: str | None, console: Console) -> Any:
    if path in (None, "-"):
        if console.stdin.isatty():
            raise UsageError("the archive comes from standard input, which is a terminal", "load", "Use --input FILE.")
        return nullcontext(console.stdin)
    try:
        return open(str(path), "rb")
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from None


COMMAND = Command(
    "load",
    "Read images from an archive",
    work,
    (
        Flag("input", "The archive", short="i", metavar="FILE", shown_default="standard input"),
        Flag("quiet", "Nothing but names is ever shown", short="q", hidden=True),
    ),
    (Argument("FILE", optional=True),),
    description="Reads OCI image layouts and what `docker save` writes, plain or compressed.",
    examples=(("kedge load -i images.tar", "from a file"), ("docker save app | kedge load", "from Docker")),
    aliases=("image load",),
)
