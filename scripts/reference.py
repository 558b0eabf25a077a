"""Writes docs/reference/commands.md from the tables of commands and docs/rules from those of checks: `make docs`.

`python scripts/reference.py --check` only compares, as tests/test_docs.py does.
"""

import sys
from pathlib import Path

from kedge.cli.command import GLOBAL_FLAGS, HELP, Command, Flag
from kedge.cli.help import explanation, head, paragraphs
from kedge.cli.start import GROUPS, load
from kedge.dockerfile.lint_pages import pages

TARGET = Path(__file__).resolve().parents[1] / "docs" / "reference" / "commands.md"
RULES = TARGET.parents[1] / "rules"


def reference() -> str:
    """The whole page."""
    parts = [
        "# Commands",
        "",
        "Written by `make docs` from the tables that the command line itself reads; a test compares. "
        "`kedge COMMAND --help` shows the same.",
        "",
    ]
    for group, commands in GROUPS.items():
        parts += [f"**{group}**", ""]
        parts += [f"- [`kedge {name}`](#kedge-{name.replace(' ', '-')}): {text}" for name, text in commands.items()]
        parts.append("")
    parts += ["## Options of every command", "", *_table(GLOBAL_FLAGS), ""]
    for commands in GROUPS.values():
        for name in commands:
            parts += _section(load(name))
    return "\n".join(parts).rstrip() + "\n"


def _section(command: Command) -> list[str]:
    parts = [f"## kedge {command.name}", "", f"{command.summary}.", "", "```", command.usage, "```", ""]
    if command.description:
        parts += [*paragraphs(command.description), ""]
    if command.aliases:
        parts += ["Also: " + ", ".join(f"`kedge {alias}`" for alias in command.aliases), ""]
    parts += [*_table((*command.flags, HELP)), ""]
    if command.examples:
        parts += ["Examples:", "", "```console"]
        for words, meaning in command.examples:
            parts += [f"$ {words}    # {meaning}"]
        parts += ["```", ""]
    return parts


def _table(flags: tuple[Flag, ...]) -> list[str]:
    shown = sorted((flag for flag in flags if not flag.hidden), key=lambda flag: flag.name)
    rows = [f"| `{_escaped(head(flag).strip())}` | {_escaped(explanation(flag))} |" for flag in shown]
    return ["| option | meaning |", "|---|---|", *rows]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    text = reference()
    if "--check" in sys.argv:
        return 0 if TARGET.read_text() == text else 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text)
    RULES.mkdir(exist_ok=True)
    for name, page in pages().items():
        (RULES / name).write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
