"""What instructions leave in the image's config and history, and how variables reach them."""

from collections.abc import Callable
from typing import Any

import pytest

from kedge.dockerfile.findings import Findings
from kedge.dockerfile.lower import lower, needed_images
from kedge.dockerfile.options import LowerOptions, ResolvedImage
from kedge.dockerfile.stages import read_dockerfile
from kedge.model.digest import sha256
from kedge.model.errors import DockerfileError
from kedge.model.image import Healthcheck, History, ImageConfig
from kedge.model.ops import NO_INPUT, File, MakeDir, Owner
from kedge.model.platform import Platform

Lower = Callable[..., Any]
ARM = Platform("linux", "arm64")
AMD = Platform("linux", "amd64")
BASE = "docker.io/library/a:latest"


def test_scratch_has_a_path_and_a_directory(lowered: Lower) -> None:
    result = lowered("FROM scratch\n")
    assert result.target.edge is None
    assert result.config == ImageConfig(
        AMD, env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",), working_dir="/"
    )


def test_every_instruction_writes_its_history(lowered: Lower) -> None:
    text = """FROM scratch
MAINTAINER A. Person
LABEL a=1 "b c"="d e"
ENV X=1 Y="two words"
ARG Z=3
WORKDIR /w
USER me
EXPOSE 8000-8002/udp 80
VOLUME /v /w
STOPSIGNAL SIGINT
SHELL ["/bin/bash", "-c"]
HEALTHCHECK --interval=5s CMD true
ENTRYPOINT ["/e", "a b"]
CMD run me
ONBUILD RUN x
COPY --chown=1:2 a b /d/
"""
    result = lowered(text)
    assert result.history == [
        "MAINTAINER A. Person",
        "LABEL a=1 b c=d e",
        "ENV X=1 Y=two words",
        "ARG Z=3",
        "WORKDIR /w",
        "USER me",
        "EXPOSE [80/tcp 8000/udp 8001/udp 8002/udp]",
        "VOLUME [/v /w]",
        "STOPSIGNAL SIGINT",
        "SHELL [/bin/bash -c]",
        "HEALTHCHECK {Test:[CMD-SHELL true] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
        'ENTRYPOINT ["/e" "a b"]',
        'CMD ["/bin/bash" "-c" "run me"]',
        "COPY --chown=1:2 a b /d/ # buildkit",
    ]
    config = result.config
    assert [e.empty_layer for e in config.history] == [True] * 4 + [False] + [True] * 8 + [False]
    assert {entry.comment for entry in config.history} == {"buildkit.dockerfile.v0"}
    assert config.author == "A. Person"
    assert config.labels == (("a", "1"), ("b c", "d e"))
    assert config.env[1:] == ("X=1", "Y=two words")
    assert (config.working_dir, config.user, config.stop_signal) == ("/w", "me", "SIGINT")
    assert config.exposed_ports == ("80/tcp", "8000/udp", "8001/udp", "8002/udp")
    assert config.volumes == ("/v", "/w")
    assert config.healthcheck == Healthcheck(("CMD-SHELL", "true"), 5 * 10**9)
    assert config.entrypoint == ("/e", "a b")
    assert config.cmd == ("/bin/bash", "-c", "run me")
    assert config.on_build == ("RUN x",)
    assert [str(location) for location in result.target.history_locations[:2]] == ["Dockerfile:2", "Dockerfile:3"]


def test_the_history_of_the_base_comes_first(lowered: Lower) -> None:
    base = ImageConfig(AMD, history=(History("base"),), created="2020-01-01T00:00:00Z", diff_ids=(sha256(b"x"),))
    result = lowered("FROM a\nUSER x\n", {BASE: base})
    assert result.history == ["base", "USER x"]
    assert result.target.history_locations[0] is None
    assert result.target.base == base
    assert result.config.created == ""
    assert result.config.diff_ids == base.diff_ids


# ---- environment and arguments ---------------------------------------------------------------------------------------


def test_a_variable_set_again_keeps_its_place(lowered: Lower) -> None:
    base = ImageConfig(AMD, env=("PATH=/b", "X=1", "Y=2"))
    assert lowered("FROM a\nENV X=3 Z=4\n", {BASE: base}).config.env == ("PATH=/b", "X=3", "Y=2", "Z=4")


def test_variables_of_one_env_do_not_see_each_other(lowered: Lower) -> None:
    assert lowered("FROM scratch\nENV a=1\nENV a=2 b=$a\n").config.env[1:] == ("a=2", "b=1")


def test_arguments_are_not_in_the_config(lowered: Lower) -> None:
    result = lowered("FROM scratch\nARG X=1\nENV Y=$X\n")
    assert result.config.env[1:] == ("Y=1",)


def test_env_wins_over_arg(lowered: Lower) -> None:
    result = lowered("FROM scratch\nARG V=arg\nENV V=env\nLABEL l=$V\n", build_args={"V": "given"})
    assert result.config.labels == (("l", "env"),)


@pytest.mark.parametrize(
    ("text", "given", "wanted"),
    [
        ("ARG V=global\nFROM scratch\nLABEL l=$V", {}, ""),
        ("ARG V=global\nFROM scratch\nARG V\nLABEL l=$V", {}, "global"),
        ("ARG V=global\nFROM scratch\nARG V=own\nLABEL l=$V", {}, "own"),
        ("ARG V=global\nFROM scratch\nARG V=own\nLABEL l=$V", {"V": "given"}, "given"),
        ("ARG A=1\nARG V=${A}2\nFROM scratch\nARG V\nLABEL l=$V", {}, "12"),
        ("ARG A=1\nARG V=${A}2\nFROM scratch\nARG V\nLABEL l=$V", {"A": "x"}, "x2"),
        ("FROM scratch\nARG V\nLABEL l=${V-unset}", {}, "unset"),
        ("FROM scratch\nARG V=\nLABEL l=${V-unset}${V:-empty}", {}, "empty"),
        ("FROM scratch AS x\nARG V=parent\nFROM x\nLABEL l=$V", {}, "parent"),
        ("FROM scratch AS x\nARG V=parent\nFROM scratch\nLABEL l=$V", {}, ""),
        ("FROM scratch\nARG A=1 V=$A\nLABEL l=$V", {}, "1"),
        ("FROM scratch\nARG TARGETARCH\nLABEL l=$TARGETARCH", {}, "arm64"),
        ("FROM scratch\nARG TARGETARCH=x\nLABEL l=$TARGETARCH", {}, "x"),
        ("FROM scratch\nLABEL l=$TARGETARCH", {}, ""),
        ("FROM scratch\nARG TARGETPLATFORM\nLABEL l=$TARGETPLATFORM", {}, "linux/arm64"),
        ("FROM scratch\nARG BUILDPLATFORM\nLABEL l=$BUILDPLATFORM", {}, "linux/amd64"),
        ("FROM scratch AS it\nARG TARGETSTAGE\nLABEL l=$TARGETSTAGE", {}, "it"),
        ("FROM scratch\nARG TARGETSTAGE\nLABEL l=$TARGETSTAGE", {}, "default"),
        ("FROM scratch\nARG HTTP_PROXY\nLABEL l=$HTTP_PROXY", {"HTTP_PROXY": "http://p"}, "http://p"),
        ("FROM scratch\nARG V=a:b\nLABEL l=${V#*:}${V%:*}${V/a/c}", {}, "bac:b"),
    ],
)  # fmt: skip
def test_arguments_come_from_the_caller_the_stage_or_the_top(
    lowered: Lower, text: str, given: dict[str, str], wanted: str
) -> None:
    result = lowered(text + "\n", build_args=given, target_platform=ARM)
    assert result.config.labels == (("l", wanted),)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("LABEL $V=$V", "labels", (("val", "val"),)),
        ("USER $V:$V", "user", "val:val"),
        ("WORKDIR /$V", "working_dir", "/val"),
        ("EXPOSE $P", "exposed_ports", ("80/tcp", "81/tcp", "90/udp")),
        ("VOLUME /$V", "volumes", ("/val",)),
        ("VOLUME [\"/$V\"]", "volumes", ("/val",)),
        ("STOPSIGNAL SIG$S", "stop_signal", "SIGINT"),
        ("CMD echo $V", "cmd", ("/bin/sh", "-c", "echo $V")),
        ('ENTRYPOINT ["$V"]', "entrypoint", ("$V",)),
        ('SHELL ["$V"]', "shell", ("$V",)),
        ("ONBUILD RUN $V", "on_build", ("RUN $V",)),
        ("MAINTAINER $V", "author", "$V"),
        ("HEALTHCHECK CMD $V", "healthcheck", Healthcheck(("CMD-SHELL", "$V"))),
    ],
)  # fmt: skip
def test_some_instructions_expand_and_others_do_not(lowered: Lower, line: str, field: str, value: Any) -> None:
    text = f'FROM scratch\nARG V=val S=INT\nENV P="80-81 90/udp"\n{line}\n'
    assert getattr(lowered(text).config, field) == value


# ---- rules of the config ---------------------------------------------------------------------------------------------


def test_an_entrypoint_resets_an_inherited_command(lowered: Lower) -> None:
    base = ImageConfig(AMD, cmd=("old",), entrypoint=("e",))
    assert lowered('FROM a\nENTRYPOINT ["new"]\n', {BASE: base}).config.cmd is None
    assert lowered('FROM a\nCMD ["c"]\nENTRYPOINT ["new"]\n', {BASE: base}).config.cmd == ("c",)
    assert lowered('FROM a AS x\nCMD ["c"]\nFROM x\nENTRYPOINT ["new"]\n', {BASE: base}).config.cmd is None
    assert lowered("FROM a\nENTRYPOINT []\n", {BASE: base}).config.entrypoint is None


def test_labels_of_the_caller_come_last_and_leave_no_history(lowered: Lower) -> None:
    result = lowered("FROM scratch\nLABEL a=1\n", labels={"a": "2", "b": "3"})
    assert result.config.labels == (("a", "2"), ("b", "3"))
    assert result.history == ["LABEL a=1"]


@pytest.mark.parametrize(
    ("lines", "directory"),
    [
        (["/a", "b", "../c"], "/a/c"), (["a"], "/a"), (["/a/", "."], "/a"), (["$X"], "/"), (["/a/"], "/a/"),
        (["../.."], "/"),
    ],
)  # fmt: skip
def test_working_directories_are_relative_to_the_last(lowered: Lower, lines: list[str], directory: str) -> None:
    text = "FROM scratch\n" + "".join(f"WORKDIR {line}\n" for line in lines)
    assert lowered(text).config.working_dir == directory


def test_workdir_makes_a_directory_of_the_user(lowered: Lower) -> None:
    result = lowered("FROM a\nUSER me\nWORKDIR /w\n")
    assert result.top.op == File((MakeDir("/w", 0o755, parents=True, owner=Owner("me", None, 0)),))
    assert result.top.hints.name == "[2/2] WORKDIR /w"
    result = lowered("FROM scratch\nWORKDIR /w\n")
    assert result.top.op == File((MakeDir("/w", 0o755, parents=True, input=NO_INPUT),))


def test_workdir_root_makes_no_layer(lowered: Lower) -> None:
    result = lowered("FROM scratch\nWORKDIR /\n")
    assert result.target.edge is None
    assert result.config.history[0].empty_layer


def test_layers_and_history_agree(lowered: Lower) -> None:
    text = "FROM scratch\nWORKDIR /w\nRUN x\nCOPY a b /\nADD https://x/y /\nCOPY --link a /\nENV x=1\nCOPY <<f /\nf\n"
    result = lowered(text)
    depth, vertex = 0, result.top
    while True:
        depth += 1
        base = [edge for edge in vertex.inputs if edge.vertex.hints.name.startswith("[")][:1]
        inputs = [edge.vertex for edge in base if "internal" not in edge.vertex.hints.name]
        if not inputs:
            break
        vertex = inputs[0]
    assert depth == sum(not entry.empty_layer for entry in result.config.history) == 6


@pytest.mark.parametrize("signal", ["SIGTERM", "term", "9", "RTMIN+3", "sigrtmax-1", "64"])
def test_signals_are_names_or_numbers(lowered: Lower, signal: str) -> None:
    assert lowered(f"FROM scratch\nSTOPSIGNAL {signal}\n").config.stop_signal == signal


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("STOPSIGNAL SIGTREM", "unknown signal 'SIGTREM'", "TERM"),
        ("STOPSIGNAL 0", "unknown signal '0'", ""),
        ("STOPSIGNAL -9", "unknown signal '-9'", ""),
        ("EXPOSE http", "invalid port 'http'", "0 to 65535"),
        ("EXPOSE 65536", "invalid port", ""),
        ("EXPOSE 90-80", "ends before it starts", ""),
        ("EXPOSE 80/tpc", "unknown protocol 'tpc'", "tcp"),
        ("EXPOSE /tcp", "no port is given", ""),
        ("EXPOSE x:80:80", "no IP address", ""),
        ("EXPOSE 1-2:80-82", "differ in length", ""),
        ("VOLUME $NOTHING", "cannot be an empty string", ""),
        ("LABEL a=${X?need-X}", "need-X", ""),
        ("ENV a='b", "not closed", ""),
    ],
)
def test_what_cannot_be_meant_is_refused_at_its_line(lowered: Lower, line: str, message: str, hint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        lowered(f"FROM scratch AS one\nUSER x\n{line}\n")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert (str(caught.value.location), caught.value.stage) == ("Dockerfile:3", "one")


def test_ports_may_name_the_host_and_only_the_container_counts(lowered: Lower) -> None:
    result = lowered("FROM scratch\nEXPOSE 127.0.0.1:8080:80 [::1]:90:90/UDP 1000-1001:70\n")
    assert result.config.exposed_ports == ("70/tcp", "80/tcp", "90/udp")


# ---- SOURCE_DATE_EPOCH and platforms ---------------------------------------------------------------------------------


def test_a_given_time_is_in_history_config_and_directories(lowered: Lower) -> None:
    result = lowered("FROM scratch\nWORKDIR /w\n", build_args={"SOURCE_DATE_EPOCH": "1700000000"})
    assert result.target.epoch == 1700000000
    assert result.config.created == result.config.history[0].created == "2023-11-14T22:13:20Z"
    assert result.top.op.actions[0].timestamp == 1700000000 * 10**9


def test_the_time_may_stand_in_the_file_or_be_that_of_the_context(lowered: Lower) -> None:
    assert lowered("ARG SOURCE_DATE_EPOCH=5\nFROM scratch\n").target.epoch == 5
    result = lowered("FROM scratch\nARG SOURCE_DATE_EPOCH\n", build_args={"SOURCE_DATE_EPOCH": "context"},
                     epochs={"context": 7})  # fmt: skip
    assert (result.target.epoch, result.history) == (7, ["ARG SOURCE_DATE_EPOCH=7"])
    assert lowered("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "context"}).target.epoch is None
    with pytest.raises(DockerfileError, match="invalid SOURCE_DATE_EPOCH: 'soon'"):
        lowered("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "soon"})


@pytest.mark.parametrize("text", ["9223372037", "-9223372037", "999999999999", "1" + "0" * 4000])
def test_a_time_beyond_what_graphs_and_files_hold_is_refused(lowered: Lower, text: str) -> None:
    with pytest.raises(DockerfileError, match="invalid SOURCE_DATE_EPOCH"):
        lowered("FROM scratch\nWORKDIR /w\n", build_args={"SOURCE_DATE_EPOCH": text})
    with pytest.raises(DockerfileError, match="invalid SOURCE_DATE_EPOCH"):  # a commit may claim any time
        lowered("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "context"}, epochs={"context": int(text)})


@pytest.mark.parametrize("text", ["9223372036", "-9223372036", "0", "0000000000000000000001"])
def test_a_time_in_range_is_taken(lowered: Lower, text: str) -> None:
    assert lowered("FROM scratch\nWORKDIR /w\n", build_args={"SOURCE_DATE_EPOCH": text}).target.epoch == int(text)


def test_the_image_is_for_the_platform_asked_for(lowered: Lower) -> None:
    base = ImageConfig(AMD, diff_ids=(sha256(b"x"),))
    assert lowered("FROM a\nUSER x\n", {BASE: base}, target_platform=ARM).config.platform == ARM
    assert lowered("FROM a\nUSER x\n", {BASE: ImageConfig(ARM)}).config.platform == ARM


def test_a_variant_of_the_base_survives(lowered: Lower) -> None:
    base = ImageConfig(Platform("linux", "arm", "v6"))
    wanted = Platform("linux", "arm", "v7")
    assert lowered("FROM a\nUSER x\n", {BASE: base}, target_platform=wanted).config.platform == wanted


def test_stages_to_scan_for_an_sbom_are_marked(lowered: Lower) -> None:
    text = "ARG BUILDKIT_SBOM_SCAN_STAGE=build\nFROM a AS build\nRUN x\nFROM b\n"
    text += "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nCOPY --from=build /x /\n"
    target = lowered(text).target
    assert [(stage.name, stage.scan) for stage in target.stages] == [("build", True), ("stage-1", False)]
    assert target.scan_context
    assert all("SBOM" not in entry for entry in target.config.env)


# ---- findings of the pass --------------------------------------------------------------------------------------------


IMAGE = ImageConfig(AMD, env=("HOME=/root",), diff_ids=(sha256(b"layer"),))


def found(text: str, **options: Any) -> list[tuple[str, int, tuple[str, ...]]]:
    findings = Findings()
    file, chosen = read_dockerfile(text), LowerOptions(**options)
    needed = needed_images(file, chosen)
    lower(file, chosen, {request: ResolvedImage(IMAGE) for request in needed}, findings)
    return [(finding.rule, finding.location.start, finding.arguments) for finding in findings.found]


@pytest.mark.parametrize(
    ("text", "rule", "line", "arguments"),
    [
        ("FROM a\nARG NAME=1\nCOPY $NMAE /\n", "UndefinedVar", 3, ("NMAE", "NAME")),
        ("ARG BASE=a\nFROM a:${BAES:-1}\n", "UndefinedArgInFrom", 2, ("BAES", "BASE")),
        ("FROM --platform=$TARGETPLATFORM a\n", "RedundantTargetPlatform", 1, ("$TARGETPLATFORM",)),
        ("FROM --platform=linux/amd64 a\n", "FromPlatformFlagConstDisallowed", 1, ("linux/amd64",)),
        ("FROM a\nWORKDIR x\n", "WorkdirRelativePath", 2, ("x",)),
        ("FROM a\nENV SECRET_KEY=1\n", "SecretsUsedInArgOrEnv", 2, ("ENV", "SECRET_KEY")),
        ("FROM a\nENV a b\n", "LegacyKeyValueFormat", 2, ("ENV",)),
        ('FROM a\nCMD ["a"]\nCMD ["b"]\n', "MultipleInstructionsDisallowed", 2, ("CMD",)),
        ("FROM a\nCMD x\n", "JSONArgsRecommended", 2, ("CMD",)),
        ("FROM a\nEXPOSE 80/TCP\n", "ExposeProtoCasing", 2, ("80/TCP",)),
        ("FROM a\nEXPOSE 1:80\n", "ExposeInvalidFormat", 2, ("1:80",)),
    ],
)  # fmt: skip
def test_the_pass_reports_what_it_meets(text: str, rule: str, line: int, arguments: tuple[str, ...]) -> None:
    assert found(text) == [(rule, line, arguments)]


def test_a_base_of_another_platform_is_reported(lowered: Lower) -> None:
    assert found("FROM a\nRUN x\n", target_platform=ARM) == [
        ("InvalidBaseImagePlatform", 1, ("a", "linux/arm64", "linux/amd64"))
    ]


def test_ignored_sources_are_reported(lowered: Lower) -> None:
    text = "FROM a\nCOPY secret/x /\nADD other /\n"
    assert found(text, ignore={"context": ("secret",)}) == [("CopyIgnoredFile", 2, ("Copy", "secret/x"))]
    assert found(text, ignore={"context": ("secret", "!secret/x")}) == []


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\nLABEL l=$HOME\n",
        "FROM a\nARG X\nLABEL l=$X\n",
        "FROM a\nRUN echo $ANY\n",
        "FROM a\nCOPY <<'f' /\n$X\nf\n",
    ],
)
def test_variables_that_exist_are_not_reported(text: str) -> None:
    assert found(text) == []
