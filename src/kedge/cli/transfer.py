"""A transfer on the screen: one step with its parts, from start to end or error.

Owns the step's events. Does not know what is transferred.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kedge.cli.command import Flag
from kedge.cli.console import Console
from kedge.model.digest import digest_of
from kedge.model.errors import KedgeError
from kedge.model.event import VertexEvent
from kedge.model.value import replace
from kedge.progress.display import MODES

if TYPE_CHECKING:
    from kedge.sources.handler import Work

PROGRESS = Flag("progress", "How to show the transfer", metavar="MODE", default="auto", choices=MODES)
NO_REFERRERS = Flag("no-referrers", "Leave behind what refers to the image: attestations, signatures")
QUIET = Flag("quiet", "Show nothing but the result", short="q")


@contextmanager
def shown(console: Console, title: str, mode: str) -> "Iterator[Work]":
    """Show what is told to the Work, until the context ends."""
    from kedge.progress.display import Screen, choose
    from kedge.sources.handler import Work

    event = VertexEvent(digest_of(("transfer", title)), title, started=time.time())
    with Screen(choose(mode, console.stderr, doing=title.partition(" ")[0].capitalize())) as screen:
        screen(event)
        try:
            yield Work(event.vertex, screen)
        except KedgeError as error:
            screen(replace(event, completed=time.time(), error=error.message))
            raise
        except BaseException:
            screen(replace(event, completed=time.time(), error="cancelled"))
            raise
        screen(replace(event, completed=time.time()))
