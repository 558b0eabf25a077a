"""kedge volume ls: the volumes that `kedge run -v NAME:PATH` and the service have made."""

import time
from typing import Final

from kedge.cli.command import Command, Options
from kedge.cli.console import Console
from kedge.cli.spelling import age, size
from kedge.cli.table import FORMAT, NO_TRUNC, QUIET, Column, listing

COLUMNS: Final = (
    Column("Name", "VOLUME NAME"),
    Column("CreatedSince", "CREATED"),
    Column("Size", "SIZE"),
    Column("Links", "CONTAINERS"),
    Column("Mountpoint", "DIRECTORY"),
)


def work(options: Options, console: Console) -> int:
    from kedge.containers.volumes import Volumes
    from kedge.storage.disk import measure

    volumes = Volumes(console.store().root)
    users = volumes.users()
    records = [
        {
            "Name": each.name,
            "CreatedSince": age(time.time() - each.created),
            "Size": size(measure(each.path).bytes),
            "Links": len(users.get(each.name, ())),
            "Mountpoint": str(each.path),
        }
        for each in volumes.list()
    ]
    for line in listing(records, COLUMNS, options.format, "Name" if options.quiet else "", options.no_trunc):
        console.print(line)
    return 0


COMMAND = Command(
    "volume ls",
    "List volumes",
    work,
    (FORMAT, NO_TRUNC, QUIET),
    examples=(("kedge volume ls", "all, with what they take on disk"),),
)
