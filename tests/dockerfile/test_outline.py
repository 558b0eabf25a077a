"""`--call outline` and `--call targets`: values, text and JSON."""

import base64
import json
from collections.abc import Callable
from typing import Any

from kedge.dockerfile.stages import read_dockerfile
from kedge.dockerfile.targets import list_targets

Lower = Callable[..., Any]
TEXT = """# VERSION which Go
ARG VERSION=1.25
ARG UNUSED=1
ARG SUFFIX=-alpine
ARG TAG=${VERSION}${SUFFIX}
# build compiles it
FROM golang:${TAG} AS build
# GOFLAGS flags for the compiler
ARG GOFLAGS
RUN --mount=type=secret,id=token,required --mount=type=ssh go build
FROM b AS other
ARG OTHER=1
# final only the program
FROM scratch AS final
ARG FINAL=x
COPY --from=build /x /
"""


def test_an_outline_lists_what_the_target_and_its_stages_take(lowered: Lower) -> None:
    outline = lowered(TEXT, build_args={"FINAL": "y"}).target.outline
    assert (outline.name, outline.description) == ("final", "only the program")
    assert [(arg.name, arg.value, arg.description, arg.location.start) for arg in outline.args] == [
        ("VERSION", "1.25", "which Go", 2),
        ("SUFFIX", "-alpine", "", 4),
        ("TAG", "1.25-alpine", "", 5),
        ("GOFLAGS", "", "flags for the compiler", 9),
        ("FINAL", "y", "", 15),
    ]
    assert [(use.id, use.required) for use in (*outline.secrets, *outline.ssh)] == [("token", True), ("default", False)]


def test_an_outline_reads_well(lowered: Lower) -> None:
    assert lowered(TEXT).target.outline.to_text() == (
        "TARGET:      final\n"
        "DESCRIPTION: only the program\n"
        "\n"
        "BUILD ARG   VALUE         DESCRIPTION\n"
        "VERSION     1.25          which Go\n"
        "SUFFIX      -alpine       \n"
        "TAG         1.25-alpine   \n"
        "GOFLAGS                   flags for the compiler\n"
        "FINAL       x             \n"
        "\n"
        "SECRET   REQUIRED\n"
        "token    true\n"
        "\n"
        "SSH       REQUIRED\n"
        "default   \n"
        "\n"
    )


def test_an_outline_is_json_as_buildkit_gives_it(lowered: Lower) -> None:
    value = json.loads(lowered(TEXT, target="build").target.outline.to_json())
    assert list(value) == ["name", "description", "args", "secrets", "ssh", "sources"]
    assert value["args"][0] == {
        "name": "VERSION",
        "description": "which Go",
        "value": "1.25",
        "location": {"ranges": [{"start": {"line": 2}, "end": {"line": 2}}]},
    }
    assert value["secrets"][0]["required"] is True
    assert "required" not in value["ssh"][0]
    assert base64.b64decode(value["sources"][0]).decode() == TEXT


def test_an_outline_of_nothing_is_empty(lowered: Lower) -> None:
    assert lowered("FROM scratch\n").target.outline.to_text() == ""


def test_targets_are_all_stages() -> None:
    targets = list_targets(read_dockerfile(TEXT))
    assert targets.to_text() == (
        "TARGET          DESCRIPTION\nbuild           compiles it\nother           \nfinal (default) only the program\n"
    )
    value = json.loads(targets.to_json())
    assert value["targets"][0] == {
        "name": "build",
        "description": "compiles it",
        "base": "golang:${TAG}",
        "location": {"ranges": [{"start": {"line": 7}, "end": {"line": 7}}]},
    }
    assert value["targets"][2]["default"] is True


def test_a_stage_without_name_is_the_default() -> None:
    assert list_targets(read_dockerfile("FROM --platform=$BUILDPLATFORM a\n")).to_text() == (
        "TARGET    DESCRIPTION\n(default) \n"
    )
