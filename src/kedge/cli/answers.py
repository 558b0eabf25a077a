"""What `kedge build --call` and `--check` print instead of building.

Owns the layout of check results, which follows Docker's client. Outlines and target lists print themselves.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kedge.cli.console import Console
from kedge.cli.failure import excerpt
from kedge.model.event import WarningEvent

if TYPE_CHECKING:
    from kedge.builder import BuildResult


def show_answer(result: "BuildResult", as_json: bool, console: Console) -> int:
    """Print the answer to a call, a check's where there is none; the exit code is 1 for one that found something."""
    answer = result.answer
    if answer is None:
        if as_json:
            from kedge.dockerfile.lint_report import report_json

            console.print(report_json(result.warnings))
        else:
            for line in check_lines(result.warnings):
                console.print(line)
        return 1 if result.warnings else 0
    text = answer.to_json() if as_json else answer.to_text()
    console.print(text.rstrip("\n"))
    return 0


def check_lines(warnings: tuple[WarningEvent, ...]) -> Iterator[str]:
    """Each warning with its lines of the Dockerfile, and a closing line."""
    for warning in warnings:
        yield f"WARNING: {warning.rule}" + (f" - {warning.url}" if warning.url else "")
        yield warning.detail or warning.message
        if warning.detail and warning.detail != warning.message:
            yield warning.message
        if warning.location:
            yield from excerpt(warning.location)
        yield ""
    if warnings:
        many = len(warnings) > 1
        yield f"Check complete, {len(warnings)} warning{'s have' if many else ' has'} been found!"
    else:
        yield "Check complete, no warnings found."
