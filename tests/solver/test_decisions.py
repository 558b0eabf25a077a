"""What docs/solver.md decides beyond the scenarios."""

import threading
import time

import pytest

from kedge.model.errors import Cancelled, StepFailed
from kedge.model.graph import Edge, Hints, Vertex
from kedge.model.ops import Exec, Merge, Mount
from kedge.solver.explain import Scope


def both(*edges):
    return Edge(Vertex(Merge(tuple(range(len(edges)))), edges))


def test_independent_vertices_run_at_the_same_time(world, g):
    together = threading.Barrier(16, timeout=60)
    for n in range(16):
        world.commands[(f"meet {n}",)] = lambda files: together.wait() * 0 or {"/met": "1"}
    world.solve(both(*(g.run(g.image(), f"meet {n}") for n in range(16))))


def test_a_failure_stops_running_work_waits_for_it_and_is_the_error_shown(world, g):
    others = threading.active_count()  # the test runner's, and what other tests left to end by itself
    ended = []

    def slow(files):
        ended.append(world.solver._trunk.cancel.wait(10))
        raise Cancelled("killed")

    def boom(files):
        time.sleep(0.05)
        raise StepFailed("exit 1", exit_code=1)

    world.commands |= {("slow",): slow, ("boom",): boom}
    slow_edge, boom_edge = g.run(g.image(), "slow"), g.run(g.image(), "boom")
    with pytest.raises(StepFailed):
        world.solve(both(slow_edge, boom_edge, g.run(slow_edge, "test")))
    world.solver.abandon(StepFailed("exit 1", exit_code=1))
    assert ended == [True]
    assert world.last(boom_edge).error == "exit 1"
    assert "cancelled" in world.last(slow_edge).error
    assert threading.active_count() <= others


def test_stop_from_outside_ends_with_cancelled(world, g):
    def slow(files):
        world.solver._trunk.cancel.wait(10)
        raise Cancelled("killed")

    world.commands[("slow",)] = slow

    async def main(solver, trunk):
        threading.Timer(0.05, trunk.stop).start()
        return await solver.solve(g.run(g.image(), "slow"))

    with pytest.raises(Cancelled):
        world.trunk(main)


def test_of_equal_vertices_the_one_with_no_cache_decides(world, g):
    plain, fresh = g.run(g.image(), "make"), g.run(g.image(), "make", no_cache=True)
    world.solve(plain)
    world.solve(both(g.run(plain, "test"), g.run(fresh, "rm")))
    assert world.ran.count("make") == 1


def test_a_volatile_source_is_never_stored_and_keys_only_what_is_selected(world, g):
    world.volatile.add("local://context")
    graph = g.run(g.copy(g.image(), g.context, "/app", "/src"), "make")
    world.solve(graph)
    assert len(world.cache.stored) == 3
    world.remote["local://context"] = {"/app/main": "v1", "/other": "new"}
    world.solve(graph)
    assert world.ran == ["local://context"]
    assert world.looked == [("/app",)]
    assert world.last(graph).cached
    world.remote["local://context"] = {"/app/main": "v2"}
    world.solve(graph)
    assert world.ran == ["local://context", "copy /app", "make"] or world.ran[-2:] == ["copy /app", "make"]
    assert "docker-image://alpine" not in world.ran


def test_an_op_that_takes_a_volatile_source_by_key_is_known_by_all_its_files(world, g):
    world.volatile.add("local://context")
    edge = Edge(Vertex(Exec(("test",), (Mount("/", 0, 0), Mount("/src", 1))), (g.image(), g.context)))
    world.solve(edge)
    world.solve(edge)
    assert world.ran == ["local://context"]
    world.remote["local://context"] = {"/docs/x": "changed"}
    world.solve(edge)
    assert world.ran[-1] == "test"


def test_mixed_content_inputs_need_no_run_of_the_stage_on_a_second_build(world, g):
    world.volatile.add("local://context")
    stage = g.run(g.image(), "make")
    graph = g.copy(g.copy(g.image(), g.context, "/app", "/src"), stage, "/out", "/usr")
    world.solve(graph)
    world.solve(graph)
    assert world.ran == ["local://context"]


def test_two_builds_at_once_on_one_store_run_a_step_once(world, g):
    graph = g.run(g.image(), "pause")
    runs = []
    world.commands[("pause",)] = lambda files: runs.append(1) or time.sleep(0.2) or {"/p": "1"}
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(world.trunk(lambda s, t: s.solve(graph)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1
    assert len(results) == 4
    assert len(set(results)) == 1


def test_every_vertex_is_announced_then_told_cached_or_started_and_completed(world, g):
    graph = g.run(g.image(), "make")
    world.solve(graph)
    assert [e.started is None for e in world.events[:2]] == [True, True]
    assert world.last(graph).completed is not None
    assert not world.last(graph).cached
    world.solve(graph)
    assert world.last(graph).cached


def test_a_step_is_told_to_start_once_and_to_end_once(world, g):
    graph = g.run(g.image(), "make")
    world.solve(graph)
    told = [e for e in world.events if e.vertex == graph.vertex.digest and e.started is not None]
    assert [e.completed is None for e in told] == [True, False]
    assert len({e.started for e in told}) == 1


def test_a_bug_in_an_operation_shows_as_what_it_is(world, g):
    def bug(files):
        raise ZeroDivisionError

    world.commands[("bug",)] = bug
    with pytest.raises(ZeroDivisionError):
        world.solve(g.run(g.image(), "bug"))


def test_a_changed_command_is_named_as_the_reason(world, g):
    world.commands[("make all",)] = world.commands[("make",)]
    world.solve(g.run(g.image(), "make", name="[build 2/3] RUN make"))
    after = g.run(g.image(), "make all", name="[build 2/3] RUN make all")
    world.solve(after)
    assert world.solver.misses[after.vertex.digest].reasons == ("command changed from 'make' to 'make all'",)


def test_changed_files_are_named_by_the_input_they_came_from(world, g):
    world.volatile.add("local://context")
    context = Edge(Vertex(g.context.vertex.op, hints=Hints("the context")))
    graph = g.copy(g.image(), context, "/app", "/src", name="[1/2] COPY")
    world.solve(graph)
    world.remote["local://context"] = {"/app/main": "v2"}
    world.solve(graph)
    assert world.solver.misses[graph.vertex.digest].reasons == ("files it takes from the context changed",)


def test_what_no_build_in_this_place_has_done_is_compared_with_another_of_the_same_name(world, g):
    world.commands[("make all",)] = world.commands[("make",)]
    world.scopes = (Scope("/a"), Scope("app", "the last build of app"))
    world.solve(g.run(g.image(), "make", name="[2/2] RUN make"))
    world.scopes = (Scope("/b"), Scope("app", "the last build of app"))
    after = g.run(g.image(), "make all", name="[2/2] RUN make all")
    world.solve(after)
    assert world.solver.misses[after.vertex.digest].reasons == (
        "command changed from 'make' to 'make all'",
        "compared with the last build of app, as none in this place has done it before",
    )


def test_a_result_that_was_collected_and_a_first_build_are_told_apart(world, g):
    graph = g.run(g.image(), "make")
    world.solve(graph)
    assert world.solver.misses[graph.vertex.digest].reasons == (
        "no build of this Dockerfile in this place has done it before",
    )
    world.cache.stored.clear()
    world.solve(graph)
    assert world.solver.misses[graph.vertex.digest].reasons == ("its result is no longer in the store",)


def test_stages_that_are_copied_from_one_after_the_other_run_side_by_side(world, g):
    edge = g.image()
    together = threading.Barrier(8, timeout=60)
    for n in range(8):
        world.commands[(f"meet {n}",)] = lambda files: together.wait() * 0 or {"/met": "1"}
        edge = g.copy(edge, g.run(g.image(), f"meet {n}"), "/met", f"/{n}")
    world.solve(edge)


def test_what_a_lost_result_held_is_not_believed_when_its_reader_must_run(world, g):
    counter = iter(range(100))
    world.commands[("date",)] = lambda files: {"/out/date": f"day {next(counter)}"}
    stage = g.run(g.image(), "date")
    world.solve(g.copy(g.image(), stage, "/out", "/usr"))
    image_and_copy = {
        key: value
        for key, value in world.cache.stored.items()
        if value != [world.solver._results[stage.vertex].result()[0]]
    }
    world.cache.stored = image_and_copy  # the stage's own result was collected
    world.remote["docker-image://debian"] = {"/bin/sh": "2"}
    files, _ = world.solve(g.copy(g.image("debian"), stage, "/out", "/usr"))  # same copy, other base: must run
    assert files["/usr/date"] == "day 1"
    again, _ = world.solve(g.copy(g.image("debian"), stage, "/out", "/usr"))
    assert again == files
    assert world.ran == []
    world.commands[("write",)] = lambda files: {"/out/date": "day 0"}
    other, _ = world.solve(g.copy(g.image("debian"), g.run(g.image(), "write"), "/out", "/usr"))
    assert other["/usr/date"] == "day 0"  # nothing was stored under the content of day 0 that holds day 1


def test_peeking_shows_what_is_known_and_runs_nothing(world, g):
    stage = g.run(g.image(), "make")
    graph = g.copy(g.image(), stage, "/out", "/usr")
    never = g.run(g.image(), "test")
    world.solve(graph)
    made = world.solver.peek(stage)
    assert world.files(made)["/out/bin"] == "built"
    world.solve(graph)  # all cached: the stage's key is known, its results are stored
    assert world.solver.peek(stage) == made
    assert world.solver.peek(never) is None
    assert world.ran == []
