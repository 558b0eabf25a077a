"""Durations and sizes of any length are read or refused."""

import pytest

from kedge.dockerfile.durations import parse_duration, parse_size
from kedge.model.errors import DockerfileError

NINES = "9" * 5000  # more digits than Python's int() takes


@pytest.mark.parametrize("text", [f"{NINES}s", f"1h{NINES}ns", f"-{NINES}.5s", f"{NINES}.{NINES}h"])
def test_a_duration_beyond_all_numbers_is_refused(text):
    with pytest.raises(DockerfileError, match="invalid duration"):
        parse_duration(text)


def test_digits_that_do_not_count_do_not_matter():
    assert parse_duration("0" * 5000 + "1s") == 10**9
    assert parse_duration(f"1.{NINES}s") == 2 * 10**9 - 1
    assert parse_duration("0.000000001" + "0" * 5000 + "s") == 1


@pytest.mark.parametrize("text", [NINES, f"{NINES}k", f"1.{NINES}"])
def test_a_size_beyond_all_numbers_is_refused(text):
    with pytest.raises(DockerfileError, match="invalid size"):
        parse_size(text)
