"""kedge volume rm: volumes removed, with what is in them."""

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.model.errors import KedgeError, NotFound


def work(options: Options, console: Console) -> int:
    from kedge.containers.volumes import Volumes

    volumes = Volumes(console.store().root)
    failed: KedgeError | None = None
    for name in options.volume:
        try:
            volumes.remove(name)
        except KedgeError as error:  # the others are removed all the same, as Docker does
            if not (options.force and isinstance(error, NotFound)):
                failed = failed or error
            continue
        console.print(name)
    if failed:
        raise failed
    return 0


COMMAND = Command(
    "volume rm",
    "Remove volumes with all that is in them",
    work,
    (Flag("force", "A missing one is no error", short="f"),),
    (Argument("VOLUME", many=True),),
    description=""" A volume that a container uses stays, be it stopped. """,
    examples=(("kedge volume rm data", "one"), ("kedge volume rm $(kedge volume ls -q)", "all that none uses")),
)
