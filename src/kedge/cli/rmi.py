"""kedge rmi: names taken away, and images that have none left."""

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.model.errors import KedgeError, NotFound


def work(options: Options, console: Console) -> int:
    from kedge.images.tagging import remove

    failed: KedgeError | None = None
    for name in options.image:
        try:
            with console.store().lightened():
                removed = remove(console.store(), name, force=options.force)
        except KedgeError as error:  # the others are removed all the same, as Docker does
            if not (options.force and isinstance(error, NotFound)):
                failed = failed or error
            continue
        for shown in removed.untagged:
            console.print(f"Untagged: {shown}")
        if removed.deleted:
            console.print(f"Deleted: {removed.deleted}")
    if failed:
        raise failed
    return 0


COMMAND = Command(
    "rmi",
    "Remove images",
    work,
    (
        Flag("force", "Remove all names of an image; a missing one is no error", short="f"),
        Flag("no-prune", "Only names are removed, ever", hidden=True),
    ),
    (Argument("IMAGE", many=True, complete="image"),),
    description=""" Removes names. What no name needs any more stays as cache, so that the next build is fast, until
    `kedge prune` or the store's limit takes it. """,
    examples=(("kedge rmi hello:1.0", "one name"), ("kedge rmi -f $(kedge images -q)", "all of them")),
    aliases=("image rm",),
)
