"""What is built again when something changes, and what is not: each change, and the steps that ran because of it."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kedge.model.errors import StepFailed
from tests.e2e.casefile import Case
from tests.e2e.kedge_side import Built, build_case
from tests.e2e.world import World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's command line builds in a namespace")


@dataclass
class Bench:
    """A store, a context and a Dockerfile that change from build to build."""

    world: World
    room: Path
    number: int = 0
    environ: dict[str, str] = field(default_factory=dict)

    def write(self, **files: str) -> None:
        """Files of the context, `_` for a dot; `Dockerfile` is beside it."""
        for name, text in files.items():
            path = self.room / name if name == "Dockerfile" else self.room / "context" / name.replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.world.fill(text))

    def build(self, *flags: str, **files: str) -> Built:
        self.write(**files)
        self.number += 1
        flags = tuple(word.replace("@CASE@", str(self.room)) for word in flags)
        case = Case("bench", self.room, flags, "directory", {"environ": self.environ})
        return build_case(case, self.world, self.room / "store", self.room / f"layout{self.number}")

    def ran(self, *flags: str, **files: str) -> list[str]:
        """The steps that ran, by the words behind their number."""
        return [name.partition("] ")[2] for name in self.build(*flags, **files).ran]


@pytest.fixture
def bench(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("KEDGE_CONFIG", str(world.room / "config.toml"))
    (tmp_path / "context").mkdir()
    return Bench(world, tmp_path)


FILES = {"a_txt": "a", "b_txt": "b"}
TWO = "FROM base\nCOPY a.txt /\nRUN cat /a.txt > /1\nCOPY b.txt /\nRUN cat /b.txt > /2\n"


def test_an_edit_reaches_what_comes_after_it(bench: Bench) -> None:
    bench.build(Dockerfile=TWO, **FILES)
    assert bench.ran(b_txt="new") == ["COPY b.txt /", "RUN cat /b.txt > /2"]
    assert bench.ran(a_txt="new") == [
        *("COPY a.txt /", "RUN cat /a.txt > /1", "COPY b.txt /", "RUN cat /b.txt > /2"),
    ]


def test_an_edit_that_is_taken_back_hits_again(bench: Bench) -> None:
    bench.build(Dockerfile=TWO, **FILES)
    bench.build(a_txt="new")
    assert bench.ran(a_txt="a") == []


def test_times_do_not_count_but_modes_do(bench: Bench) -> None:
    bench.build(Dockerfile=TWO, **FILES)
    os.utime(bench.room / "context" / "b.txt", (5, 5))
    assert bench.ran() == []
    (bench.room / "context" / "b.txt").chmod(0o600)
    assert bench.ran() == ["COPY b.txt /", "RUN cat /b.txt > /2"]


def test_names_count_for_a_directory(bench: Bench) -> None:
    text = "FROM base\nCOPY . /all/\n"
    bench.build(Dockerfile=text, **FILES)
    (bench.room / "context" / "b.txt").rename(bench.room / "context" / "c.txt")
    assert bench.ran() == ["COPY . /all/"]


def test_comments_spaces_and_labels_rerun_nothing(bench: Bench) -> None:
    bench.build(Dockerfile=TWO, **FILES)
    assert bench.ran(Dockerfile=TWO.replace("RUN", "# why\n\nrun   ").replace("base\n", "base\nLABEL x=y\n")) == []
    assert bench.ran(Dockerfile=TWO + 'CMD ["x"]\nEXPOSE 80\n') == []
    assert bench.ran(Dockerfile=TWO.replace("base\n", "base AS another-name\n")) == []


def test_a_variable_reruns_the_steps_that_see_it(bench: Bench) -> None:
    text = "FROM base\nRUN echo 1 > /1\nENV A=1\nCOPY a.txt /\nRUN echo 2 > /2\n"
    bench.build(Dockerfile=text, **FILES)
    assert bench.ran(Dockerfile=text.replace("A=1", "A=2")) == ["RUN echo 2 > /2"]


def test_a_build_argument_reruns_the_steps_after_its_declaration(bench: Bench) -> None:
    text = "FROM base\nRUN echo 1 > /1\nARG A=1\nRUN echo 2 > /2\n"
    bench.build(Dockerfile=text)
    assert bench.ran("--build-arg", "A=1") == []
    assert bench.ran("--build-arg", "NEVER=declared") == []
    assert bench.ran("--build-arg", "A=2") == ["RUN echo 2 > /2"]


def test_a_build_argument_reruns_another_stage_only_through_files(bench: Bench) -> None:
    text = "FROM base AS one\nARG A\nRUN echo $A | wc -c > /n\nFROM base\nCOPY --from=one /n /\nRUN cat /n > /m\n"
    bench.build("--build-arg", "A=x", Dockerfile=text)
    assert bench.ran("--build-arg", "A=y") == ["RUN echo y | wc -c > /n"]
    assert bench.ran("--build-arg", "A=long") == [
        "RUN echo long | wc -c > /n",
        "COPY --from=one /n /",
        "RUN cat /n > /m",
    ]


def test_proxies_do_not_count(bench: Bench) -> None:
    bench.build(Dockerfile="FROM base\nRUN echo 1 > /1\n")
    assert bench.ran("--build-arg", "HTTP_PROXY=http://127.0.0.1:1", "--build-arg", "no_proxy=x") == []


def test_neither_a_secret_nor_an_agent_counts(bench: Bench) -> None:
    mounts = "--mount=type=secret,id=s --mount=type=secret,id=s,env=S --mount=type=ssh"
    text = f'FROM base\nRUN {mounts} test -n "$S" && echo 1 > /1\n'
    (bench.room / "s").write_text("one")
    flags = ("--secret", "id=s,src=@CASE@/s")
    bench.build(*flags, Dockerfile=text)
    (bench.room / "s").write_text("two")
    assert bench.ran(*flags) == []
    if bench.world.environ:
        assert bench.ran(*flags, "--ssh", "default") == []
    assert bench.ran() == []


def test_what_a_cache_holds_does_not_count(bench: Bench) -> None:
    text = "FROM base\nRUN --mount=type=cache,target=/c echo 1 >> /c/log && wc -l < /c/log > /1\n"
    bench.build(Dockerfile=text)
    assert bench.ran() == []
    assert len(bench.ran("--no-cache")) == 1
    assert bench.ran() == []


def test_a_mount_counts_with_the_files_it_shows(bench: Bench) -> None:
    text = "FROM base\nRUN --mount=source=a.txt,target=/m cat /m > /1\nRUN --mount=target=/c ls /c > /2\n"
    bench.build(Dockerfile=text, **FILES)
    assert bench.ran(b_txt="new") == ["RUN --mount=target=/c ls /c > /2"]
    assert len(bench.ran(a_txt="new")) == 2


def test_a_copy_from_a_stage_counts_with_the_files_it_takes(bench: Bench) -> None:
    text = (
        "FROM base AS build\nCOPY . /s\nRUN mkdir /out && cat /s/a.txt > /out/a && cat /s/b.txt > /out/b\n"
        "FROM base\nCOPY --from=build /out/a /\nRUN cat /a > /1\n"
    )
    bench.build(Dockerfile=text, **FILES)
    ran = bench.ran(b_txt="new")
    assert ran == ["COPY . /s", "RUN mkdir /out && cat /s/a.txt > /out/a && cat /s/b.txt > /out/b"]
    assert bench.ran(a_txt="new")[-2:] == ["COPY --from=build /out/a /", "RUN cat /a > /1"]


def test_a_link_does_not_depend_on_what_is_below_it(bench: Bench) -> None:
    text = "FROM base\nRUN echo 1 > /1\nCOPY --link a.txt /x/\n"
    bench.build(Dockerfile=text, **FILES)
    assert bench.ran(Dockerfile=text.replace("echo 1", "echo 2")) == ["RUN echo 2 > /1", "LINK COPY --link a.txt /x/"]


def test_an_ignore_file_counts_only_by_what_it_hides(bench: Bench) -> None:
    bench.build(Dockerfile="FROM base\nCOPY *.txt /d/\n", **FILES)
    (bench.room / "context" / ".dockerignore").write_text("other\n")
    assert bench.ran() == []
    (bench.room / "context" / ".dockerignore").write_text("b.txt\n")
    assert bench.ran() == ["COPY *.txt /d/"]


def test_no_cache_runs_every_step_and_keeps_what_it_made(bench: Bench) -> None:
    bench.build(Dockerfile=TWO, **FILES)
    assert len(bench.ran("--no-cache")) == 4
    assert bench.ran() == []


def test_no_cache_for_one_stage_reaches_others_by_content_only(bench: Bench) -> None:
    text = (
        "FROM base AS one\nRUN echo 1 > /1\nFROM one AS two\nRUN echo 2 > /2\n"
        "FROM base AS three\nRUN echo 3 > /3\n"
        "FROM base\nCOPY --from=two /2 /\nCOPY --from=three /3 /\nRUN cat /2 /3 > /4\n"
    )
    bench.build(Dockerfile=text)
    assert bench.ran("--no-cache-filter", "three") == ["RUN echo 3 > /3"]
    assert sorted(bench.ran("--no-cache-filter", "one")) == ["RUN echo 1 > /1", "RUN echo 2 > /2"]
    assert sorted(bench.ran("--no-cache-filter", "ONE,three")) == [f"RUN echo {n} > /{n}" for n in (1, 2, 3)]


def test_stages_share_what_they_have_in_common(bench: Bench) -> None:
    text = "FROM base AS one\nRUN echo 1 > /1\nFROM base AS two\nRUN echo 1 > /1\nRUN echo 2 > /2\n"
    bench.build("--target", "one", Dockerfile=text)
    assert bench.ran("--target", "two") == ["RUN echo 2 > /2"]
    moved = "FROM base AS x\nRUN echo 3 > /3\n" + text
    assert bench.ran(Dockerfile=moved) == []


def test_a_failed_step_keeps_those_before_it(bench: Bench) -> None:
    text = "FROM base\nRUN echo 1 > /1\nRUN test -e /never\n"
    with pytest.raises(StepFailed):
        bench.build(Dockerfile=text)
    assert bench.ran(Dockerfile=text.replace("/never", "/1")) == ["RUN test -e /1"]


def test_a_file_by_http_counts_with_its_content(bench: Bench) -> None:
    text = "FROM base\nADD http://server/changing /f\nRUN cat /f > /1\n"
    served = bench.world.room / "served" / "changing"
    served.write_text("one")
    bench.build(Dockerfile=text)
    assert "RUN cat /f > /1" not in bench.ran()
    served.write_text("two")
    assert bench.ran()[-1] == "RUN cat /f > /1"


def test_a_branch_counts_with_its_files(bench: Bench) -> None:
    text = "FROM base\nADD http://server/moving.git#main:d /f\nRUN ls /f > /1\n"
    bare, work = bench.world.room / "served" / "moving.git", bench.room / "work"
    environ = os.environ | {f"GIT_{r}_{w}": "t@t" for r in ("AUTHOR", "COMMITTER") for w in ("NAME", "EMAIL")}

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(work), *words], check=True, capture_output=True, env=environ)

    def commit(name: str) -> None:
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(name)
        git("add", "-A")
        git("commit", "-q", "-m", name)
        git("push", "-q", str(bare), "main")

    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(bare)], check=True)
    subprocess.run(["git", "init", "-q", "-b", "main", str(work)], check=True)
    commit("d/one")
    bench.build(Dockerfile=text)
    assert "RUN ls /f > /1" not in bench.ran()
    commit("d/two")
    assert bench.ran()[-1] == "RUN ls /f > /1"


def test_another_base_reruns_all_but_files_that_came_out_the_same(bench: Bench) -> None:
    text = "FROM base AS one\nRUN echo 1 > /1\nFROM base\nCOPY --from=one /1 /\n"
    bench.build(Dockerfile=text)
    bench.build(Dockerfile="FROM other\nRUN true\n")  # so that pulling it is no news
    assert bench.ran(Dockerfile=text.replace("base", "other", 1)) == ["RUN echo 1 > /1"]


def test_neither_hosts_nor_limits_of_a_step_are_forgotten(bench: Bench) -> None:
    bench.build(Dockerfile="FROM base\nRUN echo 1 > /1\n")
    assert len(bench.ran("--network", "none")) == 1
    assert len(bench.ran("--ulimit", "nofile=64")) == 1
    assert bench.ran("--ulimit", "nofile=64") == []
    assert bench.ran() == []
