"""Diff ops: what one snapshot has over another."""

from collections.abc import Sequence

from kedge.model.cachekey import CacheMap
from kedge.model.digest import digest_of
from kedge.model.errors import Unsupported
from kedge.model.graph import Snapshot, Vertex
from kedge.model.ops import NO_INPUT, Diff


class DiffOperation:
    """Operation for Diff, of a snapshot and one it was built on: the layers above."""

    async def cache_map(self, vertex: Vertex) -> CacheMap:
        """By the keys of the inputs."""
        return CacheMap(digest_of(vertex.op), (None,) * len(vertex.inputs))

    async def run(self, vertex: Vertex, inputs: Sequence[Snapshot]) -> list[Snapshot]:
        """The upper's layers over the lower's; raises Unsupported for snapshots that are not built on each other."""
        assert isinstance(vertex.op, Diff)
        lower = () if vertex.op.lower == NO_INPUT else inputs[vertex.op.lower]
        upper = () if vertex.op.upper == NO_INPUT else inputs[vertex.op.upper]
        if upper[: len(lower)] != lower:
            raise Unsupported("the difference of two trees that are not built on each other cannot be taken yet")
        return [upper[len(lower) :]]
