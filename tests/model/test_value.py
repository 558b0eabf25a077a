"""Our dataclass behaves as the standard one does, for all that this code uses."""

import copy
import dataclasses
import pickle
from typing import ClassVar

import pytest

from kedge.model import value
from kedge.model.ops import Exec, Mount


@value.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 0
    note: str = value.field(default="", compare=False, repr=False)


@value.dataclass(frozen=True, slots=True)
class Point3(Point):
    z: int = 0


@value.dataclass
class Bag:
    items: list = value.field(default_factory=list)
    size: int = value.field(default=3, init=False)
    total: int = value.field(init=False)

    def __post_init__(self):
        self.total = len(self.items)


def test_construction_defaults_and_wrong_arguments():
    assert (Point(1).x, Point(1).y, Point(y=2, x=1).y) == (1, 0, 2)
    for arguments, given in (((), {}), ((1, 2, "", 3), {}), ((1,), {"x": 1}), ((1,), {"w": 1})):
        with pytest.raises(TypeError):
            Point(*arguments, **given)


def test_an_initialiser_does_the_same_once_it_is_compiled():
    @value.dataclass(frozen=True, slots=True)
    class Counted:
        a: int
        b: tuple = ()
        c: list = value.field(default_factory=list)
        d: int = value.field(default=0, init=False)

        def __post_init__(self):
            object.__setattr__(self, "d", self.a + len(self.b))

    first = Counted.__init__
    for number in range(100):
        made = Counted(number, b=(1,))
        assert (made.a, made.b, made.c, made.d) == (number, (1,), [], number + 1)
        assert Counted(1).c is not Counted(1).c
    assert Counted.__init__ is not first


def test_the_first_wrong_arguments_are_refused_in_the_usual_words():
    for given, words in (({}, "missing 1 required positional argument: 'a'"), ({"a": 1, "q": 2}, "argument 'q'")):

        @value.dataclass(frozen=True, slots=True)
        class One:
            a: int

        with pytest.raises(TypeError, match=words):
            One(**given)


def test_a_class_variable_is_no_field():
    @value.dataclass
    class Shared:
        count: ClassVar[int] = 3
        text: "ClassVar[str]" = ""
        own: int = 1

    assert repr(Shared()).endswith("(own=1)")


def test_equality_hash_and_repr_leave_out_what_the_fields_say():
    assert Point(1, 2, "a") == Point(1, 2, "b")
    assert hash(Point(1, 2, "a")) == hash(Point(1, 2, "b"))
    assert Point(1) != Point3(1)
    assert Point(1) != (1, 0)
    assert repr(Point(1, 2, "secret")) == "Point(x=1, y=2)"
    with pytest.raises(TypeError):
        hash(Bag())


def test_frozen_values_cannot_be_changed_and_have_no_dict():
    point = Point(1)
    with pytest.raises(AttributeError):
        point.x = 2
    with pytest.raises(AttributeError):
        del point.x
    assert not hasattr(point, "__dict__")


def test_mutable_values_get_their_own_defaults():
    one, two = Bag(), Bag()
    one.items.append(1)
    assert (two.items, Bag([1, 2]).total, Bag().size) == ([], 2, 3)


def test_inheritance_keeps_the_order_of_fields():
    assert repr(Point3(1, 2, "", 3)) == "Point3(x=1, y=2, z=3)"
    assert value.replace(Point3(1), z=5) == Point3(1, z=5)


def test_replace_refuses_unknown_and_uninitialised_fields():
    assert value.replace(Point(1), y=3) == Point(1, 3)
    with pytest.raises(TypeError):
        value.replace(Point(1), w=3)
    with pytest.raises(ValueError):
        value.replace(Bag(), size=4)


def test_a_mutable_default_is_refused():
    with pytest.raises(ValueError):
        value.dataclass(type("Wrong", (), {"__annotations__": {"a": list}, "a": []}))


def test_pickle_and_copy():
    for each in (Point3(1, 2, "n", 3), Exec(("x",), (Mount("/"),))):
        assert pickle.loads(pickle.dumps(each)) == each
        assert copy.deepcopy(each) == each
    assert pickle.loads(pickle.dumps(Point(1, 2, "kept"))).note == "kept"


def test_ordering():
    @value.dataclass(frozen=True, order=True)
    class Pair:
        a: int
        b: int = 0

    assert sorted([Pair(2), Pair(1, 5), Pair(1)]) == [Pair(1), Pair(1, 5), Pair(2)]
    assert Pair(1) <= Pair(1)
    assert Pair(2) > Pair(1)


def test_match_statement():
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_the_standard_functions_see_a_dataclass():
    assert dataclasses.is_dataclass(Point)
    assert dataclasses.asdict(Point(1, 2)) == {"x": 1, "y": 2, "note": ""}
    assert [f.name for f in dataclasses.fields(Point3)] == ["x", "y", "note", "z"]
    assert dataclasses.replace(Point(1), y=9) == Point(1, 9)

    @dataclasses.dataclass(frozen=True)
    class Standard(Point):
        w: int = 7

    assert Standard(1, w=8).w == 8
    assert value.replace(Standard(1), w=9).w == 9
    assert [f.name for f in value.fields(Standard(1))][-1] in ("w", "note")


def test_a_standard_base_is_understood():
    @dataclasses.dataclass
    class Standard:
        a: int

    @value.dataclass
    class Ours(Standard):
        b: int = 2

    assert (Ours(1).a, Ours(1).b, repr(Ours(1)).rpartition(".")[2]) == (1, 2, "Ours(a=1, b=2)")
