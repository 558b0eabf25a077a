"""What a step may do beyond the ordinary: only what the person who started the build allowed.

Owns the names and the rule. Checked over the whole graph before the first step runs, and again by each step: a graph
may come from elsewhere than our own frontend (CVE-2024-23653).
"""

from collections.abc import Iterable

from kedge.model.errors import InvalidInput
from kedge.model.graph import Edge, Vertex, walk
from kedge.model.ops import Exec, Op

KNOWN = ("network.host", "security.insecure", "device")


class Entitlements:
    """The allowed ones, as `--allow` names them; `device=NAME` allows one device, `device` all."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(allowed)
        for name in self._allowed:
            if name not in KNOWN and not name.startswith("device="):
                raise InvalidInput(f"unknown entitlement {name[:60]!r}", hint=f"Known are {', '.join(KNOWN)}.")

    def require(self, vertex: Vertex) -> None:
        """Raise InvalidInput when the vertex needs what is not allowed."""
        try:
            self.require_op(vertex.op)
        except InvalidInput as error:
            raise error.at(vertex.hints.location, vertex.hints.stage) from None

    def require_op(self, op: Op) -> None:
        """The same for an op that is in no graph."""
        for name in needed(op):
            if name not in self._allowed and name.partition("=")[0] not in self._allowed:
                raise InvalidInput(f"the step needs the entitlement {name}", hint=f"Allow it with --allow {name}.")

    def require_all(self, edge: Edge) -> None:
        """Raise InvalidInput unless the whole graph is allowed."""
        for vertex in walk(edge):
            self.require(vertex)


def needed(op: Op) -> list[str]:
    """The entitlements that an op needs."""
    if not isinstance(op, Exec):
        return []
    names = ["network.host"] * (op.network == "host") + ["security.insecure"] * (op.security == "insecure")
    return names + [f"device={name}" for name, _ in op.devices]
