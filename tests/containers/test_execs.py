"""Processes that were prepared in a container, and what is kept of them."""

import os
from pathlib import Path

import pytest

from kedge.containers import execs
from kedge.containers.streams import Streams
from kedge.containers.supervised import Exec, Supervised
from kedge.containers.supervisor import Supervisor
from kedge.model.errors import NotFound
from kedge.sandbox.process import Process


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    return Supervisor(tmp_path, lambda *_: None)


@pytest.fixture
def running(supervisor: Supervisor) -> Supervised:
    one = supervisor.create("image", "sha256:" + "0" * 64, ("sleep",), "c", auto_remove=False)
    one.send = lambda _: None  # it runs, as far as anybody can see
    return one


def prepare(supervisor: Supervisor, one: Supervised) -> Exec:
    return supervisor.execs.prepare(one, Process(("true",)), Streams(False, True), {})


def is_known(supervisor: Supervisor, each: Exec) -> bool:
    try:
        return supervisor.execs.find(each.id) is each
    except NotFound:
        return False


def test_of_those_that_are_never_started_only_the_last_are_kept(
    supervisor: Supervisor, running: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execs, "_MOST_WAITING", 3)
    begun = prepare(supervisor, running)
    begun.started = begun.running = True
    before = len(os.listdir("/proc/self/fd"))
    made = [prepare(supervisor, running) for _ in range(10)]
    assert [is_known(supervisor, each) for each in made] == [False] * 7 + [True] * 3
    assert is_known(supervisor, begun)
    assert len(os.listdir("/proc/self/fd")) == before + 3 * 2  # each has a pipe for its input
    with pytest.raises(NotFound):
        supervisor.execs.run(made[0])
    assert set(running.execs) == {each.id for each in (begun, *made[7:])}
    supervisor.execs.forget(running)
    assert not any(is_known(supervisor, each) for each in made)
    for each in (begun, *made):
        each.streams.finish()


def test_of_those_that_have_ended_the_last_are_remembered(supervisor: Supervisor, running: Supervised) -> None:
    made = []
    for _ in range(execs._MOST + 5):
        made.append(prepare(supervisor, running))
        made[-1].started, made[-1].exit_code = True, 0
        made[-1].streams.finish()
    prepare(supervisor, running).streams.finish()
    assert [is_known(supervisor, each) for each in made] == [False] * 5 + [True] * execs._MOST
