"""Whole files: real Dockerfiles lower, lowering is deterministic, and large files are fast."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.dockerfile.lines import decode
from kedge.dockerfile.lower import Target, lower, needed_images
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage
from kedge.dockerfile.stages import read_dockerfile
from kedge.model.digest import sha256
from kedge.model.errors import KedgeError
from kedge.model.graph import walk
from kedge.model.image import ImageConfig
from kedge.model.platform import Platform

Lower = Callable[..., Any]
CORPUS = Path(__file__).resolve().parents[3] / "shared" / "dockerfiles"
FILES = sorted(CORPUS.glob("*ockerfile"))
# Arguments without which these files cannot be built, as their projects' own scripts give them.
ARGUMENTS = {
    "BASE_IMAGE": "debian",
    "ETCD_VERSION": "3.6",
    "GOLANG_VERSION": "1.25",
    "SYFT_IMAGE_NAME": "anchore/syft",
    "TARGET_IMAGE_NAME": "app",
}


def lower_text(text: str, **options: Any) -> Target:
    file, chosen = read_dockerfile(text), LowerOptions(**options)
    images: dict[ImageRequest, ResolvedImage] = {}
    while needed := needed_images(file, chosen, images):
        for request in needed:
            config = ImageConfig(request.platform, env=("PATH=/bin",), diff_ids=(sha256(b"layer"),))
            images[request] = ResolvedImage(config, sha256(request.reference.encode()))
    return lower(file, chosen, images)


def test_the_corpus_is_there() -> None:
    if not CORPUS.is_dir():
        pytest.skip(f"{CORPUS} is not there")
    assert len(FILES) == 144


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[:60])
def test_real_dockerfiles_lower(path: Path) -> None:
    text = decode(path.read_bytes())
    for platform in (None, Platform("linux", "arm64")):
        target = lower_text(text, build_args=ARGUMENTS, target_platform=platform, all_stages=True)
        layers = [entry for entry in target.config.history if not entry.empty_layer]
        assert target.edge or not layers
        assert len(target.config.history) == len(target.history_locations)
        for stage in target.stages:
            for vertex in walk(stage.edge) if stage.edge else ():
                assert vertex.hints.name


def test_the_multi_stage_walk(lowered: Lower) -> None:
    text = (
        "# syntax=docker/dockerfile:1\nFROM golang:1.25 AS build\nWORKDIR /src\nCOPY main.go ./\n"
        "RUN CGO_ENABLED=0 GOOS=linux go build -o /out/hello ./main.go\n\n"
        'FROM scratch AS runtime\nCOPY --from=build /out/hello /hello\nENTRYPOINT ["/hello"]\n'
    )
    result = lowered(text)
    assert result.names == [
        "[build 1/4] FROM docker.io/library/golang:1.25",
        "[build 2/4] WORKDIR /src",
        "[internal] load build context",
        "[build 3/4] COPY main.go ./",
        "[build 4/4] RUN CGO_ENABLED=0 GOOS=linux go build -o /out/hello ./main.go",
        "[runtime 1/1] COPY --from=build /out/hello /hello",
    ]
    assert result.history == ["COPY /out/hello /hello # buildkit", 'ENTRYPOINT ["/hello"]']
    assert {vertex.hints.stage for vertex in result.by_name.values()} == {"build", "", "runtime"}


def test_only_needed_stages_are_lowered(lowered: Lower) -> None:
    text = "FROM a AS one\nRUN 1\nFROM b AS two\nRUN 2\nFROM one\nRUN 3\n"
    assert [stage.name for stage in lowered(text).target.stages] == ["one", "stage-2"]
    assert [stage.name for stage in lowered(text, all_stages=True).target.stages] == ["one", "two", "stage-2"]


def test_a_stage_that_is_not_needed_may_be_wrong(lowered: Lower) -> None:
    text = "FROM a AS one\nEXPOSE http\nFROM b AS two\nRUN 2\n"
    assert lowered(text).target.edge
    with pytest.raises(KedgeError):
        lowered(text, all_stages=True)


def test_what_is_above_a_change_keeps_its_digest(lowered: Lower) -> None:
    first, second = (lowered(f"FROM a\nRUN one\nRUN {word}\n") for word in ("two", "three"))
    assert first.by_name["[2/3] RUN one"] == second.by_name["[2/3] RUN one"]
    assert first.top != second.top


def test_another_name_for_a_stage_changes_no_digest(lowered: Lower) -> None:
    assert lowered("FROM a AS x\nRUN one\n").top == lowered("FROM a AS y\nRUN one\n").top


def test_build_platform_stages_are_the_same_for_every_target(lowered: Lower) -> None:
    text = "FROM --platform=$BUILDPLATFORM a AS tools\nRUN make\nFROM b\nCOPY --from=tools /x /\n"
    platforms = [Platform("linux", "arm64"), Platform("linux", "riscv64")]
    tops = [lowered(text, target_platform=one, multi_platform=True).top for one in platforms]
    assert tops[0] != tops[1]
    assert tops[0].inputs[1] == tops[1].inputs[1]


def test_five_hundred_stages_lower_fast() -> None:
    text = "FROM base AS s0\nRUN echo 0\n" + "".join(
        f"FROM s{n - 1} AS s{n}\nARG V={n}\nENV X{n % 7}=$V\nCOPY --from=s{n // 2} /f /f{n}\nRUN echo {n}\n"
        for n in range(1, 500)
    )
    started = time.perf_counter()
    target = lower_text(text)
    # Generous for a busy machine: it takes a tenth of this. A quadratic pass would take minutes.
    assert time.perf_counter() - started < 10
    assert target.edge
    assert sum(1 for _ in walk(target.edge)) == 1 + 1 + 499 * 2


def test_ten_thousand_steps_lower() -> None:
    target = lower_text("FROM scratch\n" + "COPY a /a\n" * 10_000)
    assert len(target.config.history) == 10_000


LINES = [
    "FROM base AS a", "FROM a AS b", "FROM scratch", "FROM $G", "ARG G=img", "ARG A=1", "ENV B=$A", "COPY x /y",
    "COPY --from=a /x /y", "COPY --from=0 /x /y", "COPY --link x /y", "RUN make $A", "RUN --mount=from=b,target=/m x",
    "RUN --mount=type=cache,target=/c,uid=1 x", "WORKDIR sub", "USER me", "EXPOSE 80", 'CMD ["x"]', "ENTRYPOINT x",
    "ONBUILD RUN y", "ADD https://x/y /", "COPY <<f /f\n$A\nf", "LABEL l=$B", "VOLUME /v", "HEALTHCHECK NONE",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=12))
def test_any_file_lowers_twice_to_the_same_or_fails_with_our_errors(lines: list[str]) -> None:
    text = "\n".join(lines) + "\n"
    with suppress(KedgeError):
        first, second = lower_text(text), lower_text(text)
        assert first == second
        assert first.edge == second.edge
        assert first.config.to_bytes() == second.config.to_bytes()
