"""What the solver makes of caches from elsewhere: asked after the store, needed for nothing, trusted with no key."""

import pytest

from kedge.model.graph import Edge


class Foreign:
    """A cache: results by vertex; an empty list means that it knows the vertex and has no results."""

    def __init__(self, results):
        self.results, self.asked = results, []

    async def found(self, vertex, wanted, *, look):
        self.asked.append((vertex.digest, look))
        return self.results.get(vertex.digest) or None

    async def knows(self, vertex):
        return vertex.digest in self.results


@pytest.fixture
def graph(g):
    """`build`, a stage; `taken`, its files in another; `final`, a step on top of that."""
    build = g.run(g.image(), "make")
    taken = g.copy(g.image(), build, "/out", "/opt")
    return build, taken, g.run(taken, "test")


def has(world, edge, files):
    return {edge.vertex.digest: [(world.layer(files),)]}


def test_what_it_has_is_a_hit_and_nothing_below_is_made(world, graph):
    build, taken, final = graph
    world.elsewhere = Foreign(has(world, final, {"/foreign": "1"}) | {taken.vertex.digest: []})
    files, _ = world.solve(final)
    assert files == {"/foreign": "1"}
    assert world.ran == []
    assert world.looked == []
    assert world.last(final).cached
    assert world.last(build).cached


def test_what_it_gave_is_there_without_it_afterwards(world, graph):
    _, taken, final = graph
    world.elsewhere = Foreign(has(world, final, {"/foreign": "1"}) | {taken.vertex.digest: []})
    world.solve(final)
    world.elsewhere = None
    assert world.solve(final)[0] == {"/foreign": "1"}
    assert world.ran == []


def test_the_store_is_asked_first(world, graph):
    own = world.solve(graph[2])[1]
    world.elsewhere = Foreign(has(world, graph[2], {"/foreign": "1"}))
    assert world.solve(graph[2])[1] == own
    assert world.elsewhere.asked == []


def test_a_known_step_without_results_runs_with_its_inputs_looked_at(world, graph):
    _, taken, _ = graph
    world.elsewhere = Foreign({taken.vertex.digest: []})
    files, _ = world.solve(taken)
    assert files == {"/bin/sh": "1", "/opt/bin": "built"}
    assert world.ran == ["docker-image://alpine", "make", "copy /out"]
    assert world.looked == [("/out",)]
    world.elsewhere = None
    world.solve(taken)
    assert world.ran == []


def test_what_ran_for_lack_of_results_is_stored_under_its_content(world, graph, g):
    """Another stage with the same files is then a hit: the definition did not become the key."""
    _, taken, _ = graph
    world.elsewhere = Foreign({taken.vertex.digest: []})
    world.solve(taken)
    world.elsewhere = None
    world.commands[("make again",)] = world.commands[("make",)]
    world.solve(g.copy(g.image(), g.run(g.image(), "make again"), "/out", "/opt"))
    assert world.ran == ["make again"]


def test_a_step_that_is_not_to_be_cached_is_not_asked_for(world, g):
    step = g.run(g.image(), "make", no_cache=True)
    world.elsewhere = Foreign(has(world, step, {"/foreign": "1"}))
    assert world.solve(step)[0]["/out/bin"] == "built"
    assert step.vertex.digest not in dict(world.elsewhere.asked)


def test_a_changed_base_does_not_meet_what_was_stored_for_another(world, graph):
    _, taken, final = graph
    world.elsewhere = Foreign(has(world, final, {"/foreign": "1"}) | {taken.vertex.digest: []})
    world.solve(final)
    world.elsewhere = None
    world.remote["docker-image://alpine"] = {"/bin/sh": "2"}
    assert "/foreign" not in world.solve(final)[0]


def test_stored_results_can_be_asked_for_without_making_anything(world, graph):
    build, taken, final = graph
    world.solve(final)

    async def ask(solver, trunk):
        solver.announce(final)
        memory = {}
        return [await solver.stored(edge.vertex, memory) for edge in (build, taken, final)]

    world.ran = []
    assert all(world.trunk(ask))
    assert world.ran == []
    world.cache.stored.clear()
    assert world.trunk(ask) == [None, None, None]
    assert world.ran == []


def test_outputs_that_nobody_wants_may_be_missing_and_are_made_when_asked_for(world, g):
    step = g.run(g.image(), "make")
    world.elsewhere = Foreign({step.vertex.digest: [None, (world.layer({"/foreign": "1"}),)]})
    other = Edge(step.vertex, 1)
    assert world.solve(other)[0] == {"/foreign": "1"}
    assert world.ran == []
    world.elsewhere = None
    assert world.solve(step)[0]["/out/bin"] == "built"
    assert world.ran == ["docker-image://alpine", "make"]  # nothing was kept of what was not whole
