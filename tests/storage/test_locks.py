"""Locks exclude threads and processes alike; leases tell the living from the dead."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kedge.model.errors import Cancelled
from kedge.storage.locks import Lease, Locks, living_leases, owner_of
from kedge.storage.store import Store


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(tmp_path)


def test_a_held_lock_keeps_other_threads_out(locks: Locks) -> None:
    order: list[str] = []

    def second() -> None:
        with locks.held("a"):
            order.append("second")

    with locks.held("a"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_different_names_do_not_wait_for_each_other(locks: Locks) -> None:
    with locks.held("a"), locks.tried("b") as got:
        assert got


def test_shared_holders_are_together_and_keep_exclusive_ones_out(locks: Locks) -> None:
    with locks.held("a", shared=True), locks.held("a", shared=True), locks.tried("a") as got:
        assert not got
    with locks.tried("a") as got:
        assert got


def test_a_waiter_that_is_cancelled_stops_waiting(locks: Locks) -> None:
    cancel = threading.Event()
    threading.Timer(0.05, cancel.set).start()
    with locks.held("a"), pytest.raises(Cancelled), locks.held("a", cancel=cancel):
        pass


def test_a_lock_may_be_left_on_another_thread(locks: Locks) -> None:
    held = locks.held("a")
    held.__enter__()
    thread = threading.Thread(target=held.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    with locks.tried("a") as got:
        assert got


def test_the_death_of_a_process_releases_its_lock(locks: Locks, tmp_path: Path) -> None:
    program = f"""
import time, pathlib
from kedge.storage.locks import Locks
with Locks(pathlib.Path({str(tmp_path)!r})).held("a"):
    print("held", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdout.readline() == b"held\n"
    with locks.tried("a") as got:
        assert not got
    child.kill()
    child.wait()
    child.stdout.close()
    with locks.held("a"):
        pass


def test_a_lease_lives_until_it_is_closed(root: Path) -> None:
    Store.open(root).close()
    lease = Lease(root)
    name = owner_of(lease.new_name())
    assert living_leases(root) == {name: lease.start}
    lease.close()
    assert living_leases(root) == {}
    assert os.listdir(root / "leases") == []


def test_a_lease_that_was_closed_is_not_taken_again(root: Path) -> None:
    """By a step that goes on a little after its build was stopped: nobody would close it any more."""
    with Store.open(root) as store:
        store.protect()
        assert len(os.listdir(root / "leases")) == 1
    with pytest.raises(Cancelled):
        store.protect()
    never = Lease(root)
    never.close()
    with pytest.raises(Cancelled):
        never.new_name()
    assert os.listdir(root / "leases") == []


def test_a_lease_costs_nothing_until_it_is_needed(root: Path) -> None:
    with Store.open(root):
        assert os.listdir(root / "leases") == []
