"""What decides a cache hit, as values that can also explain a miss.

Owns the manifest of a key. Does not know where keys are stored, nor how content is hashed.
"""

from typing import TypeAlias

from kedge.model.digest import Digest, digest_of
from kedge.model.value import dataclass


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files of an input matter: the tree at `path`, or with `wildcard` at every path that matches.

    `follow` resolves a final symbolic link first. `contents_only` leaves a directory's own name and metadata out.
    `include` and `exclude` are ignore-file patterns relative to `path`.
    """

    path: str
    wildcard: bool = False
    follow: bool = False
    contents_only: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    allow_empty: bool = False


Selections: TypeAlias = tuple[Selection, ...]


@dataclass(frozen=True, slots=True)
class CacheMap:
    """How a vertex is cached: its own digest and, per input, by key (None) or by the content of these selections.

    `labels` are (name, text) pairs that spell the parts of `op` for a person: shown when a miss is explained, never
    hashed.
    """

    op: Digest
    inputs: tuple[Selections | None, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    volatile: bool = False  # never stored, never looked up: a client's own files, known only by content


@dataclass(frozen=True, slots=True)
class CacheKey:
    """The manifest of what a vertex's results depend on: its digest finds them, its fields explain a miss."""

    op: Digest
    inputs: tuple[Digest, ...] = ()

    @property
    def digest(self) -> Digest:
        return digest_of(self)


@dataclass(frozen=True, slots=True)
class KeyManifest:
    """A cache key with what a person needs to understand it: `labels` spell the op, `inputs` name where each came from.

    `inputs` holds (vertex name, "key" or "content") for each input; `places` is where in the build the vertex stands,
    by each name that the build has, the closest first.
    """

    places: tuple[str, ...]
    name: str
    key: CacheKey
    labels: tuple[tuple[str, str], ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()
