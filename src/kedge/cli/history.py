"""kedge history: how an image came to be, newest first."""

import calendar
import re
import time
from collections.abc import Iterator
from typing import Any, Final

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.spelling import age, short_id, size
from kedge.cli.stored import StoredImage, find, opened
from kedge.cli.table import FORMAT, NO_TRUNC, QUIET, Column, listing

COLUMNS: Final = (
    Column("ID", "IMAGE"),
    Column("CreatedSince", "CREATED"),
    Column("CreatedBy", "CREATED BY", longest=45),
    Column("Size", "SIZE"),
    Column("Comment", "COMMENT"),
)


def work(options: Options, console: Console) -> int:
    store = console.store()
    image = opened(store, find(store, options.image))
    records = list(records_of(image, options.no_trunc, options.human))
    for line in listing(records, COLUMNS, options.format, "ID" if options.quiet else "", options.no_trunc):
        console.print(line)
    return 0


def records_of(image: StoredImage, full: bool, human: bool = True) -> Iterator[dict[str, Any]]:
    """One record for each entry of the config's history; the newest bears the image's id."""
    sizes = list(image.layer_sizes)
    entries = []
    for entry in image.config.history:
        entries.append((entry, 0 if entry.empty_layer or not sizes else sizes.pop(0)))
    image_id = image.record.id if full else short_id(image.record.id)
    for position, (entry, count) in enumerate(reversed(entries)):
        created = moment(entry.created) or image.record.created_at
        yield {
            "ID": "<missing>" if position else image_id,
            "CreatedSince": age(time.time() - created),
            "CreatedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
            "CreatedBy": entry.created_by.replace("\t", " "),
            "Size": size(count) if human else str(count),
            "Comment": entry.comment,
        }


def moment(text: str) -> float | None:
    """The seconds since the epoch that an RFC 3339 text means; None for none, or the times images have for "unknown"."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|([+-])(\d\d):(\d\d))", text)
    if not match:
        return None
    try:
        seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
    if match[2]:
        seconds -= int(match[2] + "1") * (int(match[3]) * 3600 + int(match[4]) * 60)
    # Kedge's own images carry a fixed time instead of a clock's (315532801, 1980): the store's record says when.
    return float(seconds) if seconds > 315532801 else None


COMMAND = Command(
    "history",
    "Show how an image was made",
    work,
    (FORMAT, Flag("human", "Show sizes and times as a person reads them", short="H", default=True), NO_TRUNC, QUIET),
    (Argument("IMAGE", complete="image"),),
    examples=(("kedge history --no-trunc hello", "with whole commands and ids"),),
    aliases=("image history",),
)
