"""Turns edges into snapshots: one cache key per vertex, at most one run per vertex.

Two memoized steps, `_key` and `_solve`; everything else follows. Knows no op and no store. docs/solver.md tells the
decisions.

    the key of a vertex: ask its operation how it is cached, and its inputs for their keys. Then
      an input known by key counts with its key;
      a volatile input counts with the checksum of its files, so it is solved first;
      for other inputs known by content, recall what they held last time, else solve them and look.
      what is not remembered is not looked at where a cache from elsewhere knows the vertex by its definition.
    the results of a vertex: take its key.
      What is stored under it, unless to be ignored, is a hit: nothing is solved, opened or fetched.
      So is what a cache from elsewhere has for the vertex; it is stored as if it had been made here.
      Else solve the inputs, claim the key (another build may make it meanwhile: a hit), run, and store.
"""

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from kedge.model.cachekey import CacheKey, CacheMap, Selection, Selections
from kedge.model.digest import Digest, digest_of
from kedge.model.errors import Cancelled, KedgeError
from kedge.model.event import Report, VertexEvent, silent
from kedge.model.graph import Edge, Snapshot, Vertex, uncached, walk
from kedge.model.ops import Op
from kedge.model.remains import Remains
from kedge.model.value import dataclass, replace
from kedge.solver.contracts import CacheStore, Checksum, Elsewhere, Manifest, Operation
from kedge.solver.explain import Miss, Scope, explain, place_of
from kedge.solver.trunk import Task, Trunk

T = TypeVar("T")
Outputs: TypeAlias = list[Snapshot | None]  # None: nobody wanted it, and a cache from elsewhere had only the others
EVERYTHING: Selections = (Selection("/"),)


@dataclass(frozen=True, slots=True)
class Known:
    """How a vertex is known: its key; whether what is stored under it is ignored; whether it is never stored at all.

    `unseen`: an input known by content counts with its definition in the key, because a cache from elsewhere knows the
    vertex that way and nobody has needed the input's files.
    """

    key: CacheKey
    ignore: bool
    volatile: bool
    manifest: Manifest
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What an input counts with in a key: a digest of its key, or of its content.

    `tentative`: remembered of results that are gone. `definitions`: to remember the key by.
    """

    digest: Digest
    ignore: bool = False
    by_content: bool = False
    tentative: bool = False
    definitions: tuple[Digest, ...] = ()
    unseen: bool = False


class Solver:
    """Solves edges of one build. Its methods are coroutines of `trunk`; it is used on the trunk's thread only.

    `scopes` name the build, the closest first (its Dockerfile and context), so that misses are explained by the last
    build of the same thing.
    """

    def __init__(
        self,
        trunk: Trunk,
        operations: Mapping[type[Op], Operation],
        cache: CacheStore,
        checksum: Checksum,
        report: Report = silent,
        scopes: tuple[Scope, ...] = (Scope(""),),
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._trunk, self._operations, self._cache = trunk, operations, cache
        self._checksum, self._report, self._scopes = checksum, report, scopes
        self.elsewhere = elsewhere
        self._keys: dict[Vertex, Task[Known]] = {}
        self._wanted: dict[Vertex, set[int]] = {}  # outputs, as far as anybody announced that he needs them
        self._results: dict[Vertex, Task[Outputs]] = {}
        self._whole: dict[Vertex, Task[Outputs]] = {}  # of which a cache from elsewhere had a part that is not enough
        self._no_cache: set[Digest] = set()
        self._events: dict[Vertex, VertexEvent] = {}
        self.misses: dict[Digest, Miss] = {}

    async def solve(self, edge: Edge) -> Snapshot:
        """The snapshot behind `edge`: cached when its key is known, else made by running its vertex."""
        self.announce(edge)
        return await self._edge(edge)

    async def key(self, vertex: Vertex) -> CacheKey:
        """The cache key of a vertex. Runs what it is known by the content of, never the vertex itself."""
        self.announce(Edge(vertex))
        return (await self._known(vertex)).key

    def peek(self, edge: Edge) -> Snapshot | None:
        """The snapshot behind `edge` if it was solved, or is stored under a key that came to be known; else None.

        Runs nothing, asks nobody, and may be called on any thread once the solving has ended.
        """
        results = self._results.get(edge.vertex)
        if results is not None and results.done:
            return results.result()[edge.output]
        task = self._keys.get(edge.vertex)
        if task is None or not task.done or (known := task.result()).volatile or known.ignore:
            return None
        stored = self._cache.results(known.key)
        return stored[edge.output] if stored else None

    def announce(self, edge: Edge) -> None:
        """Report every vertex of the graph as not started. Of equal vertices, one that says `no_cache` speaks for
        all.
        """
        self._no_cache |= {vertex.digest for vertex in uncached(edge)}
        self._wanted.setdefault(edge.vertex, set()).add(edge.output)
        for vertex in walk(edge):
            for below in vertex.inputs:
                self._wanted.setdefault(below.vertex, set()).add(below.output)
            if vertex not in self._events:
                inputs = tuple(e.vertex.digest for e in vertex.inputs)
                name = vertex.hints.name or type(vertex.op).__name__.lower()
                self._tell(
                    vertex,
                    VertexEvent(vertex.digest, name, inputs, group=vertex.hints.group, location=vertex.hints.location),
                )

    def abandon(self, error: BaseException) -> None:
        """Report every vertex still running as stopped by `error`; to be called when the trunk has ended with it."""
        text = str(error) if isinstance(error, Cancelled) else str(Cancelled("cancelled: another step failed"))
        for vertex, event in self._events.items():
            if _runs(event):
                self._tell(vertex, replace(event, completed=time.time(), error=text))

    # ---- results -----------------------------------------------------------------------------------------------------

    async def _edge(self, edge: Edge) -> Snapshot:
        found = (await self._once(self._results, edge.vertex, self._solve))[edge.output]
        if found is None:
            found = (await self._once(self._whole, edge.vertex, self._solve_whole))[edge.output]
        assert found is not None
        return found

    async def _solve_whole(self, vertex: Vertex) -> Outputs:
        return await self._solve(vertex, ask=False)

    async def _solve(self, vertex: Vertex, ask: bool = True) -> Outputs:
        known = await self._known(vertex)
        if known.volatile:
            return await self._run(vertex, [await self._edge(edge) for edge in vertex.inputs])
        if not known.ignore and (hit := self._cache.results(known.key)) is not None:
            return self._hit(vertex, hit)
        if not known.ignore and ask and (found := await self._from_elsewhere(vertex, known)) is not None:
            return self._hit(vertex, found)
        if known.unseen:  # it must run: now the files count
            known = await self._key(vertex, anew=True)
            if (hit := self._cache.results(known.key)) is not None:
                return self._hit(vertex, hit)
        self.misses[vertex.digest] = self._miss(known)
        inputs = await self._trunk.gather(self._edge(edge) for edge in vertex.inputs)
        if known.ignore:
            return await self._make(vertex, known, inputs)
        # Shown as running from here: it may wait for another build that is at the same step.
        self._start(vertex)
        claim = self._cache.claim(known.key, self._trunk.cancel)
        try:
            await self._trunk.call(claim.__enter__)
            if (hit := self._cache.results(known.key)) is not None:
                return self._hit(vertex, hit)
            return await self._make(vertex, known, inputs)
        finally:  # also when the trunk ends the build while this waits: it lets the leaf above return first
            claim.__exit__(None, None, None)

    @property
    def explained(self) -> list[Miss]:
        """Why vertices ran, those of inputs before those of users."""
        return [self.misses[vertex.digest] for vertex in self._events if vertex.digest in self.misses]

    def _miss(self, known: Known) -> Miss:
        for scope, place in zip(self._scopes, known.manifest.places, strict=True):
            if (before := self._cache.previous(place)) is not None:
                return explain(known.manifest, before, known.ignore, scope.told)
        return explain(known.manifest, None, known.ignore)

    async def _from_elsewhere(self, vertex: Vertex, known: Known) -> Outputs | None:
        """What a cache from elsewhere has, kept under the key that was made here: a cache cannot choose keys.

        A cache may lack outputs that nobody wants: then it serves this build, and nothing is kept.
        """
        if self.elsewhere is None:
            return None
        found = await self.elsewhere.found(vertex, self._wanted.get(vertex, ()), look=True)
        whole = [snapshot for snapshot in found or () if snapshot is not None]
        if found is not None and len(whole) == len(found):
            await self._trunk.call(self._cache.put, known.key, whole, known.manifest)
        return found

    async def _make(self, vertex: Vertex, known: Known, inputs: list[Snapshot]) -> Outputs:
        return await self._run(vertex, inputs, lambda made: self._cache.put(known.key, made, known.manifest))

    async def _run(
        self, vertex: Vertex, inputs: Sequence[Snapshot], keep: Callable[[list[Snapshot]], None] | None = None
    ) -> Outputs:
        event = self._start(vertex)
        try:
            results = await self._operations[type(vertex.op)].run(vertex, inputs)
            if keep:
                await self._trunk.call(keep, results)
        except KedgeError as error:
            self._fail(vertex, error)
            raise
        self._tell(vertex, replace(event, completed=time.time()))
        return [*results]

    # ---- keys --------------------------------------------------------------------------------------------------------

    async def _known(self, vertex: Vertex) -> Known:
        return await self._once(self._keys, vertex, self._key)

    async def _key(self, vertex: Vertex, anew: bool = False) -> Known:
        try:
            cached_by = await self._operations[type(vertex.op)].cache_map(vertex)
        except KedgeError as error:
            self._fail(vertex, error)
            raise
        # At the same time: what one input holds never waits for another input, so that stages are built side by side.
        seen = await self._trunk.gather(self._see(vertex, cached_by, i, anew) for i in range(len(vertex.inputs)))
        key = CacheKey(cached_by.op, tuple(one.digest for one in seen))
        unseen = any(one.unseen for one in seen)
        if any(one.tentative for one in seen) and not unseen and self._cache.results(key) is None:
            seen = await self._trunk.gather(
                self._see(vertex, cached_by, i, anew=True) for i in range(len(vertex.inputs))
            )
            key = CacheKey(cached_by.op, tuple(one.digest for one in seen))
        for definition in {definition for one in seen for definition in one.definitions}:
            if self._cache.recall(definition, unseen) != key:
                self._cache.remember(definition, key, unseen)
        ignore = vertex.digest in self._no_cache or any(one.ignore for one in seen)
        return Known(key, ignore, cached_by.volatile, self._manifest(vertex, key, cached_by, seen), unseen)

    async def _see(self, vertex: Vertex, cached_by: CacheMap, index: int, anew: bool = False) -> Seen:
        """What an input counts with. Its files are looked at if they decide and nobody remembers them."""
        edge, paths = vertex.inputs[index], cached_by.inputs[index]
        known = await self._known(edge.vertex)
        if known.volatile:  # its key says nothing of its content
            return Seen(await self._content(vertex, edge, paths or EVERYTHING), by_content=True)
        if paths is None:
            return Seen(digest_of((known.key, edge.output)), known.ignore)
        if known.ignore:
            return Seen(await self._content(vertex, edge, paths), by_content=True)
        # Results that are here have the content of when they were looked at. Of those that are gone only the content
        # that led to other results is remembered: good for a hit, but not to store anything under, for a rerun may
        # differ.
        results = self._cache.results(known.key)
        what = (cached_by.op, index, known.key, edge.output, paths)
        definitions = (digest_of((what, tuple(results or ()))), digest_of(what))
        found = None if anew and results is None else self._cache.recall(definitions[results is None])
        if found is not None:
            return Seen(found.inputs[index], False, True, results is None, definitions if results else definitions[1:])
        unseen = not anew and (
            self._cache.recall(definitions[1], unseen=True) is not None
            or (self.elsewhere is not None and await self.elsewhere.knows(vertex))
        )
        if unseen:  # its results, or those of what is made of it, may be had without the input's files
            return Seen(digest_of(("unseen", what)), False, True, definitions=definitions[1:], unseen=True)
        digest = await self._content(vertex, edge, paths)
        made = self._cache.results(known.key) or []
        return Seen(digest, False, True, False, (digest_of((what, tuple(made))), digest_of(what)))

    async def _content(self, vertex: Vertex, edge: Edge, selections: Selections) -> Digest:
        snapshot = await self._edge(edge)
        try:
            return await self._trunk.call(self._checksum, snapshot, selections)
        except KedgeError as error:
            index = next(i for i, one in enumerate(vertex.inputs) if one == edge)
            error.remains = Remains(vertex, (snapshot,), content=index)
            self._fail(vertex, error)
            raise

    def _manifest(self, vertex: Vertex, key: CacheKey, cached_by: CacheMap, seen: Sequence[Seen]) -> Manifest:
        inputs = tuple(
            (edge.vertex.hints.name, "content" if one.by_content else "key")
            for edge, one in zip(vertex.inputs, seen, strict=True)
        )
        places = tuple(place_of(vertex, scope) for scope in self._scopes)
        return Manifest(places, vertex.hints.name, key, cached_by.labels, inputs)

    # ---- for those who export ----------------------------------------------------------------------------------------

    async def snapshot(self, edge: Edge) -> Snapshot:
        """As `solve`, of an edge that was announced."""
        return await self._edge(edge)

    async def pinned(self, vertex: Vertex) -> None:
        """Have the operation of a source asked what it is now."""
        await self._known(vertex)

    def ignores(self, vertex: Vertex) -> bool:
        """Is the vertex not to be looked up, in any cache?"""
        return vertex.digest in self._no_cache

    async def stored(self, vertex: Vertex, memory: dict[Vertex, CacheKey | None]) -> Sequence[Snapshot | None] | None:
        """What is stored for the vertex, if that can be told without making or fetching anything.

        `memory` is the caller's, for all vertices of a build.
        """
        if (task := self._results.get(vertex)) is not None and task.done:
            return task.result()
        key = await self._stored_key(vertex, memory)
        return self._cache.results(key) if key else None

    async def _stored_key(self, vertex: Vertex, memory: dict[Vertex, CacheKey | None]) -> CacheKey | None:
        if vertex not in memory:
            task = self._keys.get(vertex)
            if task is not None and task.done:
                memory[vertex] = task.result().key
            else:
                memory[vertex] = await self._remembered_key(vertex, memory)
        return memory[vertex]

    async def _remembered_key(self, vertex: Vertex, memory: dict[Vertex, CacheKey | None]) -> CacheKey | None:
        cached_by = await self._operations[type(vertex.op)].cache_map(vertex)
        digests = []
        for index, edge in enumerate(vertex.inputs):
            paths, below = cached_by.inputs[index], await self._stored_key(edge.vertex, memory)
            task = self._keys.get(edge.vertex)
            if task is not None and task.done and task.result().volatile:
                digests.append(await self._content(vertex, edge, paths or EVERYTHING))
            elif below is None:
                return None
            elif paths is None:
                digests.append(digest_of((below, edge.output)))
            else:
                results = self._cache.results(below)
                what = (cached_by.op, index, below, edge.output, paths)
                found = self._cache.recall(digest_of((what, tuple(results))) if results else digest_of(what))
                if found is None:
                    return None
                digests.append(found.inputs[index])
        return CacheKey(cached_by.op, tuple(digests))

    # ---- telling -----------------------------------------------------------------------------------------------------

    def _hit(self, vertex: Vertex, results: Sequence[Snapshot | None]) -> Outputs:
        """Tell that the vertex was cached, and so all it was made of that nobody else is asking for."""
        for below in walk(Edge(vertex)):
            if below is vertex or (self._events[below].started is None and below not in self._results):
                now, event = time.time(), self._events[below]
                started = event.started if _runs(event) else now
                self._tell(below, replace(event, started=started, completed=now, cached=True))
        return list(results)

    def _start(self, vertex: Vertex) -> VertexEvent:
        """Tell that the vertex runs, unless that was told: who draws it would wait for the end of both."""
        if not _runs(self._events[vertex]):
            self._tell(vertex, replace(self._events[vertex], started=time.time(), completed=None, cached=False))
        return self._events[vertex]

    def _fail(self, vertex: Vertex, error: KedgeError) -> None:
        error.at(vertex.hints.location, vertex.hints.stage)
        if isinstance(error, Cancelled):
            return  # another step's fault: `abandon` tells
        now, event = time.time(), self._events[vertex]
        self._tell(vertex, replace(event, started=event.started or now, completed=now, error=error.message))

    def _tell(self, vertex: Vertex, event: VertexEvent) -> None:
        self._events[vertex] = event
        self._report(event)

    async def _once(
        self, tasks: dict[Vertex, Task[T]], vertex: Vertex, make: Callable[[Vertex], Coroutine[Any, Any, T]]
    ) -> T:
        """Run `make(vertex)` the first time it is asked for; everyone else waits for the same task."""
        if vertex not in tasks:
            tasks[vertex] = self._trunk.spawn(make(vertex))
        return await tasks[vertex]


def _runs(event: VertexEvent) -> bool:
    return event.started is not None and event.completed is None
