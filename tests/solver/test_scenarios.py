"""The twelve founding scenarios: what is run and what is hit."""

import pytest

from kedge.model.errors import StepFailed
from kedge.model.graph import Edge, Vertex, walk
from kedge.model.ops import Diff, Merge


def test_second_build_runs_nothing_and_pulls_nothing(world, g):
    graph = g.run(g.copy(g.image(), g.context, "/app", "/src"), "make")
    first, _ = world.solve(graph)
    assert sorted(world.ran[:2]) == ["docker-image://alpine", "local://context"]
    assert world.ran[2:] == ["copy /app", "make"]
    second, _ = world.solve(graph)
    assert world.ran == []
    assert first == second


def test_unselected_context_change_is_a_hit_and_still_pulls_no_base(world, g):
    graph = g.run(g.copy(g.image(), g.context, "/app", "/src"), "make")
    world.solve(graph)
    world.remote["local://context"] = world.remote["local://context"] | {"/docs/x": "changed"}
    world.solve(graph)
    assert world.ran == ["local://context"]  # looked at for its checksum; nothing ran


def test_selected_change_reruns_only_below_it(world, g):
    graph = g.run(g.copy(g.run(g.image(), "test"), g.context, "/app", "/src"), "make")
    world.solve(graph)
    world.remote["local://context"] = {"/app/main": "v2"}
    world.solve(graph)
    assert world.ran == ["local://context", "copy /app", "make"]


def test_copy_from_a_stage_that_reran_to_the_same_bytes_is_a_hit(world, g):
    def graph(command):
        return g.run(g.copy(g.image(), g.run(g.image(), command), "/out", "/usr"), "test")

    world.commands[("make2",)] = world.commands[("make",)]
    world.solve(graph("make"))
    world.solve(graph("make2"))
    assert world.ran == ["make2"]  # alpine is a hit; copy and test too


def test_shared_vertex_runs_once(world, g):
    a, b = g.run(g.image(), "make"), g.run(g.image(), "make")
    assert a == b
    assert a is not b
    world.solve(Edge(Vertex(Merge((0, 1)), (g.run(a, "test"), g.run(b, "rm")))))
    assert world.ran.count("make") == 1


def test_no_cache_reruns_it_and_what_depends_on_it_and_the_next_build_hits(world, g):
    plain = g.run(g.run(g.image(), "make"), "test")
    world.solve(plain)
    world.solve(g.run(g.run(g.image(), "make", no_cache=True), "test"))
    assert world.ran == ["make", "test"]
    world.solve(plain)
    assert world.ran == []


def test_no_cache_below_a_copy_of_unchanged_bytes_stops_there(world, g):
    def graph(**hints):
        return g.run(g.copy(g.image(), g.run(g.image(), "make", **hints), "/out", "/usr"), "test")

    world.solve(graph())
    world.solve(graph(no_cache=True))
    assert world.ran == ["make"]


def test_a_cache_holding_only_the_last_results_is_enough(world, g):
    graph = g.run(g.copy(g.image(), g.run(g.image(), "make"), "/out", "/usr"), "test")
    world.solve(graph)
    keep = list(world.cache.stored)[-2:]  # copy and test: a "min" remote cache
    world.cache.stored = {key: world.cache.stored[key] for key in keep}
    world.solve(graph)
    assert world.ran == []


def test_merge_is_concatenation_including_deletions(world, g):
    a, b = g.run(g.image(), "make"), g.run(g.run(g.image(), "make"), "rm")
    assert "/out/bin" not in world.solve(Edge(Vertex(Merge((0, 1)), (a, b))))[0]
    assert world.solve(Edge(Vertex(Merge((0, 1)), (b, a))))[0]["/out/bin"] == "built"


def test_merge_of_lower_and_diff_is_upper(world, g):
    lower = g.image()
    upper = g.run(g.run(lower, "make"), "test")
    diff = Edge(Vertex(Diff(0, 1), (lower, upper)))
    assert world.solve(Edge(Vertex(Merge((0, 1)), (lower, diff))))[1] == world.solve(upper)[1]


def test_a_deep_and_shared_graph_is_linear(world, g):
    edge = g.image()
    for _ in range(3000):
        edge = Edge(Vertex(Merge((0, 1)), (edge, edge)))
    assert len(list(walk(edge))) == 3001
    assert world.trunk(lambda solver, trunk: solver.key(edge.vertex)).digest


def test_failure_reaches_every_waiter_and_caches_nothing(world, g):
    def boom(files):
        raise StepFailed("exit 1", exit_code=1)

    world.commands[("boom",)] = boom
    edges = (g.run(g.image(), "boom"), g.run(g.run(g.image(), "boom"), "test"))
    with pytest.raises(StepFailed):
        world.solve(Edge(Vertex(Merge((0, 1)), edges)))
    assert world.ran.count("boom") == 1
    assert len(world.cache.stored) == 1  # the image
