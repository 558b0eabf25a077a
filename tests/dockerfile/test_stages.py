"""How stages are tied together: names, indexes, order, what is needed, and what cannot be."""

from collections.abc import Callable
from typing import Any

import pytest

from kedge.dockerfile.lower import needed_images
from kedge.dockerfile.options import LowerOptions
from kedge.dockerfile.stages import read_dockerfile
from kedge.model.digest import sha256
from kedge.model.errors import DockerfileError, KedgeError, NotFound
from kedge.model.image import ImageConfig
from kedge.model.ops import File, Source
from kedge.model.platform import Platform

Lower = Callable[..., Any]
ARM = Platform("linux", "arm64")
AMD = Platform("linux", "amd64")


def asked(text: str, **options: Any) -> list[str]:
    return sorted(request.reference for request in needed_images(read_dockerfile(text), LowerOptions(**options)))


def refused(lowered: Lower, text: str, **options: Any) -> KedgeError:
    with pytest.raises(KedgeError) as caught:
        lowered(text, **options)
    assert caught.value.location or isinstance(caught.value, NotFound)
    return caught.value


# ---- what is needed --------------------------------------------------------------------------------------------------


def test_only_images_the_target_needs_are_asked_for() -> None:
    text = "FROM a AS one\nFROM b AS two\nFROM c AS three\nCOPY --from=one /x /y\n"
    assert asked(text) == ["docker.io/library/a:latest", "docker.io/library/c:latest"]
    assert asked(text, target="two") == ["docker.io/library/b:latest"]
    assert len(asked(text, all_stages=True)) == 3


def test_images_are_also_named_by_copy_and_mounts() -> None:
    text = "FROM scratch\nCOPY --from=busybox /a /b\nRUN --mount=from=host.io/x/y:1,target=/m x\n"
    assert asked(text) == ["docker.io/library/busybox:latest", "host.io/x/y:1"]


def test_scratch_is_no_image() -> None:
    assert asked("FROM scratch\nCOPY a b\n") == []


def test_a_digest_stays_in_the_name() -> None:
    digest = sha256(b"x")
    assert asked(f"FROM golang:1@{digest}\n") == [f"docker.io/library/golang:1@{digest}"]


def test_each_image_is_asked_for_its_own_platform() -> None:
    text = "FROM --platform=$BUILDPLATFORM a AS tools\nFROM a\nCOPY --from=tools /x /\n"
    requests = needed_images(read_dockerfile(text), LowerOptions(target_platform=ARM))
    assert {request.platform for request in requests} == {AMD, ARM}


def test_onbuild_triggers_of_an_image_may_name_further_images(lowered: Lower) -> None:
    base = ImageConfig(AMD, on_build=("COPY --from=tools /bin/tool /bin/", "RUN tool"), diff_ids=(sha256(b"x"),))
    result = lowered("FROM base\nUSER me\n", {"docker.io/library/base:latest": base})
    assert [request.reference for request in result.asked] == [
        "docker.io/library/base:latest",
        "docker.io/library/tools:latest",
    ]
    assert result.names[-2:] == [
        "[2/3] ONBUILD COPY --from=tools /bin/tool /bin/",
        "[3/3] ONBUILD RUN tool",
    ]
    assert result.config.on_build == ()


def test_the_request_says_what_to_show() -> None:
    (request,) = needed_images(read_dockerfile("FROM golang:1.25 AS build\n"), LowerOptions())
    assert request.title == "[internal] load metadata for docker.io/library/golang:1.25"
    assert (str(request.location), request.stage) == ("Dockerfile:1", "build")
    (request,) = needed_images(read_dockerfile("FROM a\n"), LowerOptions(target_platform=ARM, multi_platform=True))
    assert request.title == "[linux/arm64 internal] load metadata for docker.io/library/a:latest"


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("FROM busybox\nRUN x\n", ""),
        ("FROM busybox AS busybox\nRUN x\n", ""),
        ("FROM bsybox\nRUN x\n", "Did you mean busybox?"),
        ("FROM scratch AS base\nFROM bose\n", "Did you mean the stage base?"),
        ("FROM late AS early\nFROM early AS late\n",
         "The stage late stands further down; a stage can only be based on one above it."),
    ],
)  # fmt: skip
def test_the_request_says_what_its_name_may_have_meant(text: str, suggestion: str) -> None:
    (request,) = needed_images(read_dockerfile(text), LowerOptions())
    assert request.suggestion() == suggestion


# ---- names -----------------------------------------------------------------------------------------------------------


def test_stages_are_named_without_regard_to_case(lowered: Lower) -> None:
    result = lowered("FROM scratch AS Build\nCOPY a /a\nFROM BUILD AS next\nFROM scratch\nCOPY --from=NEXT /a /\n")
    assert result.names == [
        "[internal] load build context",
        "[build 1/1] COPY a /a",
        "[stage-2 1/1] COPY --from=NEXT /a /",
    ]


def test_stages_have_numbers(lowered: Lower) -> None:
    result = lowered("FROM scratch\nCOPY a /a\nFROM scratch\nCOPY --from=0 /a /\n")
    assert result.names[-2:] == ["[stage-0 1/1] COPY a /a", "[stage-1 1/1] COPY --from=0 /a /"]


def test_from_takes_the_stage_above_it_when_a_name_is_there_twice(lowered: Lower) -> None:
    text = "FROM a AS x\nFROM x AS y\nFROM b AS x\nFROM x AS z\n"
    assert asked(text, target="y") == ["docker.io/library/a:latest"]
    assert asked(text, target="z") == ["docker.io/library/b:latest"]


def test_a_stage_may_shadow_the_image_it_is_built_on() -> None:
    assert asked("FROM alpine AS alpine\nFROM alpine\nRUN x\n") == ["docker.io/library/alpine:latest"]


def test_the_steps_of_a_single_stage_are_not_named_after_it(lowered: Lower) -> None:
    assert lowered("FROM a AS build\nWORKDIR /w\nRUN x\nUSER me\n").names == [
        "[1/3] FROM docker.io/library/a:latest",
        "[2/3] WORKDIR /w",
        "[3/3] RUN x",
    ]


def test_step_numbers_are_aligned(lowered: Lower) -> None:
    names = lowered("FROM a AS b\n" + "RUN x\n" * 10 + "FROM b\n").names
    assert names[0] == "[b  1/11] FROM docker.io/library/a:latest"
    assert names[1] == "[b  2/11] RUN x"


def test_from_of_an_image_without_layers_is_no_step_but_is_counted(lowered: Lower) -> None:
    empty = ImageConfig(AMD, env=("X=1",))
    assert lowered("FROM a\nRUN x\n", {"docker.io/library/a:latest": empty}).names == ["[1/2] RUN x"]


def test_from_does_not_count_the_triggers_of_its_image(lowered: Lower) -> None:
    base = ImageConfig(AMD, on_build=("RUN y",), diff_ids=(sha256(b"x"),))
    assert lowered("FROM a\nRUN x\n", {"docker.io/library/a:latest": base}).names == [
        "[1/2] FROM docker.io/library/a:latest",
        "[2/3] ONBUILD RUN y",
        "[3/3] RUN x",
    ]


def test_platforms_are_shown_in_multi_platform_builds(lowered: Lower) -> None:
    text = "FROM --platform=$BUILDPLATFORM a AS build\nARG TARGETARCH\nRUN make\nFROM b\nCOPY --from=build /x /\n"
    assert lowered(text, target_platform=ARM, multi_platform=True).names == [
        "[linux/arm64 stage-1 1/2] FROM docker.io/library/b:latest",
        "[linux/amd64 build 1/2] FROM docker.io/library/a:latest",
        "[linux/amd64->arm64 build 2/2] RUN make",
        "[linux/arm64 stage-1 2/2] COPY --from=build /x /",
    ]


def test_an_image_that_copy_names_has_a_plain_name(lowered: Lower) -> None:
    names = lowered("FROM scratch\nCOPY --from=busybox /a /b\n").names
    assert names == ["FROM docker.io/library/busybox:latest", "[stage-0 1/1] COPY --from=busybox /a /b"]


def test_images_are_pinned_when_they_have_a_digest() -> None:
    from kedge.dockerfile.lower import lower
    from kedge.dockerfile.options import ResolvedImage

    file, digest = read_dockerfile("FROM golang:1\nRUN x\n"), sha256(b"manifest")
    (request,) = needed_images(file, LowerOptions())
    image = ResolvedImage(ImageConfig(AMD, diff_ids=(sha256(b"l"),)), digest)
    target = lower(file, LowerOptions(resolve_mode="pull"), {request: image})
    assert target.edge
    source = target.edge.vertex.inputs[0].vertex
    assert source.op == Source(f"docker-image://docker.io/library/golang:1@{digest}", (("image.resolvemode", "pull"),))
    assert source.platform == AMD


# ---- what cannot be --------------------------------------------------------------------------------------------------


def test_an_unknown_target_is_an_error_with_the_nearest_name(lowered: Lower) -> None:
    error = refused(lowered, "FROM a AS build\nFROM b AS run\n", target="biuld")
    assert isinstance(error, NotFound)
    assert (error.message, error.hint) == ("target stage 'biuld' could not be found", "Did you mean build?")


def test_an_unknown_target_far_from_all_names_lists_them(lowered: Lower) -> None:
    assert refused(lowered, "FROM a AS build\nFROM b\n", target="zzzzzz").hint == "Stages are build."


def test_copy_from_a_later_stage_says_where_it_is(lowered: Lower) -> None:
    error = refused(lowered, "FROM a AS one\nCOPY --from=two /x /\nFROM b AS two\n", target="one")
    assert "COPY from stage two before it is defined" in error.message
    assert "line 3" in error.hint
    assert (str(error.location), error.stage) == ("Dockerfile:2", "one")


@pytest.mark.parametrize(
    "text",
    [
        "FROM a AS one\nCOPY --from=two /x /\nFROM b AS two\nRUN --mount=from=one,target=/y x\n",
        "FROM a AS one\nCOPY --from=two /x /\nFROM one AS two\n",
        "FROM a AS one\nCOPY --from=one /x /\n",
    ],
)
def test_stages_that_need_each_other_are_refused(lowered: Lower, text: str) -> None:
    error = refused(lowered, text)
    assert error.message.startswith("stages need each other: ")
    assert "one" in error.message


def test_a_circle_through_a_base_that_nothing_needs_is_no_error(lowered: Lower) -> None:
    text = "FROM a AS one\nCOPY --from=two /x /\nFROM one AS two\nFROM scratch\nCOPY f /\n"
    assert lowered(text).top


def test_an_index_without_stage_is_refused(lowered: Lower) -> None:
    error = refused(lowered, "FROM a\nCOPY --from=7 /x /\n")
    assert (error.message, error.hint) == ("no stage has the index 7", "The file's stages are numbered 0 to 0.")
    assert str(error.location) == "Dockerfile:2"


def test_from_cannot_have_variables_in_copy(lowered: Lower) -> None:
    error = refused(lowered, "FROM a\nARG X=b\nCOPY --from=$X /x /\n")
    assert "--from cannot have variables" in error.message


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("ARG TAG\nFROM a:$TAG\n", "'a:' is no stage and no image name", "--build-arg"),
        ("FROM $BASE\n", "the base name '$BASE' is empty", "--build-arg"),
        ("ARG BASE\nFROM $BASE\n", "the base name '$BASE' is empty", "--build-arg BASE=…"),
        ("ARG BASE_IMAGE=a\nFROM $BASE_IMGAE\n", "is empty", "Did you mean $BASE_IMAGE?"),
        ("FROM --platform=$TARGETPLATFROM a\n", "the platform '$TARGETPLATFROM' is empty", "$TARGETPLATFORM"),
        ("FROM --platform=what a\n", "invalid platform 'what'", ""),
        ("ARG MY_ARCH\nFROM --platform=linux/$MYARCH a\n", "'linux/$MYARCH' comes to 'linux/'", "$MY_ARCH?"),
        ("FROM Un/Known\n", "no stage and no image name", ""),
        ("FROM ${X:?give-me-X}\n", "give-me-X", ""),
    ],
)
def test_bad_bases_are_refused_at_their_line(lowered: Lower, text: str, message: str, hint: str) -> None:
    error = refused(lowered, text)
    assert message in error.message
    assert hint in error.hint
    assert error.location
    assert error.location.start == text.count("\n")
    assert error.stage == "stage-0"


@pytest.mark.parametrize("trigger", ["FROM x", "ONBUILD RUN x", "MAINTAINER x", "COPYY a b", "RUN x\nRUN y", ""])
def test_triggers_that_cannot_be_are_refused(lowered: Lower, trigger: str) -> None:
    base = ImageConfig(AMD, on_build=(trigger,), diff_ids=(sha256(b"x"),))
    with pytest.raises(DockerfileError) as caught:
        lowered("FROM a AS s\nRUN x\n", {"docker.io/library/a:latest": base})
    assert "of the base image" in caught.value.message
    assert str(caught.value.location) == "Dockerfile:1"


def test_an_image_that_is_not_there_is_an_error_with_the_nearest_name() -> None:
    from kedge.dockerfile.lower import lower

    with pytest.raises(NotFound) as caught:
        lower(read_dockerfile("FROM apline AS x\n"), LowerOptions(), {})
    assert (caught.value.hint, str(caught.value.location), caught.value.stage) == (
        "Did you mean alpine?", "Dockerfile:1", "x",
    )  # fmt: skip


# ---- triggers and contexts -------------------------------------------------------------------------------------------


def test_onbuild_of_a_stage_runs_in_stages_built_on_it_and_only_there(lowered: Lower) -> None:
    text = "FROM a AS base\nONBUILD RUN first\nONBUILD ENV X=1\nFROM base AS mid\nRUN second\nFROM mid\nRUN third\n"
    result = lowered(text)
    assert result.names[1:] == [
        "[mid 1/3] ONBUILD RUN first",
        "[mid 2/3] RUN second",
        "[stage-2 1/1] RUN third",
    ]
    assert result.config.env_value("X") == "1"
    assert lowered(text, target="base").config.on_build == ("RUN first", "ENV X=1")


def test_a_heredoc_in_a_trigger_survives(lowered: Lower) -> None:
    result = lowered("FROM scratch AS base\nONBUILD COPY <<f /f\nhello\nf\nFROM base\n")
    assert isinstance(result.top.op, File)
    assert result.history == ["COPY <<f /f # buildkit"]


def test_a_named_context_replaces_a_stage_and_what_it_needs() -> None:
    text = "FROM a AS one\nFROM b AS two\nCOPY --from=one /x /\nFROM c\nCOPY --from=two /x /\n"
    assert asked(text, contexts={"two": "local:two"}) == ["docker.io/library/c:latest"]


def test_a_named_context_replaces_an_image(lowered: Lower) -> None:
    result = lowered("FROM golang:1.25\nRUN x\n", contexts={"golang:1.25": "docker-image://mirror.io/go:1"})
    assert result.names[0] == "[context golang:1.25] mirror.io/go:1"
    assert result.asked[0].reference == "mirror.io/go:1"


def test_contexts_may_be_meant_for_one_platform(lowered: Lower) -> None:
    contexts = {"a::linux/arm64": "docker-image://b", "a": "docker-image://c"}
    text = "FROM a\nRUN x\n"
    assert lowered(text, contexts=contexts, target_platform=ARM).asked[0].reference == "docker.io/library/b:latest"
    assert lowered(text, contexts=contexts).asked[0].reference == "docker.io/library/c:latest"


@pytest.mark.parametrize(
    ("specifier", "source"),
    [
        ("https://x.org/y.tar", Source("https://x.org/y.tar", (("http.filename", "context"),))),
        (
            "oci-layout://store@sha256:" + "0" * 64,
            Source("oci-layout://store@sha256:" + "0" * 64, (("oci.store", "store"),)),
        ),
    ],
)
def test_contexts_of_other_kinds(lowered: Lower, specifier: str, source: Source) -> None:
    result = lowered("FROM scratch\nCOPY --from=data /x /y\n", contexts={"data": specifier})
    assert result.top.inputs[0].vertex.op == source


def test_a_local_context_is_read_only_where_it_is_used(lowered: Lower) -> None:
    text = "FROM scratch\nCOPY --from=data /x/*.py /y/\nRUN --mount=from=data,source=z,target=/z true\n"
    result = lowered(text, contexts={"data": "local:data"}, ignore={"data": ("*.pyc",)})
    assert result.by_name["[context data] load from client"].op == Source(
        "local://data",
        (
            ("local.excludepatterns", '["*.pyc"]'),
            ("local.followpaths", '["x/*.py","z"]'),
            ("local.sharedkeyhint", "context:data-"),
        ),
    )


def test_an_unknown_kind_of_context_is_refused(lowered: Lower) -> None:
    error = refused(lowered, "FROM data\n", contexts={"data": "ftp://x"})
    assert "unknown kind of build context" in error.message


def test_git_contexts(lowered: Lower) -> None:
    result = lowered("FROM scratch\nCOPY --from=src /x /\n", contexts={"src": "https://u:secret@x.org/y.git#v1:sub"})
    vertex = result.top.inputs[0].vertex
    assert isinstance(vertex.op, Source)
    assert vertex.op.identifier == "git://x.org/y.git#v1:sub"
    assert vertex.hints.name == "[internal] load git source https://x.org/y.git#v1:sub"


def test_the_name_of_a_context_tells_no_credentials(lowered: Lower) -> None:
    result = lowered("FROM scratch\nCOPY --from=d /x /\n", contexts={"d": "https://u:secret@x.org/y.tar"})
    vertex = result.top.inputs[0].vertex
    assert vertex.hints.name == "[context d] https://x.org/y.tar"
    assert vertex.op == Source("https://u:secret@x.org/y.tar", (("http.filename", "context"),))
