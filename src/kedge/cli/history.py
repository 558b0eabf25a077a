"""kedge history: how an image came to be, newest first."""

import calendar
import re
import time
from typing import Any, Final

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.spelling import age, short_id, size
from kedge.cli.table import FORMAT, NO_TRUNC, QUIET, Column, listing

COLUMNS: Final = (
    Column("ID", "IMAGE"),
    Column("CreatedSince", "CREATED"),
    Column("CreatedBy", "CREATED BY", longest=45),
    Column("Size", "SIZE"),
    Column("Comment", "COMMENT"),
)


def work(options: Options, console: Console) -> int:
    from kedge.images.history import history
    from kedge.images.lookup import find
    from kedge.images.stored import opened

    store = console.store()
    rows = history(store, opened(store, find(store, options.image)))
    records = [record_of(row, options.no_trunc, options.human) for row in rows]
    for line in listing(records, COLUMNS, options.format, "ID" if options.quiet else "", options.no_trunc):
        console.print(line)
    return 0


def record_of(row: Any, full: bool, human: bool = True) -> dict[str, Any]:
    """What a template may ask of an entry."""
    created = row.created if row.created is not None else moment(row.created_text)
    return {
        "ID": "<missing>" if row.id is None else row.id if full else short_id(row.id),
        "CreatedSince": "N/A" if created is None else age(time.time() - created),
        "CreatedAt": "N/A" if created is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
        "CreatedBy": row.created_by.replace("\t", " "),
        "Size": size(row.size) if human else str(row.size),
        "Comment": row.comment,
    }


def moment(text: str) -> float | None:
    """The seconds since the epoch that an RFC 3339 text means; None for none or another text."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|([+-])(\d\d):(\d\d))", text)
    if not match:
        return None
    try:
        seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
    if match[2]:
        seconds -= int(match[2] + "1") * (int(match[3]) * 3600 + int(match[4]) * 60)
    return float(seconds)


COMMAND = Command(
    "history",
    "Show how an image was made",
    work,
    (FORMAT, Flag("human", "Show sizes as a person reads them", short="H", default=True), NO_TRUNC, QUIET),
    (Argument("IMAGE", complete="image"),),
    examples=(("kedge history --no-trunc hello", "with whole commands and ids"),),
    aliases=("image history",),
)
