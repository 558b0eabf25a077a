"""A graph in the making: vertices whose operations may still change until all is known.

The sources that are client directories are selected by the paths that later instructions copy, so no vertex above them
can have its digest before the last instruction is read. Owns that waiting. Does not know what is being built.
"""

from collections.abc import Callable, Iterable

from kedge.model.graph import Edge, Hints, Vertex
from kedge.model.ops import Op, Source
from kedge.model.platform import Platform
from kedge.model.value import dataclass, field


@dataclass(eq=False, slots=True)
class Draft:
    """A vertex to be. `op` may be a function: it is called when all instructions are read."""

    op: Op | Callable[[], Op]
    inputs: tuple["DraftEdge", ...]
    platform: Platform | None
    hints: Hints
    number: int


@dataclass(frozen=True, slots=True)
class DraftEdge:
    """One output of a draft, or (`finished`) of a vertex made elsewhere."""

    draft: Draft | None
    output: int = 0
    finished: Edge | None = None


@dataclass(slots=True)
class Drafts:
    """All drafts of one build, in the order of their making: inputs always come before users."""

    _sources: dict[tuple[Source, Platform | None], Draft] = field(default_factory=dict)
    _made: dict[Draft, Vertex] = field(default_factory=dict)
    _count: int = 0

    def add(
        self,
        op: Op | Callable[[], Op],
        inputs: Iterable[DraftEdge] = (),
        platform: Platform | None = None,
        hints: Hints = Hints(),  # noqa: B008 (frozen)
    ) -> DraftEdge:
        """A new draft's first output; equal sources are one draft, under the name that came first."""
        key = (op, platform) if isinstance(op, Source) else None
        if key and key in self._sources:
            return DraftEdge(self._sources[key])
        self._count += 1
        draft = Draft(op, tuple(inputs), platform, hints, self._count)
        if key:
            self._sources[key] = draft
        return DraftEdge(draft)

    def finish(self, edge: DraftEdge | None) -> Edge | None:
        """The edge in the finished graph; None stays None (an empty root). Only what the edge needs is made."""
        if edge is None or edge.draft is None:
            return edge.finished if edge else None
        for draft in sorted(self._needed(edge.draft), key=lambda draft: draft.number):
            op = draft.op() if callable(draft.op) else draft.op
            inputs = tuple(self._finished(one) for one in draft.inputs)
            self._made[draft] = Vertex(op, inputs, draft.platform, draft.hints)
        return Edge(self._made[edge.draft], edge.output)

    def _finished(self, edge: DraftEdge) -> Edge:
        if edge.draft is None:
            assert edge.finished is not None
            return edge.finished
        return Edge(self._made[edge.draft], edge.output)

    def _needed(self, top: Draft) -> set[Draft]:
        needed: set[Draft] = set()
        stack = [top]
        while stack:
            draft = stack.pop()
            if draft not in needed and draft not in self._made:
                needed.add(draft)
                stack.extend(edge.draft for edge in draft.inputs if edge.draft)
        return needed
