"""What is left where a vertex failed: the files as they were then, for a client that wants to look into them.

Owns the value; errors carry it (`KedgeError.remains`). Does not know who makes it, nor who looks.
"""

from kedge.model.graph import Snapshot, Vertex
from kedge.model.value import dataclass


@dataclass(frozen=True, slots=True)
class Remains:
    """`before`: what the vertex was given; `after`: what became of it. None where there is nothing.

    Of an exec op both go by its mounts. Of a file op `before` goes by its inputs and `after` by its actions, of which
    number `action` failed. Where no content could be told, `content` is the number of the input and `before` that one.
    """

    vertex: Vertex
    before: tuple[Snapshot | None, ...] = ()
    after: tuple[Snapshot | None, ...] = ()
    action: int | None = None
    content: int | None = None
