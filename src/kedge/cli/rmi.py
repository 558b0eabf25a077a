"""kedge rmi: names taken away, and images that have none left."""

from typing import TYPE_CHECKING

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.stored import find, name_of
from kedge.model.errors import Conflict, InvalidReference, KedgeError, NotFound
from kedge.model.reference import parse_reference

if TYPE_CHECKING:
    from kedge.storage.images import ImageRecord
    from kedge.storage.store import Store


def work(options: Options, console: Console) -> int:
    store = console.store()
    failed: KedgeError | None = None
    for text in options.image:
        try:
            for record in _chosen(store, text, options.force):
                _remove(store, record, console)
        except NotFound as error:
            failed = failed or (None if options.force else error)
        except KedgeError as error:
            failed = failed or error
    if failed:
        raise failed
    return 0


def _chosen(store: "Store", text: str, force: bool) -> "list[ImageRecord]":
    """By name, that name; by id, all its names, which takes --force when there are several."""
    record = find(store, text)
    names = [item for item in store.images.list() if item.id == record.id]
    try:
        if str(parse_reference(text)) == record.name:
            return [record]
    except InvalidReference:
        pass
    if len(names) > 1 and not force:
        shown = ", ".join(str(name_of(item) or item.name) for item in names)
        raise Conflict(f"the image {text} has several names: {shown}", hint="Name one of them, or use --force for all.")
    return names


def _remove(store: "Store", record: "ImageRecord", console: Console) -> None:
    store.images.remove(record.name)
    name = name_of(record)
    if name:
        console.print(f"Untagged: {name.familiar}")
    if not any(item.id == record.id for item in store.images.list()):
        console.print(f"Deleted: {record.id}")


COMMAND = Command(
    "rmi",
    "Remove images",
    work,
    (Flag("force", "Remove all names of an image; a missing one is no error", short="f"),
     Flag("no-prune", "Only names are removed, ever", hidden=True)),
    (Argument("IMAGE", many=True, complete="image"),),
    description="""
    Removes names. What no name needs any more stays as cache, so that the next build is fast, until `kedge prune` or the
    store's limit takes it.
    """,
    examples=(("kedge rmi hello:1.0", "one name"), ("kedge rmi -f $(kedge images -q)", "all of them")),
    aliases=("image rm",),
)
