"""Lists of records as Docker's client prints them: a table, chosen columns, a template, JSON, or only ids.

Owns column layout and the meaning of `--format`. Does not know what a record is.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from kedge.cli.command import Flag
from kedge.cli.spelling import cut
from kedge.model.value import dataclass

LEAST, PADDING = 10, 3  # Docker's tabwriter: no column narrower than this, and blanks between two

FORMAT: Final = Flag(
    "format",
    "Format the output: 'table', 'table TEMPLATE', 'json', or a Go template such as '{{.ID}}'",
    metavar="FORMAT",
)
QUIET: Final = Flag("quiet", "Only show ids", short="q")
NO_TRUNC: Final = Flag("no-trunc", "Do not shorten the output")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its `field` in the records, its `title`, and the width beyond which text is cut (0: never)."""

    field: str
    title: str
    longest: int = 0


def listing(
    records: Iterable[dict[str, Any]],
    columns: Sequence[Column],
    format: str | None,
    quiet: str = "",
    full: bool = False,
) -> Iterable[str]:
    """The lines that show `records` (field -> text). `quiet` names the only field to show; `full` shortens nothing."""
    if quiet and not format:
        yield from (str(record[quiet]) for record in records)
    elif format == "json":
        import json

        yield from (json.dumps(record, ensure_ascii=False) for record in records)
    elif not format or format == "table":
        rows = [[str(record[column.field]) for column in columns] for record in records]
        if not full:
            rows = [
                [cut(text, c.longest) if c.longest else text for text, c in zip(row, columns, strict=True)]
                for row in rows
            ]
        yield from table([[column.title for column in columns], *rows])
    elif format.startswith("table "):
        yield from _template_table(records, columns, format.removeprefix("table ").strip())
    else:
        from kedge.cli.template import Template

        template = Template(format)
        yield from (template.render(record) for record in records)


def table(rows: list[list[str]]) -> Iterable[str]:
    """Rows in columns; the last column is not padded."""
    rows = [[" ".join(text.split("\n")) for text in row] for row in rows]
    widths = [max(LEAST, PADDING + max(len(row[index]) for row in rows)) for index in range(len(rows[0]) - 1)]
    for row in rows:
        yield ("".join(text.ljust(width) for text, width in zip(row, widths, strict=False)) + row[-1]).rstrip()


def _template_table(records: Iterable[dict[str, Any]], columns: Sequence[Column], format: str) -> Iterable[str]:
    """`table {{.ID}}\\t{{.Size}}`: the titles stand in for a record of their own."""
    from kedge.cli.template import Template

    template = Template(format)
    titles = {column.field: column.title for column in columns}
    rows = [template.render(record).split("\t") for record in ({**titles}, *records)]
    return table([row for row in rows if row])
