"""kedge version: which Kedge, on what."""

import os
import platform

from kedge import __version__
from kedge.cli.command import Command, Flag, Options
from kedge.cli.console import Console


def work(options: Options, console: Console) -> int:
    if options.short:
        console.print(f"kedge version {__version__}")
        return 0
    machine = os.uname()
    facts = {
        "Version": __version__,
        "Python": platform.python_version(),
        "Kernel": machine.release,
        "Platform": f"{machine.sysname.lower()}/{machine.machine}",
    }
    if options.format:
        from kedge.cli.template import Template

        console.print(Template("{{json .}}" if options.format == "json" else options.format).render(facts))
        return 0
    for name, value in facts.items():
        console.print(f"{name + ':':10} {value}")
    return 0


COMMAND = Command(
    "version",
    "Show the version of Kedge and of what it runs on",
    work,
    (
        Flag("short", "Only Kedge's own"),
        Flag("format", "Format with a Go template, or json", short="f", metavar="FORMAT"),
    ),
    privileged=False,
)
