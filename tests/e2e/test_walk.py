"""The walk of the README, from a base image in a registry to a program that runs, and what other tools make of it."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Kedge, steps, write_tree

EXAMPLE = ROOT / "examples" / "hello-multi-stage"


@pytest.fixture(scope="module")
def built(shared: Kedge) -> Kedge:
    """The example, built once; `shown` is what the build showed."""
    shared.shown = shared.build(EXAMPLE, "--tag", "hello-multi-stage")  # type: ignore[attr-defined]
    return shared


def test_the_build_shows_each_step_as_buildkit_does(built: Kedge) -> None:
    shown = built.shown  # type: ignore[attr-defined]
    assert shown.startswith("#1 [internal] load build definition from Dockerfile\n")
    names = list(steps(shown))
    assert names[-2:] == ["[runtime 1/1] COPY --from=build /out/hello /hello", "exporting to image"]
    assert any(name.startswith("[build 1/4] FROM docker.io/library/golang:1.25@sha256:") for name in names)
    assert "[build 4/4] RUN CGO_ENABLED=0 GOOS=linux go build -o /out/hello ./main.go" in names
    assert "exporting layers done" in shown or " done\n" in shown
    assert "naming to docker.io/library/hello-multi-stage" in shown


def test_the_program_runs(built: Kedge) -> None:
    assert built("run", "--rm", "hello-multi-stage").stdout == "hello from the runtime stage\n"


def test_building_again_runs_nothing_and_needs_no_registry(built: Kedge) -> None:
    nowhere = built.config.parent / "nowhere.toml"
    nowhere.write_text('[registry."docker.io"]\nmirrors = ["http://127.0.0.1:9"]\n')
    shown = steps(built.build(EXAMPLE, "--tag", "hello-multi-stage", KEDGE_CONFIG=str(nowhere)))
    assert all(end == "CACHED" for name, end in shown.items() if name.startswith(("[build", "[runtime")))


def test_the_build_stage_is_an_image_of_its_own(built: Kedge) -> None:
    shown = steps(built.build(EXAMPLE, "--target", "build", "--tag", "hello-multi-stage:build"))
    assert not any(name.startswith("[runtime") for name in shown)
    assert all(end == "CACHED" for name, end in shown.items() if name.startswith("[build"))
    assert built("run", "--rm", "hello-multi-stage:build", "sh", "-c", "pwd; ls").stdout == "/src\nmain.go\n"


def test_history_tells_both_instructions_with_sizes_and_recent_times(built: Kedge) -> None:
    lines = built("history", "hello-multi-stage").stdout.splitlines()
    assert lines[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert 'ENTRYPOINT ["/hello"]' in lines[1]
    assert " 0B " in lines[1]
    assert lines[2].startswith("<missing>")
    assert "COPY /out/hello /hello # buildkit" in lines[2]
    assert "MB" in lines[2]
    assert lines[1].endswith("buildkit.dockerfile.v0")
    assert not any("years" in line for line in lines)


def test_history_is_the_same_after_the_image_ran(built: Kedge) -> None:
    def shown() -> str:
        return built("history", "--format", "{{.ID}} {{.CreatedBy}} {{.Size}}", "hello-multi-stage").stdout

    before = shown()
    built("run", "--rm", "hello-multi-stage")
    assert shown() == before


def test_images_and_inspect_know_the_name(built: Kedge) -> None:
    rows = built("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    assert "hello-multi-stage:latest" in rows
    config = json.loads(built("inspect", "hello-multi-stage").stdout)[0]["Config"]
    assert config["Entrypoint"] == ["/hello"]


def test_the_only_layer_of_the_saved_image_holds_only_the_program(built: Kedge, tmp_path: Path) -> None:
    built("save", "--output", tmp_path / "image.tar", "hello-multi-stage")
    with tarfile.open(tmp_path / "image.tar") as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        (layer,) = manifest[0]["Layers"]
        with tarfile.open(fileobj=archive.extractfile(layer)) as files:
            assert files.getnames() == ["hello"]


def test_a_saved_image_is_the_same_each_time(built: Kedge) -> None:
    archives = [built("save", "--output", built.store.parent / f"{n}.tar", "hello-multi-stage") for n in range(2)]
    assert len(archives) == 2
    first, second = ((built.store.parent / f"{n}.tar").read_bytes() for n in range(2))
    assert first == second


def test_skopeo_and_umoci_read_what_save_wrote(built: Kedge, tmp_path: Path) -> None:
    for tool in ("skopeo", "umoci"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    built("save", "--directory", "--output", tmp_path / "layout", "hello-multi-stage")
    inspected = subprocess.run(
        ["skopeo", "inspect", f"oci:{tmp_path}/layout:latest"], capture_output=True, text=True, check=True
    )
    assert json.loads(inspected.stdout)["Os"] == "linux"
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{tmp_path}/layout:latest", str(tmp_path / "bundle")],
        capture_output=True,
        check=True,
    )
    assert [path.name for path in (tmp_path / "bundle" / "rootfs").iterdir()] == ["hello"]


def test_another_store_loads_what_this_one_saved(built: Kedge, kedge: Kedge, tmp_path: Path) -> None:
    built("save", "--output", tmp_path / "image.tar", "hello-multi-stage")
    assert kedge("load", "--input", tmp_path / "image.tar").stdout == "Loaded image: hello-multi-stage:latest\n"
    assert kedge("run", "hello-multi-stage").stdout == "hello from the runtime stage\n"
    ids = [each("images", "--no-trunc", "-q", "hello-multi-stage:latest").stdout for each in (built, kedge)]
    assert ids[0] == ids[1]


def test_two_stores_give_the_same_image(built: Kedge, kedge: Kedge) -> None:
    kedge.build(EXAMPLE, "--tag", "hello-multi-stage")
    ids = [each("images", "--no-trunc", "-q", "hello-multi-stage:latest").stdout for each in (built, kedge)]
    assert ids[0] == ids[1]


def test_editing_the_program_runs_only_what_it_reaches(shared: Kedge, tmp_path: Path) -> None:
    context = write_tree(tmp_path, {name: (EXAMPLE / name).read_text() for name in ("Dockerfile", "main.go")})
    shared.build(context)
    assert "\n Every step was cached.\n" in shared.build(context, "--explain")
    (context / "main.go").write_text((EXAMPLE / "main.go").read_text().replace("hello from", "bye from"))
    shown = steps(shared.build(context, "--tag", "edited"))
    ends = {name.split("]")[0]: end for name, end in shown.items() if name.startswith(("[build", "[runtime"))}
    assert ends == {"[build 1/4": "CACHED", "[build 2/4": "CACHED", "[build 3/4": "DONE", "[build 4/4": "DONE",
                    "[runtime 1/1": "DONE"}  # fmt: skip
    assert shared("run", "edited").stdout == "bye from the runtime stage\n"


def test_why_steps_ran_is_told_when_asked(shared: Kedge, tmp_path: Path) -> None:
    context = write_tree(
        tmp_path / "context", {"Dockerfile": "FROM scratch\nCOPY f /a\nCOPY g /b\n", "f": "1", "g": "1"}
    )
    shared.build(context)
    (context / "g").write_text("2")
    told = shared.build(context, "--explain")
    assert told.endswith(
        " Why steps ran:\n - [2/2] COPY g /b: files it takes from [internal] load build context changed\n"
    )


def test_why_steps_ran_is_told_of_a_build_that_fails_too(shared: Kedge, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"Dockerfile": 'FROM scratch\nCOPY f /a\nRUN ["/none"]\n', "f": "own"})
    done = shared("build", "--progress", "plain", "--explain", context, check=False)
    reason = "no build of this Dockerfile in this place has done it before"
    assert f' Why steps ran:\n - [1/2] COPY f /a: {reason}\n - [2/2] RUN ["/none"]: {reason}\n' in done.stderr
    assert done.returncode == 1


def test_a_build_elsewhere_is_compared_with_the_last_one_of_the_same_image(shared: Kedge, tmp_path: Path) -> None:
    files = {"Dockerfile": "FROM scratch\nCOPY f /a\nCOPY g /b\n", "f": "one", "g": "1"}
    shared.build(write_tree(tmp_path / "first", files), "-t", "elsewhere:1")
    told = shared.build(write_tree(tmp_path / "second", files | {"g": "2"}), "--explain", "-t", "elsewhere:2")
    assert told.endswith(
        " Why steps ran:\n - [2/2] COPY g /b: files it takes from [internal] load build context changed; "
        "compared with the last build of elsewhere, as none in this place has done it before\n"
    )


def test_the_store_is_sound_afterwards(built: Kedge) -> None:
    assert "sound" in built("du", "--verify").stdout


def test_the_demo_ends_with_the_program_and_both_sizes(built: Kedge) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py")],
        env=os.environ | {"KEDGE_ROOT": str(built.store), "KEDGE_CONFIG": str(built.config)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nhello from the runtime stage\n\nhello-multi-stage  " in done.stdout
    assert "\nhello-multi-stage:build  " in done.stdout
    assert "times smaller" in done.stdout


def test_rmi_takes_the_name_away(built: Kedge) -> None:
    built("tag", "hello-multi-stage", "other:1")
    assert built("rmi", "other:1").stdout == "Untagged: other:1\n"
    assert built("inspect", "other:1", check=False).returncode == 1


def test_the_python_api_example_runs(kedge: Kedge) -> None:
    script = ROOT / "examples" / "python-api" / "build.py"
    environment = os.environ | {"KEDGE_ROOT": str(kedge.store)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[1/1] COPY *.txt /notes/" in done.stdout
    assert "sha256:" in done.stdout
