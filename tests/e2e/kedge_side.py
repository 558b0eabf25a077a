"""A case built by Kedge: its command line, in this process."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedge.builder import BuildRequest, Output, build
from kedge.cli.build import COMMAND, request_of, session_of
from kedge.cli.console import Console
from kedge.cli.parse import parse
from kedge.model.event import LogEvent, VertexEvent
from kedge.model.value import replace
from kedge.session.local import LocalSession
from tests.e2e.casefile import Case
from tests.e2e.world import World

OLD = 1_500_000_000  # file times after it are lowered to it; those before, which come from the cases' data, are kept


@dataclass
class Built:
    """One build's events: `log` is all that steps printed, `states` how each step ended."""

    events: list[Any] = field(default_factory=list)

    @property
    def log(self) -> str:
        return b"".join(event.data for event in self.events if isinstance(event, LogEvent)).decode()

    @property
    def states(self) -> dict[str, str]:
        last = {event.name: event for event in self.events if isinstance(event, VertexEvent)}
        return {
            name: e.error or ("CACHED" if e.cached else "DONE" if e.completed else "WAITING")
            for name, e in last.items()
            if not name.startswith(("[internal]", "[context ", "exporting"))
        }

    @property
    def ran(self) -> list[str]:
        return [name for name, state in self.states.items() if state == "DONE"]


def asked(case: Case, world: World, store: Path) -> tuple[BuildRequest, LocalSession]:
    """What the case's command line asks for."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(world.room), **world.environ, **case.settings.get("environ", {})}
    console = Console(case.stdin, io.StringIO(), io.StringIO(), environ, store)
    options = parse(COMMAND, case.words)
    return request_of(options, console), session_of(options, console)


def build_case(case: Case, world: World, store: Path, layout: Path) -> Built:
    """Build into an OCI layout directory. Raises what the build raises."""
    request, session = asked(case, world, store)
    attrs = (("compression", "uncompressed"), ("tar", "false"))
    built = Built()
    request = replace(request, outputs=(Output("oci", attrs, layout),), source_date_epoch=OLD)
    build(request, session, built.events.append)
    return built
