"""Build ops: a graph, marshalled in a file of an input, solved in place.

Owns finding the file. Does not know how a graph is marshalled: `decode` is given by whoever speaks that format.
"""

import os
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from kedge.kernel.paths import open_in_root
from kedge.model.cachekey import CacheMap
from kedge.model.digest import digest_of
from kedge.model.errors import InvalidInput, NotFound, Unsupported
from kedge.model.graph import Edge, Snapshot, Vertex
from kedge.model.ops import Build
from kedge.solver.trunk import Trunk

if TYPE_CHECKING:
    from kedge.storage.layers import LayerStore

LARGEST_DEFINITION = 64 << 20  # bytes
DEFAULT_NAME = "buildkit.llb.definition"

Decode = Callable[[bytes], Edge]
Solve = Callable[[Edge], Coroutine[Any, Any, Snapshot]]


class BuildOperation:
    """Operation for Build. `decode` None: nobody here can read a definition."""

    def __init__(self, trunk: Trunk, layers: "LayerStore", solve: Solve, decode: Decode | None = None) -> None:
        self._trunk, self._layers, self._solve, self._decode = trunk, layers, solve, decode

    async def cache_map(self, vertex: Vertex) -> CacheMap:
        """By the keys of the inputs."""
        return CacheMap(digest_of(vertex.op), (None,) * len(vertex.inputs))

    async def run(self, vertex: Vertex, inputs: Sequence[Snapshot]) -> list[Snapshot]:
        """What the definition's graph comes to. Raises NotFound, InvalidInput, Unsupported."""
        op = vertex.op
        assert isinstance(op, Build)
        if self._decode is None:
            raise Unsupported("a build inside of a build needs the service that reads its definition")
        name = dict(op.attrs).get("llbbuild.filename", DEFAULT_NAME)
        data = await self._trunk.call(self._read, inputs[op.definition_input], name)
        return [await self._solve(self._decode(data))]

    def _read(self, snapshot: Snapshot, name: str) -> bytes:
        with self._layers.mounted(snapshot) as tree:
            try:
                fd = open_in_root(tree.fd, name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise NotFound(f"the definition {name} cannot be opened: {error.strerror}") from None
            with open(fd, "rb") as file:
                data = file.read(LARGEST_DEFINITION + 1)
        if len(data) > LARGEST_DEFINITION:
            raise InvalidInput(f"the definition {name} is larger than {LARGEST_DEFINITION >> 20} MiB")
        return data
