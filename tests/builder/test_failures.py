"""Builds that fail: what is said, and what is left."""

import io

import pytest

from kedge.model.errors import DockerfileError, InvalidInput, KedgeError, NotFound, StepFailed, Unsupported


def test_a_failing_step_tells_code_output_file_line_and_stage(bench):
    with pytest.raises(StepFailed) as raised:
        bench.build("FROM base AS build\nRUN true\nRUN echo before; echo worse >&2; exit 7\n")
    error = raised.value
    assert error.exit_code == 7
    assert error.tail == b"before\nworse\n" or sorted(error.tail.splitlines()) == [b"before", b"worse"]
    assert str(error.location) == "Dockerfile:3"
    assert error.stage == "build"
    assert "exit code: 7" in error.message
    failed = [name for name, state in bench.steps().items() if "exit code" in state]
    assert len(failed) == 1


def test_a_failure_keeps_the_steps_before_it_and_gives_no_name(bench):
    with pytest.raises(StepFailed):
        bench.build("FROM base\nRUN echo x > /x\nRUN false", tags=("x",))
    with bench.store() as store:
        assert store.images.get("docker.io/library/x:latest") is None
        assert store.verify() == []
    bench.build("FROM base\nRUN echo x > /x\nRUN true")
    assert bench.steps()["[2/3] RUN echo x > /x"] == "CACHED"


def test_one_failure_stops_the_other_stages_and_is_the_only_error(bench):
    import time

    begun = time.monotonic()
    with pytest.raises(StepFailed) as raised:
        bench.build(
            "FROM base AS slow\nRUN sleep 100\nFROM base AS bad\nRUN sleep 0.2; exit 3\n"
            "FROM base\nCOPY --from=slow /x /\nCOPY --from=bad /x /"
        )
    assert time.monotonic() - begun < 90
    assert raised.value.exit_code == 3
    slow = next(state for name, state in bench.steps().items() if "sleep 100" in name)
    assert "cancel" in slow


@pytest.mark.parametrize(
    ("dockerfile", "kind", "words"),
    [
        ("FROM base\nRUN true\nCOPY --from=biuld /x /", KedgeError, "biuld"),
        ("FROM base AS build\nRUM true", DockerfileError, "RUN"),
        ("FROM base\nCOPY missing.txt /", NotFound, "missing.txt"),
        ("FROM base\nCOPY --chown=nobody:none x /", KedgeError, ""),
        ("FROM a AS b\nFROM b AS a\nCOPY --from=c / /\nFROM a AS c", KedgeError, ""),
        ("", DockerfileError, ""),
        ("# syntax=example.com/other:1\nFROM base", Unsupported, "example.com/other:1"),
        ("FROM base\nRUN --mount=type=secret,id=s,required=true true", NotFound, "secret"),
        ("FROM base\nRUN --security=insecure true", InvalidInput, "security.insecure"),
        ("FROM base\nRUN --network=host true", InvalidInput, "network.host"),
        ("FROM base\nUSER 99999999999\nRUN true", KedgeError, ""),
        ("FROM base\nUSER ghost\nRUN true", NotFound, "ghost"),
    ],
)
def test_what_cannot_be_built_says_why(bench, dockerfile, kind, words):
    bench.write(x="x")
    with pytest.raises(kind) as raised:
        bench.build(dockerfile, tags=("x",))
    shown = f"{raised.value.message} {raised.value.hint}"
    assert words in shown
    assert "Traceback" not in shown


def test_a_name_that_is_none_is_told_before_anything_is_built(bench):
    with pytest.raises(InvalidInput, match="a b"):
        bench.build("FROM base\nRUN echo never", tags=("a b",))
    assert bench.steps() == {}


def test_a_missing_target_names_the_nearest(bench):
    with pytest.raises(NotFound) as raised:
        bench.build("FROM base AS runtime\nRUN true", target="runtme")
    assert "runtime" in raised.value.message + raised.value.hint


def test_a_missing_dockerfile_names_the_ones_there_are(bench):
    bench.write(Dockerfile_dot_dev="FROM base")
    with pytest.raises(NotFound) as raised:
        bench.build()
    assert "Dockerfile.dev" in raised.value.hint


@pytest.mark.parametrize(
    ("data", "message"), [("FROM base\n".encode("utf-16"), "is UTF-16 text"), (b"\x7fELF\2\1\1\0\0\0", "is no text")]
)
def test_a_dockerfile_that_is_no_text(bench, data, message):
    (bench.context / "Dockerfile").write_bytes(data)
    with pytest.raises(DockerfileError, match=f"Dockerfile {message}"):
        bench.build()


def test_a_missing_context(bench):
    with pytest.raises(NotFound, match="does not exist"):
        bench.build("FROM base", context=bench.context / "nowhere")


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore"])
def test_a_directory_where_a_file_should_be(bench, name):
    (bench.context / name).mkdir()
    with pytest.raises(NotFound, match=f"{name} in the context is a directory"):
        bench.build("FROM base" if name == ".dockerignore" else None)


@pytest.mark.parametrize(
    "fields",
    [
        {"context": "/tmp/" + "x" * 300},
        {"dockerfile": "x" * 300},
        {"named_contexts": (("other", "/tmp/" + "x" * 300),)},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_path_that_cannot_even_be_looked_at_is_no_traceback(bench, fields):
    with pytest.raises(NotFound, match="File name too long"):
        bench.build(None if "dockerfile" in fields else "FROM base\nCOPY --from=other / /\n", **fields)


def test_a_file_the_ignore_file_removed_names_the_line(bench):
    bench.write(secret_dot_txt="x", _dot_dockerignore="# all texts\n*.txt\n!a.txt\n/./*.txt\n")
    with pytest.raises(NotFound) as raised:
        bench.build("FROM base\nCOPY secret.txt /")
    assert raised.value.hint == "It is excluded by line 4 of .dockerignore: *.txt"
    assert str(raised.value.location) == "Dockerfile:2"


def test_the_ignore_file_beside_a_dockerfile_is_named_as_it_is(bench):
    bench.write(Dockerfile="FROM base\nCOPY secret.txt /", secret_dot_txt="x")
    bench.write(_dot_dockerignore="other\n*.txt\n", Dockerfile_dot_dockerignore="*.txt\n")
    with pytest.raises(NotFound) as raised:
        bench.build()
    assert raised.value.hint == "It is excluded by line 1 of Dockerfile.dockerignore: *.txt"


def test_the_ignore_file_of_a_named_context_is_told_from_the_main_one(bench, tmp_path):
    bench.write(_dot_dockerignore="other\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "secret.txt").touch()
    (tmp_path / "more" / ".dockerignore").write_text("\n*.txt\n")
    with pytest.raises(NotFound) as raised:
        bench.build("FROM base\nCOPY --from=more secret.txt /", named_contexts=(("more", str(tmp_path / "more")),))
    assert raised.value.hint == "It is excluded by line 2 of the .dockerignore of more: *.txt"


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("min.go", "Did you mean /main.go?"),
        ("src/ap.py", "Did you mean /src/app.py?"),
        ("scr/app.py", "Did you mean /src?"),
        ("out/passwd", "/out is a link to /etc, which is looked for in the same tree only"),
        ("secret.tx", ""),  # what the ignore file hides is no help
        ("something-else-altogether", ""),
    ],
)
def test_a_missing_file_names_what_may_be_meant(bench, source, hint):
    bench.write(main_dot_go="", secret_dot_txt="", _dot_dockerignore="*.txt\n")
    (bench.context / "src").mkdir()
    (bench.context / "src/app.py").touch()
    (bench.context / "out").symlink_to("/etc")
    with pytest.raises(NotFound, match="not found") as raised:
        bench.build(f"FROM base\nCOPY {source} /x/\n")
    assert raised.value.hint.startswith(hint)
    assert bool(raised.value.hint) == bool(hint)


def test_a_wrong_image_name_is_told_before_anything_runs(bench):
    with pytest.raises(InvalidInput):
        bench.build("FROM base\nRUN true", tags=("UPPER CASE",))


def test_standard_input_that_is_neither(bench):
    with pytest.raises(InvalidInput, match="neither"):
        bench.build(context=io.BytesIO(b"\0\1\2" * 1000))


def test_a_file_that_changes_between_its_checksum_and_its_copy_is_an_error(bench):
    import threading

    bench.write(f="before")
    timer = threading.Timer(0.6, lambda: bench.write(f="after!"))
    timer.start()
    with pytest.raises(KedgeError, match="changed"):
        bench.build("FROM base\nRUN sleep 2\nCOPY f /", tags=("x",))
    timer.join()
    bench.build("FROM base\nRUN sleep 2\nCOPY f /", tags=("x",))
    assert bench.read("x", "f") == "after!"
