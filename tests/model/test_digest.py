"""Digests of values never change: a store's results are found by them, by this version and the next."""

import enum

import pytest

from kedge.model.digest import digest_of
from kedge.model.ops import Exec, Mount


class Colour(enum.Enum):
    RED = 1


class Word(str):
    pass


@pytest.mark.parametrize(
    ("value", "digest"),
    [
        (None, "74234e98afe7"),
        (True, "b5bea41b6c62"),
        (7, "7902699be42c"),
        (1.5, "9f29a130438b"),
        ("a", "ac8d8342bbb2"),
        (Word("a"), "ac8d8342bbb2"),
        (("a", [1, ("b",)]), "c01bdd37814b"),
        (frozenset({"x", "y"}), "72c00207d6de"),
        (b"\0z", "643f01f840a5"),
        (Colour.RED, "0c796e70bc02"),
        ({"k": (1,), "a": None}, "62d57e24f5d0"),
        (Exec(("x",), (Mount("/"),)), "5f3bb5a2c511"),
    ],
)
def test_the_digest_of_a_value(value, digest):
    assert digest_of(value)[7:19] == digest


def test_what_has_no_digest_is_refused():
    with pytest.raises(TypeError, match="object has no digest"):
        digest_of((1, object()))
