"""kedge prune: room on the disk by removing what nothing needs."""

import time
from typing import TYPE_CHECKING, Final, get_args

from kedge.cli.command import Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.filters import FILTER, parse_filters
from kedge.cli.parse import UsageError
from kedge.cli.spelling import parse_duration, parse_size, size
from kedge.model.errors import InvalidInput
from kedge.model.suggest import did_you_mean
from kedge.model.value import replace

if TYPE_CHECKING:
    from kedge.storage.accounts import Kind

FILTERS: Final = ("id", "kind", "type", "until")


def work(options: Options, console: Console) -> int:
    from kedge.storage.gc import PruneOptions

    filters = parse_filters(options.filter, FILTERS, "prune")
    kinds = tuple(map(_kind, filters.get("kind", []) + filters.get("type", [])))
    if not options.force and not _confirmed(options, console):
        return 1
    until = time.time() - _age(filters["until"][0]) if "until" in filters else None
    ids = tuple(filters.get("id", ()))
    chosen = PruneOptions(options.all, until, ids, kinds, options.keep_storage, unnamed=True)
    pruned = console.store().prune(chosen)
    if options.verbose:
        for item in pruned.records:
            console.print(
                f"{item.id.removeprefix('sha256:')[:12]:14} {item.kind:12} {size(item.size):>8}  {item.description}"
            )
    console.print(f"Total reclaimed space: {size(pruned.bytes)}")
    return 0


def _age(text: str) -> float:
    try:
        return parse_duration(text)
    except InvalidInput as error:
        raise UsageError(f"invalid filter until={text}: {error.message}", "prune", error.hint) from None


def _kind(text: str) -> "Kind":
    from kedge.storage.accounts import Kind

    known: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
    if text not in known:
        hint = did_you_mean(text, known) or f"Kinds are {', '.join(known)}."
        raise UsageError(f"invalid filter kind={text}: there is nothing of that kind", "prune", hint)
    return known[text]


def _confirmed(options: Options, console: Console) -> bool:
    """Ask at a terminal; refuse silently destroying anything where nobody can answer."""
    if not console.stdin.isatty():
        raise UsageError(
            "prune asks before it removes anything, and standard input is no terminal", "prune", "Use --force."
        )
    what = "everything that no image with a name needs" if options.all else "what no image with a name needs"
    console.stderr.write(f"This removes {what} from the store. Continue? [y/N] ")
    console.stderr.flush()
    return console.stdin.readline().strip().lower() in (b"y", b"yes")


COMMAND = Command(
    "prune",
    "Remove what nothing needs",
    work,
    (
        Flag("all", "Also remove cached results that images share", short="a"),
        replace(FILTER, short=""),
        Flag("force", "Do not ask", short="f"),
        Flag("keep-storage", "Stop when the store is no bigger than this", metavar="SIZE", convert=parse_size),
        Flag("verbose", "List what was removed", short="v"),
    ),
    examples=(
        ("kedge prune --force", "all that nothing needs"),
        ("kedge prune -f --filter until=72h", "only what was not used for three days"),
        ("kedge prune -f --filter kind=cache-mount", "only cache mounts"),
        ("kedge prune -f --keep-storage 10g", "the least recently used, until 10 GiB are left"),
    ),
    description="Images without a name go, and all that no image with a name needs: layers, caches, logs of steps.",
    aliases=("builder prune", "image prune"),
)
