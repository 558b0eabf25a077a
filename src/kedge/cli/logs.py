"""kedge logs: the whole output of build steps, which the store keeps."""

import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from kedge.cli.command import Argument, Command, Options
from kedge.cli.console import Console
from kedge.cli.spelling import age, short_id, size
from kedge.cli.table import FORMAT, NO_TRUNC, QUIET, Column, listing
from kedge.model.errors import NotFound

if TYPE_CHECKING:
    from kedge.storage.logs import LogRecord
    from kedge.storage.store import Store

COLUMNS: Final = (
    Column("ID", "ID"),
    Column("StartedSince", "STARTED"),
    Column("Size", "SIZE"),
    Column("Step", "STEP", longest=80),
)


def work(options: Options, console: Console) -> int:
    store = console.store()
    if options.step:
        _show(store, options.step, console)
        return 0
    records = [_record(log, options.no_trunc) for log in store.logs.list()]
    for line in listing(records, COLUMNS, options.format, "ID" if options.quiet else "", options.no_trunc):
        console.print(line)
    return 0


def _show(store: "Store", text: str, console: Console) -> None:
    """Copy the newest log whose id starts with the text, or whose step's name holds it, to standard output."""
    found = next((log for log in store.logs.list() if _matches(log, text)), None)
    stream = store.logs.open(found.vertex) if found else None
    if stream is None:
        raise NotFound(f"no log of a step {text!r}", hint="`kedge logs` lists what there is.")
    console.stdout.flush()
    with stream:
        shutil.copyfileobj(stream, sys.stdout.buffer)


def _matches(log: "LogRecord", text: str) -> bool:
    return log.vertex.removeprefix("sha256:").startswith(text.removeprefix("sha256:")) or text in log.name


def _record(log: "LogRecord", full: bool) -> dict[str, Any]:
    return {
        "ID": log.vertex if full else short_id(log.vertex),
        "StartedSince": age(time.time() - log.started),
        "Size": size(log.size),
        "Step": " ".join(log.name.split()),
    }


COMMAND = Command(
    "logs",
    "Show the whole output of build steps",
    work,
    (FORMAT, NO_TRUNC, QUIET),
    (Argument("STEP", optional=True),),
    description="""
    Without STEP, lists the logs that the store keeps, newest first. STEP is the start of an id, or a part of the step's
    name; the newest log that fits is shown. A step that runs again replaces its log.
    """,
    examples=(("kedge logs", "which are there?"), ("kedge logs 'RUN make test'", "the last output of that step")),
)
