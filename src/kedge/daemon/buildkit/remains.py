"""What a failed step left, for the client that drives the build: ids under which it can mount and read it.

Owns BuildKit's form of that (errdefs.Solve), an error's detail. Does not know who keeps the files (`operations`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from kedge.builder.parts import Parts
from kedge.daemon.buildkit.bridge import Bridge
from kedge.daemon.buildkit.definition import platform_message
from kedge.daemon.buildkit.encoding import encode_op
from kedge.daemon.buildkit.errors import offer
from kedge.daemon.buildkit.jobs import outcome_of
from kedge.daemon.wire import errdefs
from kedge.model.errors import KedgeError
from kedge.model.graph import Snapshot
from kedge.model.remains import Remains


@contextmanager
def offered(bridge: Bridge | None, parts: Parts) -> Iterator[None]:
    """Let errors of what is done here tell their remains' ids, which the driver knows from then on."""
    parts.keeps_remains = bridge is not None
    try:
        yield
    except KedgeError as error:
        if bridge is not None and error.remains is not None:
            with suppress(UnicodeEncodeError):
                offer(error, _told(bridge, parts, error.remains))
        raise


def _told(bridge: Bridge, parts: Parts, remains: Remains) -> object:
    vertex = remains.vertex
    told = errdefs.Solve(
        inputIDs=_ids(bridge, parts, remains.before),
        mountIDs=_ids(bridge, parts, remains.after),
        op=encode_op(vertex.op),
        description={"llb.customname": vertex.hints.name},
    )
    if vertex.platform:
        told.op.platform.CopyFrom(platform_message(vertex.platform))
    if remains.action is not None:
        told.file.SetInParent()
        told.file.index = remains.action
    if remains.content is not None:
        told.cache.SetInParent()
        told.cache.index = remains.content
    return told


def _ids(bridge: Bridge, parts: Parts, snapshots: Sequence[Snapshot | None]) -> list[str]:
    return ["" if one is None else bridge.keep(outcome_of(parts, one)) for one in snapshots]
