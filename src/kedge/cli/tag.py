"""kedge tag: one more name for an image."""

from kedge.cli.command import Argument, Command, Options
from kedge.cli.console import Console


def work(options: Options, console: Console) -> int:
    from kedge.images.tagging import tag

    tag(console.store(), options.image, options.new_name)
    return 0


COMMAND = Command(
    "tag",
    "Give an image one more name",
    work,
    arguments=(Argument("IMAGE", complete="image"), Argument("NEW_NAME")),
    examples=(("kedge tag hello hello:1.0", "the same image under two names"),),
    aliases=("image tag",),
)
