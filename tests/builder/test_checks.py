"""Checks of the Dockerfile, as a build and `--check` tell them."""

import json

import pytest

from kedge.cli.answers import show_answer
from kedge.model.errors import DockerfileError, KedgeError, Unsupported
from kedge.model.event import WarningEvent

TWO = "FROM scratch as B\nCOPY f /\n"


def warned(bench):
    return [event.rule for event in bench.events if isinstance(event, WarningEvent)]


def test_a_build_tells_its_warnings_and_goes_on(bench):
    bench.write(f="x")
    result = bench.build(TWO)
    assert [warning.rule for warning in result.warnings] == warned(bench) == ["StageNameCasing", "FromAsCasing"]
    assert result.images


def test_warnings_fail_a_build_when_asked(bench):
    bench.write(f="x")
    with pytest.raises(DockerfileError, match="checks failed: StageNameCasing, FromAsCasing"):
        bench.build("# check=error=true\n" + TWO)
    assert warned(bench) == ["StageNameCasing", "FromAsCasing"]


def test_a_build_argument_silences_them(bench):
    bench.write(f="x")
    assert not bench.build(TWO, build_args=(("BUILDKIT_DOCKERFILE_CHECK", "skip=all"),)).warnings


def test_a_check_reports_and_builds_nothing(bench):
    result = bench.build("# check=error=true\n" + TWO, call="check")
    assert [warning.rule for warning in result.warnings] == ["StageNameCasing", "FromAsCasing"]
    assert not result.images


def test_a_check_looks_at_all_stages_and_at_the_ignore_file(bench):
    bench.write(f="x", _dot_dockerignore="secret\n")
    result = bench.build("FROM scratch AS a\nADD secret /\nFROM scratch\nCOPY f /\n", call="check")
    assert [(warning.rule, warning.location.start) for warning in result.warnings] == [("CopyIgnoredFile", 2)]


def test_what_was_found_is_told_before_the_error_that_stops_lowering(bench):
    with pytest.raises(DockerfileError):
        bench.build("FROM --platform=$BULIDPLATFORM scratch\n")
    assert warned(bench) == ["UndefinedArgInFrom"]


def test_another_frontend_is_named_before_its_text_is_read(bench):
    with pytest.raises(Unsupported, match="example/other:1"):
        bench.build("# syntax=example/other:1\n- this: is\n- no: Dockerfile\n")


class Screen:
    def __init__(self):
        self.lines = []

    def print(self, text=""):
        self.lines.append(text)


def test_the_answer_shows_lines_or_docker_s_json(bench):
    result = bench.build(TWO, call="check")
    screen = Screen()
    assert show_answer(result, False, screen) == 1
    assert "   1 | >>> FROM scratch as B" in screen.lines
    screen = Screen()
    assert show_answer(result, True, screen) == 1
    found = json.loads("".join(screen.lines))
    assert [warning["ruleName"] for warning in found["warnings"]] == ["StageNameCasing", "FromAsCasing"]
    assert found["sources"][0]["filename"] == "Dockerfile"


def test_warnings_are_told_once_when_a_step_fails(bench):
    with pytest.raises(KedgeError):
        bench.build(TWO)
    assert warned(bench) == ["StageNameCasing", "FromAsCasing"]


@pytest.mark.parametrize(
    ("first", "second", "told"), [("amd64", "arm64", []), ("arm64", "amd64", ["WorkdirRelativePath"])]
)
def test_advice_is_about_the_first_platform(bench, first, second, told):
    text = "FROM scratch\nARG TARGETARCH\nWORKDIR ${TARGETARCH#amd64}/x\n"
    bench.build(text, platforms=(f"linux/{first}", f"linux/{second}"))
    assert warned(bench) == told
