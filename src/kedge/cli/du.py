"""kedge du: what the store holds and what it takes on disk."""

import time
from collections.abc import Iterator
from typing import Any, Final

from kedge.cli.command import Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.filters import FILTER, is_true, parse_filters
from kedge.cli.spelling import age, size
from kedge.cli.table import FORMAT, NO_TRUNC, Column, listing
from kedge.model.errors import IntegrityError
from kedge.model.value import replace

COLUMNS: Final = (
    Column("ID", "ID"),
    Column("Kind", "KIND"),
    Column("Reclaimable", "RECLAIMABLE"),
    Column("Size", "SIZE"),
    Column("LastUsed", "LAST USED"),
    Column("Description", "DESCRIPTION", longest=60),
)
FILTERS: Final = ("id", "in-use", "kind", "shared", "type")


def work(options: Options, console: Console) -> int:
    store = console.store()
    if options.verify:
        return _verify(console)
    filters = parse_filters(options.filter, FILTERS, "du")
    usage = [item for item in store.usage(unnamed=False) if _matches(item, filters)]
    if options.format:
        for line in listing(
            [_record(item, options.no_trunc) for item in usage], COLUMNS, options.format, full=options.no_trunc
        ):
            console.print(line)
        return 0
    if options.verbose:
        for line in listing([_record(item, options.no_trunc) for item in usage], COLUMNS, None, full=options.no_trunc):
            console.print(line)
        console.print()
    for line in _summary(usage):
        console.print(line)
    return 0


def _verify(console: Console) -> int:
    faults = console.store().verify()
    for fault in faults:
        console.print(fault)
    if faults:
        raise IntegrityError(f"the store has {len(faults)} fault{'s' if len(faults) > 1 else ''}")
    console.print("The store is sound: every blob has its digest, every record its files.")
    return 0


def _record(item: Any, full: bool) -> dict[str, Any]:
    return {
        "ID": item.id if full else item.id.removeprefix("sha256:")[:12],
        "Kind": item.kind,
        "Reclaimable": str(not item.in_use).lower(),
        "Shared": str(item.shared).lower(),
        "Size": size(item.size),
        "LastUsed": age(time.time() - item.last_used),
        "CreatedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(item.created)),
        "Description": item.description,
    }


def _matches(item: Any, filters: dict[str, list[str]]) -> bool:
    kinds = filters.get("kind", []) + filters.get("type", [])
    return (
        (not kinds or item.kind in kinds)
        and any(item.id.startswith(prefix) for prefix in filters.get("id", [""]))
        and all(item.in_use == is_true(text) for text in filters.get("in-use", []))
        and all(item.shared == is_true(text) for text in filters.get("shared", []))
    )


def _summary(usage: list[Any]) -> Iterator[str]:
    """A line for each kind, and the whole."""
    kinds = list(dict.fromkeys(item.kind for item in usage))
    records = []
    for kind in kinds:
        items = [item for item in usage if item.kind == kind]
        free = sum(item.size for item in items if not item.in_use)
        records.append(
            {"Kind": kind, "Count": len(items), "Size": size(sum(i.size for i in items)), "Free": size(free)}
        )
    whole = sum(item.size for item in usage)
    free = sum(item.size for item in usage if not item.in_use)
    records.append({"Kind": "total", "Count": len(usage), "Size": size(whole), "Free": size(free)})
    columns = (Column("Kind", "KIND"), Column("Count", "COUNT"), Column("Size", "SIZE"), Column("Free", "RECLAIMABLE"))
    return iter(list(listing(records, columns, None)))


COMMAND = Command(
    "du",
    "Show what the store takes on disk",
    work,
    (
        replace(FILTER, short=""),
        FORMAT,
        NO_TRUNC,
        Flag("verbose", "List every item", short="v"),
        Flag("verify", "Read everything again and compare it with its digests"),
    ),
    examples=(("kedge du -v", "every layer, blob and cache mount"), ("kedge du --verify", "is the store sound?")),
    aliases=("system df",),
)
