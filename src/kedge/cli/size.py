"""kedge size: what each instruction added to an image, what of it is hidden, and what other stages kept out."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.spelling import cut, size
from kedge.cli.table import NO_TRUNC, table

if TYPE_CHECKING:
    from kedge.images.size import ImageSize

LONGEST: Final = 60  # of an instruction's text
MOST_HIDDEN: Final = 10  # hidden paths shown


def work(options: Options, console: Console) -> int:
    from kedge.images.lookup import find
    from kedge.images.size import measure
    from kedge.images.stored import opened

    store = console.store()
    found = measure(store, opened(store, find(store, options.image)))
    if options.format == "json":
        import json

        console.print(json.dumps(document(found), indent=2))
        return 0
    for line in lines(found, options.no_trunc):
        console.print(line)
    return 0


def document(found: "ImageSize") -> dict[str, Any]:
    """The whole as JSON; sizes in bytes, null where files are not here."""
    out: dict[str, Any] = {"id": found.id, "size": found.size, "wasted": found.wasted}
    out["instructions"] = [
        {
            "createdBy": one.created_by,
            "diffID": one.diff_id,
            "size": one.size,
            "files": one.files,
            "hiddenSize": one.hidden,
            "hiddenFiles": one.hidden_files,
            "compressedSize": one.compressed,
        }
        for one in found.instructions
    ]
    out["hidden"] = [
        {"path": one.path, "size": one.size, "files": one.files, "addedBy": one.added_by, "hiddenBy": one.hidden_by}
        for one in found.hidden
    ]
    stages = found.stages
    out["keptOut"] = stages and stages.kept_out
    out["stages"] = stages and [
        {
            "name": one.name,
            "base": one.base,
            "keptOut": one.kept_out,
            "shared": one.shared,
            "unknownLayers": one.unknown,
        }
        for one in stages.stages
    ]
    return out


def lines(found: "ImageSize", full: bool = False) -> Iterator[str]:
    """The whole as text."""
    rows = [["ADDED", "FILES", "HIDDEN LATER", "INSTRUCTION"]]
    for one in found.instructions:
        added = size(one.size) if one.size is not None else f"({size(one.compressed)} packed)"
        hidden = size(one.hidden) if one.hidden else "-"
        rows.append([added, "?" if one.files is None else str(one.files), hidden, _shown(one.created_by, full)])
    yield from table(rows)
    yield ""
    yield from _summary(found)
    yield from _hidden(found, full)
    yield from _stages(found)


def _shown(text: str, full: bool) -> str:
    """An instruction without what the shell and BuildKit add to it."""
    text = text.removesuffix(" # buildkit").replace("\t", " ").replace("/bin/sh -c #(nop) ", "").strip()
    text = text.removeprefix("/bin/sh -c ").replace("RUN /bin/sh -c ", "RUN ")
    text = printable(" ".join(text.split()))
    return text if full else cut(text, LONGEST)


def printable(text: str) -> str:
    """Without what would steer a terminal: texts and names are a stranger's."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _summary(found: "ImageSize") -> Iterator[str]:
    count = len(found.instructions)
    wasted = f", of which {size(found.wasted)} cannot be seen" if found.wasted else ""
    yield f"{size(found.size)} in {count} layer{'' if count == 1 else 's'}{wasted}"
    absent = sum(one.size is None for one in found.instructions)
    if absent:
        yield f"{absent} layer{'' if absent == 1 else 's'} not here yet (`kedge run` would fetch), and not counted"


def _hidden(found: "ImageSize", full: bool) -> Iterator[str]:
    if not found.hidden:
        return
    yield ""
    yield "Shipped, but hidden by a later instruction:"
    shown = found.hidden if full else found.hidden[:MOST_HIDDEN]
    for one in shown:
        by = _shown(found.instructions[one.hidden_by].created_by, full)
        yield f"  {size(one.size):>7}  {printable(one.path)}, by {by}"
    if len(shown) < len(found.hidden):
        yield f"  and {len(found.hidden) - len(shown)} more (--no-trunc)"


def _stages(found: "ImageSize") -> Iterator[str]:
    yield ""
    if found.stages is None:
        yield "What other stages kept out is not known: the image was not built in this store."
        return
    if not found.stages.stages:
        yield "No other stage was built for this image."
        return
    yield f"Other stages kept {size(found.stages.kept_out)} out of the image:"
    for one in found.stages.stages:
        base = f" (on {one.base})" if one.base else ""
        shared = f", and share {size(one.shared)} with it" if one.shared else ""
        unknown = f"; {one.unknown} layers of unknown size" if one.unknown else ""
        yield f"  {size(one.kept_out):>7}  {one.name}{base}{shared}{unknown}"


COMMAND = Command(
    "size",
    "Show where an image's bytes come from, and what is wasted",
    work,
    (
        Flag("format", "Output as a table or as JSON", metavar="FORMAT", default="table", choices=("table", "json")),
        NO_TRUNC,
    ),
    (Argument("IMAGE", complete="image"),),
    description="""
    For each instruction, from the base up: the bytes and files it added, and how many of those bytes a later
    instruction deletes or replaces, while every pull still transfers them. For an image that was built in this store,
    also what its other stages kept out of it.

    Sizes are those of the files' contents. Nothing is fetched: a layer that is not here is shown with its packed size.
    """,
    examples=(("kedge size --format json hello", "for scripts; sizes in bytes"),),
)
