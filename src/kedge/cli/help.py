"""The help a person reads: the overview of all commands and the page of one.

Owns their layout; everything in them comes from the tables of commands and flags.
"""

import textwrap
from collections.abc import Iterable

from kedge.cli.command import GLOBAL_FLAGS, HELP, Command, Flag

WIDTH = 100


def overview() -> str:
    """What `kedge --help` shows."""
    from kedge.cli.start import GROUPS

    parts = [
        "Usage:  kedge [OPTIONS] COMMAND",
        "",
        "Builds lean container images from multi-stage Dockerfiles, without a daemon",
    ]
    for group, commands in GROUPS.items():
        width = max(len(name) for names in GROUPS.values() for name in names)
        parts += ["", f"{group}:", *(f"  {name:{width}}  {summary}" for name, summary in commands.items())]
    parts += ["", "Options:", *flag_lines(GLOBAL_FLAGS), "", "`kedge COMMAND --help` tells more about a command."]
    return "\n".join(parts)


def page(command: Command) -> str:
    """What `kedge COMMAND --help` shows."""
    parts = [f"Usage:  {command.usage}", "", f"{command.summary}."]
    if command.description:
        parts += ["", *paragraphs(command.description)]
    if command.aliases:
        parts += ["", "Aliases:", "  " + ", ".join(f"kedge {alias}" for alias in command.aliases)]
    parts += ["", "Options:", *flag_lines((*command.flags, HELP))]
    if command.examples:
        parts += ["", "Examples:"]
        for words, meaning in command.examples:
            parts += [f"  {words}", f"      {meaning}"]
    return "\n".join(parts)


def flag_lines(flags: Iterable[Flag]) -> list[str]:
    """The flags in alphabetical order, in two columns that do not run over the page."""
    flags = sorted((flag for flag in flags if not flag.hidden), key=lambda flag: flag.name)
    heads = [head(flag) for flag in flags]
    column = min(max(len(text) for text in heads) + 2, 34)
    lines = []
    for flag, text in zip(flags, heads, strict=True):
        meaning = textwrap.wrap(explanation(flag), WIDTH - column, break_on_hyphens=False)
        if len(text) + 2 > column:
            lines.append(text)
        else:
            meaning[0] = text.ljust(column) + meaning[0]
            lines.append(meaning.pop(0))
        lines += [" " * column + line for line in meaning]
    return lines


def head(flag: Flag) -> str:
    """`  -t, --tag NAME`."""
    short = f"-{flag.short}, " if flag.short else "    "
    value = f"[={flag.metavar}]" if flag.optional is not None else f" {flag.metavar}" if flag.metavar else ""
    return f"  {short}--{flag.name}{value}"


def explanation(flag: Flag) -> str:
    """The flag's help with its choices and its default."""
    notes = []
    if flag.choices and flag.metavar.isupper():
        notes.append(", ".join(flag.choices))
    if flag.shown_default:
        notes.append(f"default: {flag.shown_default}")
    elif flag.default not in (None, "", False, True, 0):
        notes.append(f"default: {flag.default}")
    return flag.help + (f" ({'; '.join(notes)})" if notes else "")


def paragraphs(text: str) -> list[str]:
    """A description's paragraphs, wrapped, with an empty line between two."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += [*([""] if lines else []), *textwrap.wrap(" ".join(paragraph.split()), WIDTH)]
    return lines
