"""Merge ops: snapshots on top of each other. A snapshot is a stack of layers, so this is concatenation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kedge.model.cachekey import CacheMap
from kedge.model.digest import digest_of
from kedge.model.graph import Snapshot, Vertex
from kedge.model.ops import Merge
from kedge.solver.trunk import Trunk

if TYPE_CHECKING:
    from kedge.storage.layers import LayerStore


class MergeOperation:
    """Operation for Merge."""

    def __init__(self, trunk: Trunk, layers: "LayerStore") -> None:
        self._trunk, self._layers = trunk, layers

    async def cache_map(self, vertex: Vertex) -> CacheMap:
        """By the keys of the inputs, in order."""
        return CacheMap(digest_of(vertex.op), (None,) * len(vertex.inputs))

    async def run(self, vertex: Vertex, inputs: Sequence[Snapshot]) -> list[Snapshot]:
        """The inputs' layers, those of the first lowest. Touches none but a client's directory, which is copied."""
        assert isinstance(vertex.op, Merge)
        merged = tuple(layer for index in vertex.op.inputs for layer in inputs[index])
        return [await self._trunk.call(self._layers.kept, merged)]
