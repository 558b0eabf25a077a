"""How an error looks: what went wrong, the lines of the user's text with an arrow, what to do.

Owns the layout, which follows BuildKit's. Does not decide what is an error.
"""

from collections.abc import Iterator

from kedge.cli.parse import UsageError
from kedge.model.errors import KedgeError, Location, StepFailed
from kedge.progress.plain import TAIL

CONTEXT_LINES = 2  # before and behind the lines at fault
LONGEST_EXCERPT = 30  # lines at fault that are shown; a heredoc can have thousands
LONGEST_LINE = 400  # characters


def describe(error: KedgeError) -> Iterator[str]:
    """The lines to print for `error`."""
    if error.location:
        yield from excerpt(error.location)
    where = f"{error.location}: " if error.location and not error.location.file.text else ""
    yield f"ERROR: {where}{error.message}"
    if error.hint:
        yield ""
        yield error.hint
    elif isinstance(error, StepFailed) and error.tail.count(b"\n") > TAIL:
        yield ""
        yield "`kedge logs` has the step's whole output."
    if isinstance(error, UsageError):
        yield ""
        yield f"See `kedge {error.command} --help`." if error.command else "See `kedge --help`."


def excerpt(location: Location) -> Iterator[str]:
    """The text at fault between two rules: `Dockerfile:4`, and the lines, those at fault behind `>>>`."""
    if not location.file.text:
        return
    # Only line feeds count lines, as in the location: str.splitlines() would also count form feeds and their like.
    lines = location.file.text.removesuffix("\n").split("\n")
    if not 1 <= location.start <= len(lines):
        return
    end = min(max(location.end, location.start), len(lines))
    first, last = max(location.start - CONTEXT_LINES, 1), min(end + CONTEXT_LINES, len(lines))
    yield str(location)
    yield "--------------------"
    for number in range(first, last + 1):
        if location.start + LONGEST_EXCERPT <= number < end:
            if number == location.start + LONGEST_EXCERPT:
                yield f" ... | >>> ({end - number} more lines)"
            continue
        arrow = ">>>" if location.start <= number <= end else "   "
        text = _shown(lines[number - 1].removesuffix("\r"))
        yield f" {number:3} | {arrow} {text}".rstrip()
        if number == location.start and location.columns and location.columns[1] <= LONGEST_LINE:
            left, right = location.columns
            # Tabs stay tabs, so that the marks stand below what they mark.
            pad = "".join("\t" if character == "\t" else " " for character in text[:left])
            yield f"     |     {pad}{'^' * max(right - left, 1)}"
    yield "--------------------"


def _shown(line: str) -> str:
    line = "".join(character if character == "\t" or character.isprintable() else "\ufffd" for character in line)
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "…"
