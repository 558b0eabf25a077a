"""Caches that travel, at the graph: which vertices they have results for, and what a graph has to tell them.

Owns looking a vertex up in imported caches (the solver's Elsewhere) and turning a solved graph into steps to export.
Both go by BuildKit's keys (`buildkit_keys`), so that its caches and ours are the same. Does not know where caches are
kept. Coroutines of the trunk.

    a vertex meets a record of a cache when its own digest does and each input meets one of the record's alternatives:
      the record of the input's vertex, under the same selector: nothing need be looked at;
      the record of the input's content: what a client lends is always looked at, other inputs only on demand.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from kedge.model.cache_document import CacheRecord, CacheResult, Link, Step
from kedge.model.cachekey import CacheKey
from kedge.model.digest import Digest, digest_of, parse_digest
from kedge.model.errors import KedgeError
from kedge.model.graph import Edge, Snapshot, Vertex, walk
from kedge.model.image import Descriptor
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.operations.buildkit_keys import CONTENT, BuildkitKey, Dependency, buildkit_key, record_digest, source_key
from kedge.operations.source import SourceOperation
from kedge.solver.solver import Solver
from kedge.solver.trunk import Task, Trunk
from kedge.sources.cache import Cache

if TYPE_CHECKING:
    from kedge.storage.contenthash import ContentSelector
    from kedge.storage.store import Store

Place = tuple[int, int]  # a record: index of the cache, index in its document
Met = tuple[frozenset[Place], ...]  # for each output of a vertex, the records it meets


class Travelling:
    """The keys of one build's vertices, and the caches they are looked up in: an Elsewhere."""

    def __init__(
        self, trunk: Trunk, store: "Store", sources: SourceOperation, host: Platform, caches: Sequence[Cache] = ()
    ) -> None:
        self._trunk, self._store, self._sources, self._host = trunk, store, sources, host
        self._caches = caches
        self._solver: Solver | None = None
        self.used: dict[Digest, tuple[Cache, Descriptor]] = {}  # blobs that results were declared with
        self._met: dict[tuple[Vertex, bool], Task[Met]] = {}
        self._contents: dict[tuple[Snapshot, tuple[ContentSelector, ...]], Task[Digest | None]] = {}
        self._by_digest: dict[Digest, list[Place]] = {}
        for number, cache in enumerate(caches):
            for index, record in enumerate(cache.document.records):
                self._by_digest.setdefault(record.digest, []).append((number, index))

    def bind(self, solver: Solver) -> None:
        """Tell which solver asks; before it does."""
        self._solver = solver

    @property
    def solver(self) -> Solver:
        assert self._solver is not None
        return self._solver

    # ---- looking up --------------------------------------------------------------------------------------------------

    async def found(self, vertex: Vertex, wanted: Collection[int], *, look: bool) -> list[Snapshot | None] | None:
        """See the solver's Elsewhere."""
        if isinstance(vertex.op, Source) or not self._caches:
            return None
        for closely in (False, True)[: 1 + look]:
            snapshots = [self._result(places) for places in await self._meeting(vertex, closely)]
            if snapshots and all(output < len(snapshots) and snapshots[output] is not None for output in wanted):
                return snapshots
        return None

    async def knows(self, vertex: Vertex) -> bool:
        """See the solver's Elsewhere."""
        return bool(self._caches) and any(await self._meeting(vertex, False))

    def _result(self, places: frozenset[Place]) -> Snapshot | None:
        """The newest result of the records that can be had; its layers stay where they are."""
        from kedge.storage.layers import Declared

        results = [(result, self._caches[place[0]]) for place in places for result in self._record(place).results]
        for result, cache in sorted(results, key=_age, reverse=True):
            blobs = [cache.blobs.get(cache.document.layers[index].blob) for index in result.layers]
            if blobs and all(blobs):
                self.used |= {blob.descriptor.digest: (cache, blob.descriptor) for blob in blobs if blob}
                layers = [Declared(blob.diff_id, blob.descriptor, cache.origin, blob.created) for blob in blobs if blob]
                return self._store.layers.declare_all(layers)
        return None

    def _record(self, place: Place) -> CacheRecord:
        return self._caches[place[0]].document.records[place[1]]

    async def _meeting(self, vertex: Vertex, look: bool) -> Met:
        """The records the vertex meets, found out once."""
        task = self._met.get((vertex, look))
        if task is None:
            task = self._met[vertex, look] = self._trunk.spawn(self._meet(vertex, look))
        return await task

    async def _meet(self, vertex: Vertex, look: bool) -> Met:
        key = None if self.solver.ignores(vertex) else await self.key(vertex)
        if key is None or not key.digests:
            return ()
        candidates = [self._candidates(vertex, key.records(output)) for output in range(key.outputs)]
        if not any(candidates):
            return (frozenset(),) * key.outputs
        inputs = await self._trunk.gather(self._alternatives(edge, look) for edge in vertex.inputs)
        contents: dict[int, Digest | None] = {}
        met = []
        for places in candidates:
            here = set()
            for place in places:
                if await self._is_met(place, vertex, key, inputs, contents, look):
                    here.add(place)
            met.append(frozenset(here))
        return tuple(met)

    def _candidates(self, vertex: Vertex, digests: Sequence[Digest]) -> list[Place]:
        places = [place for digest in digests for place in self._by_digest.get(digest, ())]
        return [place for place in places if len(self._record(place).inputs) == len(vertex.inputs)]

    async def _alternatives(self, edge: Edge, look: bool) -> frozenset[Place]:
        met = await self._meeting(edge.vertex, look)
        return met[edge.output] if edge.output < len(met) else frozenset()

    async def _is_met(
        self,
        place: Place,
        vertex: Vertex,
        key: BuildkitKey,
        inputs: list[frozenset[Place]],
        contents: dict[int, Digest | None],
        look: bool,
    ) -> bool:
        cache = place[0]
        unmet = []
        for index, links in enumerate(self._record(place).inputs):
            dependency = key.inputs[index]
            if not any(
                (cache, link.record) in inputs[index] and link.selector == dependency.selector for link in links
            ):
                unmet.append((index, links, dependency))
        for index, links, dependency in unmet:
            wanted = {self._record((cache, link.record)).digest for link in links if self._is_content(cache, link)}
            if dependency.content is None or not wanted:
                return False
            if index not in contents:
                contents[index] = await self._content_of(vertex.inputs[index], dependency, look)
            if contents[index] not in wanted:
                return False
        return True

    def _is_content(self, cache: int, link: Link) -> bool:
        return not link.selector and not self._record((cache, link.record)).inputs

    # ---- keys --------------------------------------------------------------------------------------------------------

    async def key(self, vertex: Vertex) -> BuildkitKey | None:
        """BuildKit's key of a vertex; None where it cannot be told."""
        if isinstance(vertex.op, Source):
            await self.solver.pinned(vertex)
            pin = self._sources.pins.get(vertex)
            return source_key(pin.buildkit if pin else ())
        return buildkit_key(vertex, self._host)

    async def _content_of(self, edge: Edge, dependency: Dependency, look: bool) -> Digest | None:
        """The record that stands for an input's files; None for files that are not to be looked at (now)."""
        if not look and not _is_lent(edge.vertex):
            return None
        return await self.content(await self.solver.snapshot(edge), dependency)

    async def content(self, snapshot: Snapshot, dependency: Dependency) -> Digest | None:
        """The record that stands for the selected files of a snapshot; None when they cannot be read."""
        selectors = dependency.content or ()
        task = self._contents.get((snapshot, selectors))
        if task is None:
            task = self._trunk.spawn(self._hash(snapshot, selectors))
            self._contents[snapshot, selectors] = task
        return await task

    async def _hash(self, snapshot: Snapshot, selectors: "tuple[ContentSelector, ...]") -> Digest | None:
        return await self._trunk.call(self._hashed, snapshot, selectors)

    def _hashed(self, snapshot: Snapshot, selectors: "tuple[ContentSelector, ...]") -> Digest | None:
        """Layers never change: what was hashed once is remembered in the store."""
        from kedge.storage.contenthash import content_digest

        lasting = not any(layer.startswith("~") for layer in snapshot)
        note = "contenthash:" + digest_of((self._lasting_name(snapshot), selectors)) if lasting else ""
        if note and (known := self._store.notes.get(note)):
            return parse_digest(known)
        try:
            with self._store.layers.mounted(snapshot) as tree:
                digest = record_digest(content_digest(tree, selectors), CONTENT)
        except KedgeError:
            return None
        if note:
            self._store.notes.put(note, digest)
        return digest

    def _lasting_name(self, snapshot: Snapshot) -> tuple[tuple[str, float], ...]:
        return tuple((layer, self._store.layers.info(layer).created) for layer in snapshot)

    # ---- exporting ---------------------------------------------------------------------------------------------------

    async def steps(self, edges: Sequence[Edge]) -> list[Step]:
        """What the solved graph of these edges has to tell, inputs before users. Makes and fetches nothing."""
        teller = _Teller(self)
        for edge in edges:
            for vertex in walk(edge):
                await teller.tell(vertex)
        return teller.steps

    async def remembered_contents(self, vertex: Vertex, index: int) -> list[Digest]:
        """Records of content that imported caches have for an input of a vertex they know."""
        found = []
        for places in await self._meeting(vertex, False):
            for place in places:
                links = self._record(place).inputs[index]
                found += [self._record((place[0], li.record)).digest for li in links if self._is_content(place[0], li)]
        return found

    def is_here(self, snapshot: Snapshot) -> bool:
        """Can the files be read without fetching any?"""
        return all(layer.startswith("~") or self._store.layers.info(layer).ready for layer in snapshot)


class _Teller:
    """The steps so far."""

    def __init__(self, travelling: Travelling) -> None:
        self._travelling = travelling
        self.steps: list[Step] = []
        self._index: dict[tuple[Vertex, int], list[int]] = {}
        self._contents: dict[Digest, int] = {}
        self._told: set[Vertex] = set()
        self._memory: dict[Vertex, CacheKey | None] = {}

    async def tell(self, vertex: Vertex) -> None:
        """Add the steps of a vertex whose inputs were told."""
        if vertex in self._told:
            return
        self._told.add(vertex)
        key = await self._travelling.key(vertex)
        if key is None:
            return
        inputs = []
        for index, edge in enumerate(vertex.inputs):
            links = await self._links(vertex, index, edge, key.inputs[index])
            if not links:
                return
            inputs.append(links)
        snapshots = None
        if not isinstance(vertex.op, Source):  # what everyone can pull is not carried along
            snapshots = await self._travelling.solver.stored(vertex, self._memory)
            if (
                snapshots is None or None in snapshots
            ):  # what an imported cache has of it travels on, or caches would shrink as they travel
                snapshots = await self._travelling.found(vertex, (), look=False)
        for output in range(key.outputs):
            snapshot = snapshots[output] if snapshots and output < len(snapshots) else None
            for digest in key.records(output):
                self._index.setdefault((vertex, output), []).append(len(self.steps))
                self.steps.append(Step(digest, tuple(inputs), snapshot))

    async def _links(self, vertex: Vertex, index: int, edge: Edge, dependency: Dependency) -> tuple[Link, ...]:
        links = [Link(known, dependency.selector) for known in self._index.get((edge.vertex, edge.output), ())]
        if dependency.content is not None:
            links += [
                Link(self._content(digest)) for digest in await self._contents_of(vertex, index, edge, dependency)
            ]
        return tuple(dict.fromkeys(links))

    async def _contents_of(self, vertex: Vertex, index: int, edge: Edge, dependency: Dependency) -> list[Digest]:
        travelling = self._travelling
        if _is_lent(edge.vertex):
            snapshot: Snapshot | None = await travelling.solver.snapshot(edge)
        else:
            snapshots = await travelling.solver.stored(edge.vertex, self._memory)
            snapshot = snapshots[edge.output] if snapshots and edge.output < len(snapshots) else None
        if snapshot is not None and travelling.is_here(snapshot):
            digest = await travelling.content(snapshot, dependency)
            return [digest] if digest else []
        return await travelling.remembered_contents(vertex, index)

    def _content(self, digest: Digest) -> int:
        if digest not in self._contents:
            self._contents[digest] = len(self.steps)
            self.steps.append(Step(digest))
        return self._contents[digest]


def _is_lent(vertex: Vertex) -> bool:
    """A client's directory, which is here."""
    return isinstance(vertex.op, Source) and vertex.op.scheme == "local"


def _age(pair: tuple[CacheResult, Cache]) -> str:
    return pair[0].created_at
