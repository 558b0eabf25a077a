"""Diff ops: what one snapshot has over another.

Owns the choice: of a snapshot and one it was built on, the layers above; of two others, a layer with the differences. A
layer that was made here and hides whole directories is no difference: stacked on something else it would hide what the
lower never had. Layers of registries stay as they were published. Does not know how trees are compared or copied.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kedge.model.cachekey import CacheMap
from kedge.model.digest import digest_of
from kedge.model.graph import Layer, Snapshot, Vertex
from kedge.model.ops import NO_INPUT, Copy, Diff, Remove
from kedge.solver.trunk import Trunk

if TYPE_CHECKING:
    from kedge.storage.layers import LayerStore


class DiffOperation:
    """Operation for Diff."""

    def __init__(self, trunk: Trunk, layers: "LayerStore") -> None:
        self._trunk, self._layers = trunk, layers

    async def cache_map(self, vertex: Vertex) -> CacheMap:
        """By the keys of the inputs."""
        return CacheMap(digest_of(vertex.op), (None,) * len(vertex.inputs))

    async def run(self, vertex: Vertex, inputs: Sequence[Snapshot]) -> list[Snapshot]:
        """The upper's layers over the lower's, or one layer with what differs."""
        assert isinstance(vertex.op, Diff)
        lower = () if vertex.op.lower == NO_INPUT else inputs[vertex.op.lower]
        upper = () if vertex.op.upper == NO_INPUT else inputs[vertex.op.upper]
        above = upper[len(lower) :]
        if upper[: len(lower)] == lower and not (bool(lower) and await self._trunk.call(self._hides, above)):
            return [above]
        return [(await self._trunk.call(self._compare, lower, upper),)]

    def _hides(self, layers: Snapshot) -> bool:
        from kedge.storage.implied import hides_directories

        ours = (layer for layer in layers if not self._layers.info(layer).sources)
        return any(hides_directories(self._layers.directory(layer)) for layer in ours)

    def _compare(self, lower: Snapshot, upper: Snapshot) -> Layer:
        """Make the lower tree into the upper one: what the kernel notes on the way is the layer."""
        from kedge.storage.compare import compare
        from kedge.storage.copy import copy
        from kedge.storage.file_actions import remove
        from kedge.storage.tree import Tree

        with self._layers.mounted(upper) as new, self._layers.draft(lower) as draft:
            with draft.tree() as tree:
                changes = compare(tree.fd, new.fd)
                for path in changes.gone:
                    remove(Remove("/" + path), tree.fd)
                if changes.changed:
                    everything = Copy("/", "/", contents_only=True, always_replace=True)
                    copy(everything, Tree(new.fd, patterns=changes), tree.fd)
            return draft.commit("a difference")
