"""How amounts, times and output of programs are spelled in every display.

Owns spelling only; pure functions.
"""

import re

from kedge.progress.trace import Row

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])"
)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def amount(count: int) -> str:
    """A number of bytes: `123B`, `1.23kB`, `45.60MB`; decimal units, as BuildKit shows them."""
    if count < 1000:
        return f"{count}B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 1000 or unit == "TB":
            break
    return f"{value:.2f}{unit}"


def progress(current: int, total: int) -> str:
    """What of a transfer is done: `1.05MB / 2.10MB`, or only what came when the total is unknown, or nothing."""
    if total:
        return f"{amount(current)} / {amount(total)}"
    return amount(current) if current else ""


def log_time(seconds: float) -> str:
    """The time before a line of a log, four or five characters wide up to a quarter of an hour."""
    seconds = max(seconds, 0.0)
    return f"{seconds:.{3 if seconds < 10 else 2 if seconds < 100 else 1}f}"


def printable(line: bytes) -> str:
    """A line of output as it may stand in a live display: no escape sequences, no controls, after its last return."""
    text = line.decode("utf-8", "replace").rstrip("\r")
    text = _ESCAPES.sub("", text.rpartition("\r")[2]).expandtabs(4)
    return _CONTROLS.sub("", text)


def failure_lines(row: Row, count: int, *, clean: bool = False) -> list[str]:
    """The block that ends a build: a failed step's name and its last `count` lines, `clean` for a terminal."""
    start = row.started or 0.0
    tail = [(time, printable(line) if clean else line.decode("utf-8", "replace")) for time, line in row.tail]
    lines = [f"{log_time(time - start)} {text}" for time, text in tail[-count:]]
    return ["------", f" > {row.name}:", *lines, "------"]
