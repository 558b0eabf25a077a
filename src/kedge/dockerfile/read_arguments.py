"""What a node's arguments must be, however many its instruction wants.

Owns the errors about their number. Does not know instructions.
"""

from typing import TypeAlias

from kedge.dockerfile.flags import Flags, Kind, read_flags
from kedge.dockerfile.parser import Node
from kedge.model.errors import DockerfileError, Location

Head: TypeAlias = tuple[str, str, Location, tuple[str, ...]]  # the fields that every instruction has


def head_of(node: Node) -> Head:
    """What every typed instruction takes over from its node."""
    return node.keyword, node.original.strip(), node.location, node.comments


def flags_of(node: Node, table: dict[str, Kind]) -> Flags:
    """The node's flags by its instruction's table; raises DockerfileError."""
    return read_flags(node.name, node.flags, table)


def one_argument(node: Node) -> str:
    """The only argument; raises DockerfileError for none or several."""
    if len(node.values) != 1:
        raise DockerfileError(f"{node.name} needs exactly one argument")
    return node.values[0]


def some_arguments(node: Node) -> tuple[str, ...]:
    """The arguments; raises DockerfileError for none."""
    if not node.values:
        raise DockerfileError(f"{node.name} needs at least one argument")
    return node.values
