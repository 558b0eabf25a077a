"""Source ops: ask the scheme's handler what the source is, and let it bring it.

Owns the choice by scheme. Knows no scheme.
"""

from collections.abc import Mapping, Sequence

from kedge.model.cachekey import CacheMap
from kedge.model.errors import Unsupported
from kedge.model.event import Report
from kedge.model.graph import Snapshot, Vertex
from kedge.model.ops import Source
from kedge.solver.trunk import Trunk
from kedge.sources.handler import Pin, SourceHandler, Work


class SourceOperation:
    """Operation for Source. A vertex is pinned once a build, and what was pinned is what is fetched.

    `pins` is what was asked for so far.
    """

    def __init__(
        self,
        trunk: Trunk,
        handlers: Mapping[str, SourceHandler],
        report: Report,
        pins: dict[Vertex, Pin] | None = None,
    ) -> None:
        self._trunk, self._handlers, self._report = trunk, handlers, report
        self.pins = {} if pins is None else pins

    async def cache_map(self, vertex: Vertex) -> CacheMap:
        """By what the source is now."""
        source, work = _source(vertex), self._work(vertex)
        pin = await self._trunk.call(self._handler(source).pin, source, vertex.platform, work)
        self.pins[vertex] = pin
        return CacheMap(pin.digest, (), pin.labels, pin.volatile)

    async def run(self, vertex: Vertex, inputs: Sequence[Snapshot]) -> list[Snapshot]:
        """The source's content as a snapshot."""
        source, work = _source(vertex), self._work(vertex)
        fetch = self._handler(source).fetch
        return [await self._trunk.call(fetch, source, vertex.platform, self.pins[vertex], work)]

    def _work(self, vertex: Vertex) -> Work:
        return Work(vertex.digest, self._report, self._trunk.cancel)

    def _handler(self, source: Source) -> SourceHandler:
        handler = self._handlers.get(source.scheme)
        if handler is None:
            raise Unsupported(f"sources of the kind {source.scheme}:// are not known")
        return handler


def _source(vertex: Vertex) -> Source:
    assert isinstance(vertex.op, Source)
    return vertex.op
