"""Passthrough ops: inputs handed on unchanged."""

from collections.abc import Sequence

from kedge.model.cachekey import CacheMap
from kedge.model.digest import digest_of
from kedge.model.graph import Snapshot, Vertex
from kedge.model.ops import Passthrough


class PassthroughOperation:
    """Operation for Passthrough."""

    async def cache_map(self, vertex: Vertex) -> CacheMap:
        """By the keys of the inputs."""
        return CacheMap(digest_of(vertex.op), (None,) * len(vertex.inputs))

    async def run(self, vertex: Vertex, inputs: Sequence[Snapshot]) -> list[Snapshot]:
        """The named inputs."""
        assert isinstance(vertex.op, Passthrough)
        return [inputs[index] for index in vertex.op.outputs]
