"""What is run again and what is not, with real layers and processes."""

import io
import tarfile
import threading

import pytest

from kedge.images.import_root import import_root
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from tests.images.conftest import Quiet

TWO_STAGES = """
FROM base AS build
WORKDIR /src
COPY main.txt ./
RUN mkdir /out && cat main.txt > /out/made && echo built > /out/note

FROM scratch AS runtime
COPY --from=build /out/made /made
ENTRYPOINT ["/made"]
"""


def test_the_walk_builds_and_a_second_build_runs_nothing(bench):
    bench.write(main_dot_txt="hello")
    first = bench.build(TWO_STAGES, tags=("walk",))
    assert bench.listing("walk") == ["made"]
    assert bench.read("walk", "made") == "hello"
    assert len(first.layers) == 1
    second = bench.build(TWO_STAGES, tags=("walk",))
    assert bench.ran() == ["[internal] load build context"] or bench.ran() == []
    assert second.id == first.id
    assert second.size == first.size


def test_editing_one_file_reruns_what_it_reaches_and_nothing_else(bench):
    bench.write(main_dot_txt="one", other_dot_txt="a")
    dockerfile = """
FROM base AS left
COPY main.txt /
RUN cat /main.txt > /left
FROM base AS right
COPY other.txt /
RUN cat /other.txt > /right
FROM scratch
COPY --from=left /left /
COPY --from=right /right /
"""
    bench.build(dockerfile, tags=("x",))
    bench.write(main_dot_txt="two")
    bench.build(dockerfile, tags=("x",))
    ran = [name for name in bench.ran() if "left" in name or "right" in name or "COPY" in name]
    assert any("left 1/2" in name or "COPY main.txt" in name for name in ran)
    assert not any("right]" in name or "other.txt" in name for name in ran)
    assert bench.read("x", "left") == "two"
    assert bench.read("x", "right") == "a"


def test_copy_from_a_stage_that_reran_to_the_same_bytes_is_a_hit(bench):
    bench.write(main_dot_txt="one")
    dockerfile = """
FROM base AS build
COPY main.txt /
RUN wc -c < /main.txt > /size
FROM base
COPY --from=build /size /
RUN cat /size > /again
"""
    bench.build(dockerfile)
    bench.write(main_dot_txt="two")
    bench.build(dockerfile)
    steps = bench.steps()
    assert next(state for name, state in steps.items() if "wc -c" in name) == "DONE"
    assert next(state for name, state in steps.items() if "COPY --from=build" in name) == "CACHED"
    assert next(state for name, state in steps.items() if "/again" in name) == "CACHED"


def test_a_file_that_no_copy_names_changes_nothing(bench):
    bench.write(main_dot_txt="one", notes="x")
    bench.build("FROM base\nCOPY main.txt /\nRUN true")
    bench.write(notes="y", more="z")
    bench.build("FROM base\nCOPY main.txt /\nRUN true")
    assert {state for name, state in bench.steps().items() if "COPY" in name or "RUN" in name} == {"CACHED"}


def test_an_ignored_file_changes_nothing(bench):
    bench.write(main_dot_txt="one", log="x", _dot_dockerignore="log\n")
    bench.build("FROM base\nCOPY . /all/\nRUN true", tags=("x",))
    assert "all/log" not in bench.listing("x")
    bench.write(log="y")
    bench.build("FROM base\nCOPY . /all/\nRUN true")
    assert {state for name, state in bench.steps().items() if "COPY" in name or "RUN" in name} == {"CACHED"}


def test_no_cache_runs_all_and_the_next_build_hits(bench):
    dockerfile = "FROM base\nRUN echo x > /x\nRUN echo y > /y"
    bench.build(dockerfile)
    bench.build(dockerfile, no_cache=True)
    assert sum("RUN" in name for name in bench.ran()) == 2
    bench.build(dockerfile)
    assert not any("RUN" in name for name in bench.ran())


def test_no_cache_filter_reruns_only_the_named_stage(bench):
    dockerfile = "FROM base AS one\nRUN echo x > /x\nFROM base AS two\nRUN echo y > /y\nCOPY --from=one /x /"
    bench.build(dockerfile)
    bench.build(dockerfile, no_cache_filter=("one",))
    assert [name for name in bench.ran() if "RUN" in name] == ["[one 2/2] RUN echo x > /x"]


def test_a_filter_for_a_stage_that_is_not_there_is_told(bench):
    result = bench.build("FROM base AS build\nRUN true", no_cache_filter=("biuld", "Build"))
    assert [warning.message for warning in result.warnings] == [
        "no stage is named biuld, whose cache was not to be used (did you mean build?)"
    ]


def test_a_platform_that_nobody_knows_is_built_for_and_told(bench):
    result = bench.build("FROM scratch\nCOPY . /", platforms=("linux/am64", "linux/vax", "linux/arm64"))
    assert [warning.message for warning in result.warnings] == [
        "linux/am64 is no platform that is known (did you mean linux/amd64?)",
        "linux/vax is no platform that is known",
    ]


def test_a_build_argument_reruns_what_uses_it(bench):
    dockerfile = "FROM base\nRUN echo before > /b\nARG WHO=me\nRUN echo $WHO > /who"
    bench.build(dockerfile, tags=("x",))
    bench.build(dockerfile, tags=("x",), build_args=(("WHO", "you"),))
    assert bench.read("x", "who") == "you\n"
    assert [name for name in bench.ran() if "RUN" in name] == ["[3/3] RUN echo you > /who"]


def test_a_stage_nothing_needs_is_not_built(bench):
    bench.build("FROM base AS unused\nRUN false\nFROM base AS last\nRUN true")
    assert not any("unused" in name for name in bench.steps())


def test_two_builds_of_the_same_at_once_run_each_step_once(bench):
    from kedge.builder import BuildRequest, build
    from kedge.session.local import LocalSession

    dockerfile = b"FROM base\nRUN sleep 0.3; echo x > /x\nRUN echo y > /y"
    logs, results, errors = [[], []], [None, None], []

    def one(n):
        try:
            request = BuildRequest(context=bench.context, store=bench.root, dockerfile_text=dockerfile, tags=(f"x{n}",))
            results[n] = build(request, LocalSession(), logs[n].append)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert results[0].id == results[1].id
    cached = [any(getattr(e, "cached", False) and "RUN echo y" in e.name for e in log) for log in logs]
    assert sorted(cached) == [False, True]


def test_eight_different_builds_at_once(bench):
    from kedge.builder import BuildRequest, build
    from kedge.session.local import LocalSession

    errors = []

    def one(n):
        try:
            text = f"FROM base AS a\nRUN echo {n} > /n\nFROM scratch\nCOPY --from=a /n /n".encode()
            request = BuildRequest(context=bench.context, store=bench.root, dockerfile_text=text, tags=(f"x{n}",))
            build(request, LocalSession())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [bench.read(f"x{n}", "n") for n in range(8)] == [f"{n}\n" for n in range(8)]


def test_why_a_step_ran_is_told(bench):
    bench.write(main_dot_txt="one")
    first = bench.build("FROM base\nCOPY main.txt /\nRUN true")
    assert first.misses["[3/3] RUN true"] == ("no build of this Dockerfile in this place has done it before",)
    bench.write(main_dot_txt="two")
    second = bench.build("FROM base\nCOPY main.txt /\nRUN true")
    assert "changed" in second.misses["[2/3] COPY main.txt /"][0]
    third = bench.build("FROM base\nCOPY main.txt /\nRUN false || true")
    assert "command changed" in third.misses["[3/3] RUN false || true"][0]


def test_an_image_whose_history_says_the_same_is_no_cache(bench):
    """CVE-2024-24557: the classic builder took images found by their history for what it would have made."""
    bench.write(f="ours")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        entry = tarfile.TarInfo("f")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"evil!"))
    data.seek(0)
    with bench.store() as store:
        named = [parse_reference(name) for name in ("docker.io/library/x:latest", "docker.io/library/evil:latest")]
        import_root(store, data, Platform("linux", "amd64"), Quiet(), named, message="COPY f / # buildkit")
    bench.build("FROM scratch\nCOPY f /\n", tags=("x",))
    assert bench.ran() == ["[1/1] COPY f /"]
    assert bench.read("x", "f") == "ours"


@pytest.mark.parametrize(
    "more",
    ["HEALTHCHECK CMD x", "ONBUILD RUN x", "LABEL a=b", "ENV a=b", "EXPOSE 80", "VOLUME /v", "STOPSIGNAL 9",
     "SHELL [\"/sh\"]", "ENTRYPOINT x", "CMD x", "USER 7", "WORKDIR /w", "MAINTAINER m"],
)  # fmt: skip
def test_every_instruction_makes_another_image_of_the_same_steps(bench, more):
    """CVE-2024-24557, its other half: HEALTHCHECK and ONBUILD were in no cache key."""
    bench.write(f="ours")
    plain = bench.build("FROM scratch\nCOPY f /\n")
    assert bench.build(f"FROM scratch\nCOPY f /\n{more}\n").id != plain.id
    assert bench.build("FROM scratch\nCOPY f /\n").id == plain.id
