"""Groups that limit steps: they and the parents made for them go with the last who used them."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.sandbox import cgroups
from kedge.sandbox.process import Limits, Process

LIMITS = Limits(memory=64 << 20)


@pytest.fixture
def parent() -> Iterator[str]:
    """A name for a parent that nobody else uses."""
    if reason := cgroups.why_not(LIMITS):
        pytest.skip(f"this machine makes no cgroups for us: {reason}")
    name = f"kedge-test-{os.getpid()}-{os.urandom(3).hex()}"
    yield name
    for found in sorted(places(name), reverse=True):
        found.rmdir()


def places(name: str) -> list[Path]:
    return [path for top in Path("/sys/fs/cgroup").glob(f"**/{name}") for path in (top, *top.rglob("*/"))]


def step(parent: str) -> Process:
    return Process(("/bin/true",), limits=LIMITS, cgroup_parent=parent)


def test_a_step_joins_a_group_below_its_parent_and_nothing_is_left(parent: str) -> None:
    with cgroups.limited(step(f"{parent}/deep"), None) as files:
        assert files
        assert all(f"/{parent}/deep/kedge-" in file and os.path.exists(file) for file in files)
    assert places(parent) == []


def test_a_parent_that_others_use_stays_until_the_last_has_left(parent: str) -> None:
    with cgroups.limited(step(parent), None):
        with cgroups.limited(step(parent), None):
            pass
        assert len(places(parent)) == 2
    assert places(parent) == []


def test_a_parent_that_was_there_stays(parent: str) -> None:
    with cgroups.limited(step(""), None) as files:
        own = Path(files[0]).parent.parent / parent
    own.parent.mkdir(exist_ok=True)  # the service's own group may have gone with its last step
    own.mkdir()
    with cgroups.limited(step(parent), None):
        pass
    assert own.is_dir()


def test_many_who_come_and_go_at_once_do_not_take_it_from_each_other(parent: str) -> None:
    notes: list[str] = []

    def work() -> None:
        for _ in range(30):
            with cgroups.limited(step(parent), notes.append) as files:
                assert files

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes == []
    assert places(parent) == []
