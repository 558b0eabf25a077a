"""The builder's own steps, shown beside those of the graph: `[internal] load build definition from Dockerfile`.

Owns their events. Does not know what is done in them.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kedge.model.digest import digest_of
from kedge.model.errors import Cancelled, KedgeError
from kedge.model.event import Report, VertexEvent
from kedge.model.value import replace
from kedge.sources.handler import Work


@contextmanager
def step(report: Report, cancel: threading.Event, name: str) -> Iterator[Work]:
    """A step from here to the end of the context; an error that leaves it is the step's."""
    event = VertexEvent(digest_of(("internal", name)), name, started=time.time())
    report(event)
    try:
        yield Work(event.vertex, report, cancel)
    except KedgeError as error:
        text = "cancelled" if isinstance(error, Cancelled) else error.message
        report(replace(event, completed=time.time(), error=text))
        raise
    except BaseException:
        report(replace(event, completed=time.time(), error="stopped"))
        raise
    report(replace(event, completed=time.time()))
