"""What Kedge tells about the final image, with real builds: processes that cannot start, what should not be there."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Kedge, steps, write_tree

KEY = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"
MATHS = '#include <math.h>\n#include <stdio.h>\nint main(int c, char **v) { return printf("%.0f\\n", sqrt(c)) < 0; }\n'


@dataclass(frozen=True)
class Told:
    """One line of the summary."""

    rule: str
    text: str
    line: int


def told(output: str) -> list[Told]:
    """The warnings behind a build."""
    found = re.findall(r"^ - (\w+): (.*) \(line (\d+)\)$", output, re.MULTILINE)
    return [Told(rule, text, int(line)) for rule, text, line in found]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context with `dynamic` and `static`, the same program linked in both ways."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed (apt-get install gcc libc6-dev)")
    folder = tmp_path_factory.mktemp("programs")
    (folder / "main.c").write_text(MATHS)
    for name, flags in (("dynamic", ["-Wl,--no-as-needed"]), ("static", ["-static"])):
        subprocess.run(["gcc", "-o", folder / name, folder / "main.c", *flags, "-lm"], check=True)
    (folder / "own.c").write_text("int own(void) { return 0; }\n")
    (folder / "needs.c").write_text("int own(void);\nint main(void) { return own(); }\n")
    shared = ["-shared", "-fPIC", "-Wl,-soname,libown.so.1"]
    subprocess.run(["gcc", "-o", folder / "libown.so.1", folder / "own.c", *shared], check=True)
    subprocess.run(["gcc", "-o", folder / "needs", folder / "needs.c", folder / "libown.so.1"], check=True)
    return folder


Build = Callable[..., list[Told]]


@pytest.fixture
def build(shared: Kedge, programs: Path, tmp_path: Path) -> Build:
    """`build(dockerfile, *words)`: the warnings of a build in the context of `programs`, with further files."""

    def run(text: str, *words: str, context: Path = programs) -> list[Told]:
        file = tmp_path / "Dockerfile"
        file.write_text(text)
        return told(shared.build(context, "-f", file, *words))

    return run


# ---- the process -----------------------------------------------------------------------------------------------------


def test_a_dynamic_program_in_scratch_is_told_with_all_it_lacks(build: Build, shared: Kedge) -> None:
    warnings = build('FROM scratch\nCOPY dynamic /app\nENTRYPOINT ["/app"]\n', "-t", "checks-dynamic")
    assert [(one.rule, one.line) for one in warnings] == [("EntrypointNotRunnable", 3)]
    text = warnings[0].text
    assert re.search(r"needs the loader /lib\S+ and the libraries libm\.so\.6 and libc\.so\.6", text)
    assert "Use a base with glibc" in text
    assert shared("run", "--rm", "checks-dynamic", check=False).returncode != 0


def test_the_same_program_on_debian_is_silent(build: Build, shared: Kedge, debian: str) -> None:
    assert build(f'FROM {debian}\nCOPY dynamic /app\nENTRYPOINT ["/app"]\n', "-t", "checks-debian") == []
    assert shared("run", "--rm", "checks-debian").stdout == "1\n"


@pytest.mark.parametrize("link", ["", "--link "])
def test_a_library_that_debian_lacks_is_told_alone(build: Build, shared: Kedge, debian: str, link: str) -> None:
    build(f"FROM {debian}\nCOPY main.c /\n")  # brings the base here: a layer linked onto it would not, nor do checks
    text = f'FROM {debian}\nCOPY {link}needs /app\nCMD ["/app"]\n'
    warnings = build(text, "-t", "checks-needs")
    assert [(one.rule, one.line) for one in warnings] == [("EntrypointNotRunnable", 3)]
    assert "/app needs the library libown.so.1, which the final image lacks" in warnings[0].text
    assert "libown.so.1" in shared("run", "--rm", "checks-needs", check=False).stderr
    whole = text.replace("CMD", f"COPY {link}libown.so.1 /usr/local/lib/\nENV LD_LIBRARY_PATH=/usr/local/lib\nCMD")
    assert build(whole, "-t", "checks-whole") == []
    shared("run", "--rm", "checks-whole")
    unknown = text.replace("CMD", f"COPY {link}libown.so.1 /usr/local/lib/\nCMD")
    assert "RUN ldconfig" in build(unknown)[0].text
    assert build(text.replace("CMD", "COPY libown.so.1 /usr/local/lib/\nRUN ldconfig\nCMD")) == []


def test_a_static_program_in_scratch_is_silent(build: Build, shared: Kedge) -> None:
    assert build('FROM scratch\nCOPY static /app\nENTRYPOINT ["/app"]\n', "-t", "checks-static") == []
    assert shared("run", "--rm", "checks-static").stdout == "1\n"


def test_a_script_whose_interpreter_is_missing_is_told(build: Build, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"run.sh": "#!/bin/bash\necho hello\n"})
    (context / "run.sh").chmod(0o755)
    warnings = build('FROM busybox\nCOPY run.sh /\nCMD ["/run.sh"]\n', context=context)
    assert [(one.rule, one.line) for one in warnings] == [("EntrypointNotRunnable", 3)]
    assert "the interpreter /bin/bash of the script /run.sh is not in the final image" in warnings[0].text
    (context / "run.sh").write_text("#!/bin/sh\necho hello\n")
    assert build('FROM busybox\nCOPY run.sh /\nCMD ["/run.sh"]\n', context=context) == []


def test_the_stage_that_has_it_and_its_system_are_named(build: Build, debian: str) -> None:
    text = f"FROM {debian} AS build\nCOPY dynamic /out/app\n\n"
    text += 'FROM scratch\nCOPY --from=build /out/app /app\nCMD ["/app"]\n'
    warnings = build(text)
    assert "Stage build has them. Use a base with glibc, such as debian:bookworm-slim" in warnings[0].text
    assert warnings[0].line == 6


def test_an_inherited_command_is_blamed_on_from(build: Build) -> None:
    text = 'FROM scratch AS base\nCOPY dynamic /app\nCMD ["/app"]\n\nFROM base\nLABEL a=b\n'
    assert [one.line for one in build(text)] == [3]


def test_warnings_are_told_again_when_all_is_cached(build: Build) -> None:
    text = 'FROM scratch\nCOPY dynamic /other\nENTRYPOINT ["/other"]\n'
    assert build(text) == build(text)
    moved = build("# a comment\n" + text)
    assert [(one.rule, one.line) for one in moved] == [("EntrypointNotRunnable", 4)]


def test_a_program_for_another_platform_is_told(build: Build) -> None:
    other = "linux/s390x"
    warnings = build('FROM scratch\nCOPY static /app\nENTRYPOINT ["/app"]\n', "--platform", other)
    assert [one.rule for one in warnings] == ["EntrypointNotRunnable"]
    assert f"the image is for {other}" in warnings[0].text


# ---- silencing -------------------------------------------------------------------------------------------------------

NOT_RUNNABLE = 'FROM scratch\nCOPY dynamic /silenced\nENTRYPOINT ["/silenced"]\n'


def test_checks_are_silenced_like_the_others(build: Build) -> None:
    assert build("# check=skip=EntrypointNotRunnable\n" + NOT_RUNNABLE) == []
    assert build("# check=skip=all\n" + NOT_RUNNABLE) == []
    assert build(NOT_RUNNABLE, "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=EntrypointNotRunnable") == []
    assert build(NOT_RUNNABLE.replace("ENTRY", "# check=skip=EntrypointNotRunnable\nENTRY")) == []
    assert len(build(NOT_RUNNABLE)) == 1


def test_as_errors_they_fail_the_build_before_it_names_an_image(shared: Kedge, programs: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("# check=error=true\n" + NOT_RUNNABLE)
    words = ("build", "-t", "checks-error", "-f", tmp_path / "Dockerfile", programs)
    done = shared(*words, check=False)
    assert done.returncode == 1
    assert "checks failed: EntrypointNotRunnable" in done.stderr
    assert shared("inspect", "checks-error", check=False).returncode == 1


def test_without_an_image_nothing_is_checked(shared: Kedge, programs: Path, build: Build, tmp_path: Path) -> None:
    assert build(NOT_RUNNABLE, "-o", f"type=local,dest={tmp_path / 'out'}") == []
    (tmp_path / "Dockerfile").write_text(NOT_RUNNABLE)
    assert "no warnings found" in shared("build", "--check", "-f", tmp_path / "Dockerfile", programs).stdout


# ---- what is carried -------------------------------------------------------------------------------------------------


def test_leftovers_are_told_at_the_instruction_that_brings_them(build: Build, tmp_path: Path) -> None:
    context = write_tree(
        tmp_path / "context",
        {
            "src/.git/HEAD": "ref: refs/heads/main\n",
            "src/.git/pack": "x" * 9000,
            "src/app.sh": "#!/bin/sh\n",
            "id_rsa": KEY,
        },
    )
    text = (
        "FROM busybox\nCOPY src /src\nCOPY id_rsa /root/.ssh/\n"
        "RUN mkdir -p /root/.cache/pip && dd if=/dev/zero of=/root/.cache/pip/a bs=1M count=3\n"
        "RUN rm /root/.ssh/id_rsa\n"
    )
    found = {one.rule: one for one in build(text, context=context)}
    assert {rule: one.line for rule, one in found.items()} == {
        "SourcesInFinalStage": 2,
        "SecretsInFinalStage": 3,
        "PackageCacheInFinalStage": 4,
    }
    assert "a Git repository in /src/.git (9.02kB)" in found["SourcesInFinalStage"].text
    assert "pip's cache in /root/.cache/pip (3.15MB)" in found["PackageCacheInFinalStage"].text
    assert "a later instruction deletes it, yet the layer ships" in found["SecretsInFinalStage"].text
    assert "MIIE" not in str(found)


def test_what_stays_in_other_stages_is_no_matter(build: Build, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"id_rsa": KEY, "app": "x"})
    assert build("FROM scratch AS a\nCOPY . /\n\nFROM scratch\nCOPY --from=a /app /\n", context=context) == []


def test_an_image_to_build_with_is_no_base_for_the_final_stage(build: Build, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"app": "x"})
    warnings = build("FROM golang:1.25\nCOPY app /app\n", context=context)
    assert [(one.rule, one.line) for one in warnings] == [("BuildToolsInFinalStage", 1)]
    assert "stands on golang:1.25" in warnings[0].text
    two = "FROM golang:1.25 AS build\nCOPY app /app\nFROM scratch\nCOPY --from=build /app /app\n"
    assert build(two, context=context) == []
    assert build(two, "--target", "build", context=context) == []
    tested = two.replace("FROM scratch", "FROM build AS test\nLABEL a=b\nFROM scratch")
    assert build(tested, "--target", "test", context=context) == []


# ---- kedge size ------------------------------------------------------------------------------------------------------


def test_size_tells_what_is_added_hidden_and_kept_out(shared: Kedge, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"a": "a" * 3000, "b": "b" * 500, "big": "x" * 70000})
    (tmp_path / "Dockerfile").write_text(
        "FROM scratch AS build\nCOPY . /\n\n"
        "FROM busybox\nCOPY --from=build /a /data/a\nCOPY b /data/b\nRUN rm /data/a\n"
    )
    shared.build(context, "-f", tmp_path / "Dockerfile", "-t", "checks-size")
    found = json.loads(shared("size", "--format", "json", "checks-size").stdout)
    copied = [one for one in found["instructions"] if one["createdBy"].startswith("COPY")]
    assert [(one["size"], one["files"], one["hiddenSize"]) for one in copied] == [(3000, 1, 3000), (500, 1, 0)]
    assert found["wasted"] == 3000
    last = len(found["instructions"]) - 1
    assert found["hidden"] == [{"path": "/data/a", "size": 3000, "files": 1, "addedBy": last - 2, "hiddenBy": last}]
    assert [(one["name"], one["keptOut"]) for one in found["stages"]] == [("build", 73500)]
    assert found["keptOut"] == 73500
    text = shared("size", "checks-size").stdout
    assert "3kB  /data/a, by RUN rm /data/a" in text
    assert "Other stages kept 73.5kB out of the image:" in text


def test_size_of_a_pulled_image_fetches_nothing(kedge: Kedge) -> None:
    kedge("pull", "busybox")
    before = set((kedge.store / "layers").iterdir())
    text = kedge("size", "busybox").stdout
    assert "the image was not built in this store" in text
    assert set((kedge.store / "layers").iterdir()) == before
    found = json.loads(kedge("size", "--format", "json", "busybox").stdout)
    assert found["stages"] is None


def test_size_is_the_same_from_tars_as_from_directories(shared: Kedge, kedge: Kedge, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"d/a": "a" * 3000, "d/e/b": "b" * 500, "f": "c"})
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nCOPY . /x/\nRUN rm -r /x/d && mkdir /x/d && echo hello >/x/d/new && ln /x/f /x/g\nRUN rm /x/f\n"
    )
    shared.build(context, "-f", tmp_path / "Dockerfile", "-t", "checks-tars")
    shared("save", "-o", tmp_path / "image.tar", "checks-tars")
    kedge("load", "-i", tmp_path / "image.tar")

    def sizes(of: Kedge) -> list[object]:
        value = json.loads(of("size", "--format", "json", "checks-tars").stdout)
        keys = ("size", "files", "hiddenSize", "hiddenFiles")
        return [[one[key] for key in keys] for one in value["instructions"]] + [value["hidden"]]

    assert sizes(kedge) == sizes(shared)


def test_a_cached_build_looks_at_no_layer_again(build: Build, shared: Kedge, programs: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(NOT_RUNNABLE)
    shown = [shared.build(programs, "-f", tmp_path / "Dockerfile") for _ in range(2)]
    assert all(end == "CACHED" for name, end in steps(shown[1]).items() if name.startswith("[1/1]"))
    assert told(shown[1]) == told(shown[0]) != []
