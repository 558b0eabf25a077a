"""The nearest right word."""

import pytest

from kedge.model.suggest import did_you_mean, distance, nearest

INSTRUCTIONS = ("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "LABEL", "RUN", "USER", "WORKDIR")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("FORM", "FROM"),
        ("copi", "COPY"),
        ("ENTRYPONIT", "ENTRYPOINT"),
        ("WORKDIRS", "WORKDIR"),
        ("RN", "RUN"),
        ("BANANA", None),
        ("", None),
        ("X", None),
        ("E" * 1000, None),
    ],
)
def test_the_nearest_instruction_is_found(word, found):
    assert nearest(word, INSTRUCTIONS) == found


def test_the_hint_is_a_sentence_or_nothing():
    assert did_you_mean("biuld", ["test", "build"]) == "Did you mean build?"
    assert did_you_mean("zzz", ["test", "build"]) == ""


@pytest.mark.parametrize(
    ("left", "right", "edits"),
    [("", "", 0), ("a", "", 1), ("ab", "ba", 1), ("kitten", "sitting", 3), ("abc", "abc", 0)],
)
def test_edits_are_counted(left, right, edits):
    assert distance(left, right) == distance(right, left) == edits


def test_a_word_that_lacks_its_end_is_completed() -> None:
    assert nearest("tmp", ["bind", "cache", "tmpfs"]) == "tmpfs"
    assert nearest("t", ["tmp"]) is None
