"""A short Dockerfile that comes to gigabytes, or takes hours, ends in an error, at the line that goes too far."""

from collections.abc import Sequence

import pytest

from kedge.dockerfile import state
from kedge.dockerfile.words import expand
from kedge.model import patterns
from kedge.model.errors import DockerfileError
from tests.dockerfile.conftest import Lower

LARGE = "FROM scratch\nENV a=" + "x" * 60_000 + "\n" + "ENV a=$a$a$a$a\n" * 2  # a million characters


@pytest.mark.parametrize(
    "lines",
    [
        "ENV b$N=$a\n",
        "LABEL b$N=$a\n",
        "RUN x\n",
        "COPY <<E /x\n$a\nE\n",
        "EXPOSE 1-65535\n",
        "ARG c=$a\n",
    ],
)
def test_what_is_copied_again_and_again_is_bounded(lowered: Lower, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_GROWTH", 16 << 20)
    with pytest.raises(DockerfileError, match="comes to more than 16 MiB of text") as caught:
        lowered(LARGE + "".join(lines.replace("$N", str(number)) for number in range(50)))
    assert caught.value.location
    assert caught.value.location.start > 4


def test_stages_on_stages_are_bounded(lowered: Lower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_GROWTH", 1 << 20)
    with pytest.raises(DockerfileError, match="comes to more than 1 MiB of text"):
        lowered("FROM scratch AS s0\n" + "".join(f"ENV a=1\nFROM s{n} AS s{n + 1}\n" for n in range(500)))


def test_no_more_ports_are_read_than_there_are(lowered: Lower) -> None:
    with pytest.raises(DockerfileError, match="more than 196608 ports"):
        lowered("FROM scratch\nEXPOSE " + "1-65535 " * 4 + "\n")
    every = lowered("FROM scratch\nEXPOSE 0-65535 0-65535/udp 0-65535/sctp\n").config.exposed_ports
    assert len(every) == 196608


def test_an_ignore_file_is_read_once_for_all_instructions(lowered: Lower, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    class Counting(patterns.Patterns):
        def __init__(self, lines: Sequence[str]) -> None:
            read.append(tuple(lines))
            super().__init__(lines)

    monkeypatch.setattr(patterns, "Patterns", Counting)
    lowered("FROM scratch\nCOPY a b /\nADD c /\nFROM scratch\nCOPY d /\n", ignore={"context": ("x/*", "y")})
    assert read == [("x/*", "y")]


def test_a_pattern_that_each_character_would_be_compared_with_is_bounded() -> None:
    value = "x" * 1000
    assert expand("${a#" + "?" * 99 + "x}", {"a": value}).text == "x" * 900
    with pytest.raises(DockerfileError, match="more than 100 characters around a"):
        expand("${a//" + "?" * 100 + "x/}", {"a": value})
