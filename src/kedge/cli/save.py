"""kedge save: images to an archive that Docker, Podman, skopeo and umoci read."""

from pathlib import Path
from typing import TYPE_CHECKING

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.parse import UsageError
from kedge.cli.transfer import NO_REFERRERS

if TYPE_CHECKING:
    from kedge.exporters.archive import Entry
    from kedge.storage.store import Store


def work(options: Options, console: Console) -> int:
    from kedge.exporters.archive import save

    if not options.output and console.stdout.isatty():
        raise UsageError(
            "an archive is not written to a terminal", "save", "Use --output FILE, or send the output elsewhere."
        )
    if not options.output and options.directory:
        raise UsageError("a directory needs --output PATH", "save")
    store = console.store()
    entries = [_entry(store, name) for name in options.image]
    destination = Path(options.output) if options.output else console.stdout.buffer
    save(store, entries, destination, tar=not options.directory, referrers=not options.no_referrers)
    return 0


def _entry(store: "Store", text: str) -> "Entry":
    """By a name, the image under that name; by an id, under all its names."""
    from kedge.exporters.archive import Entry
    from kedge.images.lookup import find, names_of
    from kedge.images.stored import name_of
    from kedge.model.errors import InvalidReference
    from kedge.model.reference import parse_reference

    record = find(store, text)
    name = name_of(record)
    try:
        if name and parse_reference(text) == name:
            return Entry(record.target, (name,))
    except InvalidReference:
        pass
    return Entry(record.target, tuple(parse_reference(each) for each in names_of(store, record)))


COMMAND = Command(
    "save",
    "Write images to an archive",
    work,
    (
        Flag("directory", "Write an OCI image layout directory instead of an archive"),
        NO_REFERRERS,
        Flag("output", "Where to", short="o", metavar="PATH", shown_default="standard output"),
    ),
    (Argument("IMAGE", many=True, complete="image"),),
    description="""
    The archive is an OCI image layout and what `docker load` reads, in one. The same images give the same bytes.
    What refers to the images (attestations, signatures) is in it, too, without names.
    """,
    examples=(("kedge save -o hello.tar hello", "to a file"), ("kedge save hello | docker load", "into Docker")),
    aliases=("image save",),
)
