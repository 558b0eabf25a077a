"""The build graph: vertices, the edges between them, and the snapshots that edges stand for.

Owns identity (two vertices with the same digest are the same vertex) and traversal. Does not know how anything is
solved.
"""

from collections.abc import Iterator
from typing import NewType, TypeAlias

from kedge.model.digest import Digest, digest_of
from kedge.model.errors import Location
from kedge.model.ops import Op
from kedge.model.platform import Platform
from kedge.model.value import dataclass, field, replace

Layer = NewType("Layer", str)  # id of one immutable change set in the layer store
Snapshot: TypeAlias = tuple[Layer, ...]  # bottom first; () is scratch


@dataclass(frozen=True, slots=True)
class Hints:
    """What may differ between two equal vertices: never part of the digest.

    `name` is shown to the user; `no_cache` makes the solver ignore what is stored; `group` ties vertices shown as one;
    `internal` marks bookkeeping vertices; `stage` names the build stage.
    """

    name: str = ""
    no_cache: bool = False
    group: str = ""
    location: Location | None = None
    stage: str = ""
    internal: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Vertex:
    """One operation and where its inputs come from."""

    op: Op
    inputs: tuple["Edge", ...] = ()
    platform: Platform | None = None
    hints: Hints = Hints()
    digest: Digest = field(init=False)

    def __post_init__(self) -> None:
        # Eager: the digests of the inputs exist already, so a deep graph recurses nowhere.
        inputs = tuple((edge.vertex.digest, edge.output) for edge in self.inputs)
        object.__setattr__(self, "digest", digest_of((self.op, inputs, self.platform)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vertex) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<Vertex {self.hints.name or type(self.op).__name__} {self.digest[7:19]}>"


@dataclass(frozen=True, slots=True)
class Edge:
    """One output of a vertex. A graph *is* the edge you want."""

    vertex: Vertex
    output: int = 0


def walk(edge: Edge) -> Iterator[Vertex]:
    """Every vertex the edge needs, inputs before users, each once."""
    seen: set[Vertex] = set()
    stack: list[tuple[Vertex, bool]] = [(edge.vertex, False)]
    while stack:
        vertex, expanded = stack.pop()
        if expanded:
            yield vertex
        elif vertex not in seen:
            seen.add(vertex)
            stack.append((vertex, True))
            stack.extend((e.vertex, False) for e in reversed(vertex.inputs))


def looked_up(edge: Edge) -> Edge:
    """The same graph, of which no vertex says `no_cache`: for one who knows that all of it was made just now."""
    made: dict[Vertex, Vertex] = {}
    for vertex in walk(edge):
        inputs = tuple(Edge(made[one.vertex], one.output) for one in vertex.inputs)
        made[vertex] = Vertex(vertex.op, inputs, vertex.platform, replace(vertex.hints, no_cache=False))
    return Edge(made[edge.vertex], edge.output)


def uncached(edge: Edge) -> set[Vertex]:
    """The vertices of which some object of the graph says `no_cache`; `walk` shows only one of equal vertices."""
    found: set[Vertex] = set()
    seen: set[int] = set()
    stack = [edge.vertex]
    while stack:
        vertex = stack.pop()
        if id(vertex) not in seen:
            seen.add(id(vertex))
            if vertex.hints.no_cache:
                found.add(vertex)
            stack.extend(e.vertex for e in vertex.inputs)
    return found
