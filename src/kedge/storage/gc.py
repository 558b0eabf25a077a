"""What the store holds, what of it nobody needs, and the hard cap.

Owns accounting (`usage` agrees with the disk's own count), the choice of what goes, and admission: space is reserved before it
is written. Does not know how layers or blobs are made.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["layer", "blob", "cache-mount", "log", "draft", "store"]


@dataclass(frozen=True, slots=True)
class Usage:
    """One thing on disk. `size` is what it takes there, in bytes (blocks, not lengths); what hard links share counts once.

    `in_use`: needed by a named image, a running build or container; prune leaves it. `shared`: an image holds it too.
    Kind `store` is the database and the directories themselves.
    """

    id: str
    kind: Kind
    size: int
    created: float
    last_used: float
    in_use: bool
    shared: bool
    description: str


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """What may go. Without any: everything unused except cached results whose layers an image holds.

    `all`: those too. `until`: only what was last used before that time (seconds since the epoch). `ids`: only these (prefixes).
    `kinds`: only these. `keep`: stop when the store is no bigger than that many bytes; least recently used goes first.
    """

    all: bool = False
    until: float | None = None
    ids: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    keep: int | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, and the bytes freed on disk."""

    records: tuple[Usage, ...]
    bytes: int
