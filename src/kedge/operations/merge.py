"""Merge ops: snapshots on top of each other. A snapshot is a stack of layers, so this is concatenation."""

from collections.abc import Sequence

from kedge.model.cachekey import CacheMap
from kedge.model.digest import digest_of
from kedge.model.graph import Snapshot, Vertex
from kedge.model.ops import Merge


class MergeOperation:
    """Operation for Merge."""

    async def cache_map(self, vertex: Vertex) -> CacheMap:
        """By the keys of the inputs, in order."""
        return CacheMap(digest_of(vertex.op), (None,) * len(vertex.inputs))

    async def run(self, vertex: Vertex, inputs: Sequence[Snapshot]) -> list[Snapshot]:
        """The inputs' layers, those of the first lowest. Touches none."""
        assert isinstance(vertex.op, Merge)
        return [tuple(layer for index in vertex.op.inputs for layer in inputs[index])]
