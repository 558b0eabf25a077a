"""Bad input ends in a clear message, the right exit code and an unchanged store; never in a traceback."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Kedge, write_tree

DOCKERFILES = {
    "a syntax error": ("FROM busybox\nRUNN true\n", ["Dockerfile:2", ">>> RUNN true", "RUN"]),
    "an unknown stage": ("FROM busybox AS base\nFROM scratch\nCOPY --from=bsae /x /\n", ["Dockerfile:3", "base"]),
    "a file that is not there": ("FROM scratch\nCOPY missing.txt /\n", ["Dockerfile:2", "missing.txt", "not found"]),
    "a failing step": (
        "FROM busybox\nRUN echo about to fail; exit 3\n",
        ["about to fail", "exit code: 3", "Dockerfile:2"],
    ),
    "no FROM": ("RUN true\n", ["Dockerfile:1"]),
    "an image that does not exist": ("FROM no-such-image:1\n", ["no-such-image", "Dockerfile:1"]),
    "a name that is no image name": ("FROM Upper/Case\n", ["Dockerfile:1"]),
    "a cycle": ("FROM b AS a\nFROM a AS b\n", ["Dockerfile:"]),
    "an empty file": ("", ["ERROR"]),
}


@pytest.mark.parametrize("case", DOCKERFILES)
def test_a_wrong_dockerfile(case: str, shared: Kedge, tmp_path: Path) -> None:
    text, wanted = DOCKERFILES[case]
    context = write_tree(tmp_path / "context", {"Dockerfile": text})
    done = shared("build", "--progress", "plain", "--tag", "never", context, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ERROR: " in done.stderr
    for word in wanted:
        assert word in done.stderr
    assert shared("inspect", "never", check=False).returncode == 1


def test_a_failing_build_tells_its_warnings_before_the_error(shared: Kedge, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"Dockerfile": "FROM busybox\nARG VERSION\nRUN test $VERSION\n"})
    done = shared("build", "--build-arg", "VERSOIN=1", context, check=False)
    warning, error = done.stderr.find("did you mean VERSION?"), done.stderr.find("\nERROR: ")
    assert 0 < warning < error


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["build", "/nonexistent/context"], 1, "/nonexistent/context"),
        (["build", "--target", "nope", "CONTEXT"], 1, "nope"),
        (["build", "--tag", "UPPER", "CONTEXT"], 1, "UPPER"),
        (["build", "--tagg", "x", "CONTEXT"], 125, "Did you mean --tag?"),
        (["build"], 125, "CONTEXT"),
        (["build", "--platform", "windoes/amd64x/y/z", "CONTEXT"], 1, "platform"),
        (["build", "--secret", "nonsense", "CONTEXT"], 1, "secret"),
        (["build", "-o", "type=zip,dest=x", "CONTEXT"], 125, "zip"),
        (["build", "--secret", "id=x,src=/nonexistent", "CONTEXT"], 1, "secret x: cannot read /nonexistent"),
        (["build", "--ssh", "default=/nonexistent", "CONTEXT"], 1, "/nonexistent is neither a socket nor a key"),
        (["load", "-i", "GARBAGE"], 1, "no tar archive"),
        (["build", "-f", "Missing.Dockerfile", "CONTEXT"], 1, "Missing.Dockerfile"),
        (["biuld", "."], 125, "Did you mean kedge build?"),
        (["run", "-p", "foo:80", "busybox"], 125, "foo"),
        (["run", "-d", "busybox"], 125, "stays in the foreground"),
        (["history", "no/such/image"], 1, "no such image"),
        (["inspect", "no/such/image"], 1, "no such image"),
        (["tag", "no/such/image", "x"], 1, "no such image"),
        (["tag", "base", "Bad Name"], 1, "Bad Name"),
        (["rmi", "no/such/image"], 1, "no such image"),
        (["save", "-o", "/nonexistent/x.tar", "base"], 1, "/nonexistent"),
        (["load", "-i", "/nonexistent.tar"], 1, "/nonexistent.tar"),
        (["import", "GARBAGE", "x"], 1, ""),
        (["import", "/nonexistent.tar"], 1, "/nonexistent.tar"),
        (["import", "--change", "RUN true", "GARBAGE"], 1, "RUN true"),
        (["pull", "UPPER"], 1, "UPPER"),
        (["pull", "no-such-image"], 1, "no-such-image"),
        (["prune"], 125, "--force"),
        (["prune", "-f", "--filter", "colour=red"], 125, "colour=red"),
        (["images", "--format", "{{.Nope}}"], 1, ".ID"),
        (["completion", "cmd"], 125, "bash"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words(words: list[str], code: int, message: str, shared: Kedge, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"Dockerfile": "FROM scratch AS only\nLABEL a=b\n"})
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"this is no archive at all\n" * 100)
    shared.build(context, "-t", "base")
    given = {"CONTEXT": str(context), "GARBAGE": str(garbage)}
    done = shared(*(given.get(word, word) for word in words), check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "ERROR: " in done.stderr
    assert message in done.stderr


def test_the_whole_output_of_a_failed_step_is_kept(shared: Kedge, tmp_path: Path) -> None:
    context = write_tree(tmp_path, {"Dockerfile": "FROM busybox\nRUN seq 1 5000; exit 4\n"})
    shown = shared.build(context, check=False)
    assert "`kedge logs` has the step's whole output." in shown
    assert "RUN seq 1 5000; exit 4" in shared("logs").stdout.splitlines()[1]
    assert shared("logs", "RUN seq 1 5000").stdout == "".join(f"{n}\n" for n in range(1, 5001))
    assert shared("logs", "RUN nothing like it", check=False).returncode == 1


def test_a_store_that_cannot_be_written_says_so(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = Kedge(tmp_path / "file" / "store", mirror)("images", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr


def _environment(kedge: Kedge) -> dict[str, str]:
    return os.environ | {"KEDGE_ROOT": str(kedge.store), "KEDGE_CONFIG": str(kedge.config)}


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_works_without_standard_streams(closed: str, shared: Kedge, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"Dockerfile": "FROM busybox\nRUN echo x > /x\n"})
    command = f"exec {shlex.join(shared.command)} build -t streams {shlex.quote(str(context))} {closed}"
    done = subprocess.run(["sh", "-c", command], env=_environment(shared), capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_output_that_cannot_be_written_is_an_error(shared: Kedge) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*shared.command, "images"], env=_environment(shared), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "ERROR: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("words", [("save", "only"), ("export", "only"), ("build", "-o", "type=oci,dest=-", "CONTEXT")])
def test_an_archive_that_does_not_fit_is_an_error(words: tuple[str, ...], shared: Kedge, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"Dockerfile": "FROM busybox\n"})
    shared.build(context, "-t", "only")
    given = [str(context) if word == "CONTEXT" else word for word in words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*shared.command, *given], env=_environment(shared), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert "ERROR: cannot write the output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("name", "reason"),
    [("directory", "Is a directory"), ("file/x", "Not a directory"), ("x" * 300, "File name too long")],
)
@pytest.mark.parametrize(
    "words",
    [("save", "only", "-o", "DEST"), ("export", "only", "-o", "DEST"), ("build", "-o", "type=tar,dest=DEST", ".")],
)
def test_a_place_that_is_no_file(words: tuple[str, ...], name: str, reason: str, shared: Kedge, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"Dockerfile": "FROM busybox\n", "directory/x": "", "file": ""})
    shared.build(context, "-t", "only")
    done = shared(*(word.replace("DEST", name) for word in words), cwd=context, check=False)
    assert done.returncode == 1
    assert f"ERROR: cannot write {name}: {reason}" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(context)) == ["Dockerfile", "directory", "file"]


def test_a_reader_that_is_gone_is_no_traceback(shared: Kedge) -> None:
    command = f"({shlex.join(shared.command)} images; echo $? >&2) | true"
    done = subprocess.run(["sh", "-c", command], env=_environment(shared), stderr=subprocess.PIPE, text=True)
    assert done.stderr in ("0\n", "1\n")
