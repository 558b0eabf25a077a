"""Rules by which things go of themselves."""

import os
import time
from pathlib import Path

import pytest

from kedge.storage.policies import Policy, collect
from kedge.storage.store import Store
from tests.storage.test_gc import pass_time, total, used

MB = 1_000_000


@pytest.mark.parametrize(
    ("policy", "free", "kept"),
    [
        (Policy(), 0, None),
        (Policy(max_used_space=30), 0, 30),
        (Policy(reserved_space=30), 0, 30),
        (Policy(reserved_space=30, max_used_space=20), 0, 30),
        (Policy(min_free_space=10), 10, 100),  # enough is free: nothing goes
        (Policy(min_free_space=10), 4, 94),
        (Policy(min_free_space=500), 0, 0),
        (Policy(min_free_space=500, reserved_space=7), 0, 7),
        (Policy(min_free_space=10, max_used_space=95), 4, 94),
        (Policy(min_free_space=10, max_used_space=50), 4, 50),
    ],
)
def test_how_much_may_stay_of_a_store_of_100(policy: Policy, free: int, kept: int | None) -> None:
    assert policy.kept(100, free) == kept


def later(root: Path, policy: Policy, images: bool = True) -> set[str]:
    """Apply a rule when the build has ended; the kinds of what went."""
    pass_time()
    with Store.open(root) as store:
        return {one.kind for one in collect(store, [policy], images=images)}


def test_nothing_goes_while_the_store_takes_little(root: Path) -> None:
    used(root)
    assert later(root, Policy(all=True, max_used_space=1000 * MB)) == set()


def test_what_is_over_the_size_goes_but_for_what_an_image_holds(root: Path) -> None:
    held, unused, blob = used(root)
    assert {"layer", "blob", "log"} <= later(root, Policy(max_used_space=1))
    with Store.open(root) as store:
        left = {one.id for one in store.usage()}
    assert held in left
    assert not {unused, blob} & left


def test_where_names_hold_nothing_they_go_first(root: Path) -> None:
    held, _, _ = used(root)
    assert "layer" in later(root, Policy(max_used_space=1), images=False)
    with Store.open(root) as store:
        assert held not in {one.id for one in store.usage()}
        assert store.images.list() == []


def test_only_what_was_long_unused_goes(root: Path) -> None:
    used(root)
    assert later(root, Policy(keep_seconds=3600)) == set()
    assert later(root, Policy(keep_seconds=3600), images=False) == set()
    assert "layer" in later(root, Policy(keep_seconds=0.001))


def test_only_what_is_chosen_goes(root: Path) -> None:
    used(root)
    assert later(root, Policy(chosen=lambda one: one.kind == "log")) == {"log"}


def test_rules_count_what_those_before_them_removed(root: Path) -> None:
    with Store.open(root) as store:
        for id in "ab":
            with store.cache_mounts.use(id, "shared") as directory:
                (directory / "f").write_bytes(os.urandom(2 * MB))
    pass_time()
    with Store.open(root) as store:
        most = total(store) - MB
        rules = [Policy(chosen=lambda one: one.description == "a", max_used_space=most), Policy(max_used_space=most)]
        gone = collect(store, rules)
        assert [one.description for one in gone] == ["a"]
        assert time.time() > gone[0].last_used
