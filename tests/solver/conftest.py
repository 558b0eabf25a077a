"""A world of fakes for the solver: layers are dicts of path -> content, operations are one-liners."""

import contextlib
import threading
import time

import pytest

from kedge.model.cachekey import CacheKey, CacheMap, Selection
from kedge.model.digest import digest_of
from kedge.model.event import VertexEvent
from kedge.model.graph import Edge, Hints, Layer, Vertex
from kedge.model.ops import Copy, Diff, Exec, File, Merge, Mount, Source
from kedge.solver.explain import Scope
from kedge.solver.solver import Solver
from kedge.solver.trunk import Trunk


class MemoryCache:
    def __init__(self):
        self.stored, self.known, self.unseen, self.manifests = {}, {}, {}, {}
        self.locks, self.guard = {}, threading.Lock()

    def results(self, key):
        return self.stored.get(key.digest)

    def put(self, key, results, manifest=None):
        self.stored[key.digest] = results
        if manifest:
            self.manifests |= dict.fromkeys(manifest.places, manifest)

    def recall(self, definition, unseen=False):
        if unseen:
            return self.unseen.get(definition)
        key = self.known.get(definition)
        return key if key and key.digest in self.stored else None

    def remember(self, definition, key, unseen=False):
        assert isinstance(key, CacheKey)
        (self.unseen if unseen else self.known)[definition] = key

    def previous(self, place):
        return self.manifests.get(place)

    def claim(self, key, cancel):
        with self.guard:
            lock = self.locks.setdefault(key.digest, threading.Lock())

        class Claim(contextlib.AbstractContextManager):
            held = False

            def __enter__(self):
                while not lock.acquire(timeout=0.01):
                    assert not cancel.is_set()
                self.held = True

            def __exit__(self, *exc):
                if self.held:
                    lock.release()

        return Claim()


class World:
    def __init__(self):
        self.layers, self.cache, self.remote, self.commands = {}, MemoryCache(), {}, {}
        self.ran, self.events, self.volatile, self.looked = [], [], set(), []
        self.solver = None
        self.elsewhere = None
        self.scopes = (Scope("scope"),)

    def layer(self, files):
        id = Layer(digest_of(sorted(files.items())))
        self.layers[id] = files
        return id

    def files(self, snapshot):
        out = {}
        for layer in snapshot:
            for path, content in self.layers[layer].items():
                out.pop(path, None) if content is None else out.update({path: content})
        return out

    def checksum(self, snapshot, selections):
        self.looked.append(tuple(s.path for s in selections))
        return digest_of(
            sorted((p, c) for p, c in self.files(snapshot).items() if any(p.startswith(s.path) for s in selections))
        )

    def trunk(self, main):
        trunk = Trunk()
        operations = {
            Source: SourceOp(self, trunk),
            Exec: ExecOp(self, trunk),
            File: FileOp(self, trunk),
            Merge: MergeOp(self, trunk),
            Diff: DiffOp(self, trunk),
        }
        self.solver = Solver(
            trunk, operations, self.cache, self.checksum, self.events.append, self.scopes, self.elsewhere
        )
        return trunk.run(main(self.solver, trunk))

    def solve(self, edge):
        """(files, snapshot) of the edge; `ran` and `events` are of this solve only."""
        self.ran, self.events, self.looked = [], [], []
        snapshot = self.trunk(lambda solver, trunk: solver.solve(edge))
        return self.files(snapshot), snapshot

    def last(self, edge):
        """The last event about a vertex."""
        return [e for e in self.events if isinstance(e, VertexEvent) and e.vertex == edge.vertex.digest][-1]


class Fake:
    def __init__(self, world, trunk):
        self.world, self.trunk = world, trunk


class SourceOp(Fake):
    async def cache_map(self, v):
        id = v.op.identifier
        if id in self.world.volatile:
            return CacheMap(digest_of(id), volatile=True)
        return CacheMap(digest_of((id, tuple(sorted(self.world.remote[id].items())))))

    async def run(self, v, inputs):
        self.world.ran.append(v.op.identifier)
        return [(self.world.layer(self.world.remote[v.op.identifier]),)]


class ExecOp(Fake):
    async def cache_map(self, v):
        return CacheMap(digest_of((v.op, v.platform)), tuple(None for _ in v.inputs), (("command", v.op.args[0]),))

    async def run(self, v, inputs):
        self.world.ran.append(" ".join(v.op.args))
        root = inputs[v.op.root.input] if v.op.root.input >= 0 else ()
        made = await self.trunk.call(self.world.commands[v.op.args], self.world.files(root))
        return [(*root, self.world.layer(made))]


class FileOp(Fake):
    async def cache_map(self, v):
        content = {a.secondary: (Selection(a.src),) for a in v.op.actions}
        return CacheMap(digest_of(v.op), tuple(content.get(i) for i in range(len(v.inputs))))

    async def run(self, v, inputs):
        action = v.op.actions[0]
        self.world.ran.append(f"copy {action.src}")
        source = self.world.files(inputs[action.secondary])
        made = {action.dest + p[len(action.src) :]: c for p, c in source.items() if p.startswith(action.src)}
        return [(*inputs[action.input], self.world.layer(made))]


class MergeOp(Fake):
    async def cache_map(self, v):
        return CacheMap(digest_of(v.op), tuple(None for _ in v.inputs))

    async def run(self, v, inputs):
        self.world.ran.append("merge")
        return [tuple(layer for i in v.op.inputs for layer in inputs[i])]


class DiffOp(Fake):
    async def cache_map(self, v):
        return CacheMap(digest_of(v.op), tuple(None for _ in v.inputs))

    async def run(self, v, inputs):
        self.world.ran.append("diff")
        lower, upper = inputs[v.op.lower], inputs[v.op.upper]
        assert upper[: len(lower)] == lower
        return [upper[len(lower) :]]


class Graphs:
    """Short words for graphs."""

    context = Edge(Vertex(Source("local://context")))

    @staticmethod
    def image(name="alpine"):
        return Edge(Vertex(Source(f"docker-image://{name}"), hints=Hints(f"FROM {name}")))

    @staticmethod
    def run(base, command, **hints):
        hints.setdefault("name", f"RUN {command}")
        return Edge(Vertex(Exec((command,), (Mount("/", 0, 0),)), (base,), hints=Hints(**hints)))

    @staticmethod
    def copy(base, source, src, dest, **hints):
        return Edge(Vertex(File((Copy(src, dest),)), (base, source), hints=Hints(**hints)))


@pytest.fixture
def g():
    return Graphs()


@pytest.fixture
def world():
    w = World()
    w.remote = {"docker-image://alpine": {"/bin/sh": "1"}, "local://context": {"/app/main": "v1", "/docs/x": "a"}}
    w.commands = {
        ("make",): lambda files: {"/out/bin": "built"},
        ("test",): lambda files: {"/ok": str(len(files))},
        ("rm",): lambda files: {"/out/bin": None},
        ("pause",): lambda files: time.sleep(0.2) or {"/paused": "1"},
    }
    return w
