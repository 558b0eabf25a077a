"""`docker build` and what follows it, with Docker's own client."""

import re
import shutil
from pathlib import Path

import pytest

from tests.daemon.engine.conftest import Docker, Service, running

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """The example that the product is named by."""
    return Path(shutil.copytree(ROOT / "examples" / "hello-multi-stage", tmp_path / "hello"))


def test_the_walk_of_docker_users(docker: Docker, context: Path) -> None:
    built = docker("build", "--tag", "hello-multi-stage", ".", cwd=context)
    assert "Step 1/7 : FROM golang:1.25 AS build\n" in built
    assert re.search(r"Step 4/7 : RUN .*\n ---> Running in [0-9a-f]{12}\n", built) or " ---> Using cache" in built
    assert re.search(r"Successfully built [0-9a-f]{12}\nSuccessfully tagged hello-multi-stage:latest\n", built)
    assert docker("run", "--rm", "hello-multi-stage") == "hello from the runtime stage\n"
    docker("build", "--target", "build", "--tag", "hello-multi-stage:build", ".", cwd=context)
    assert "go version" in docker("run", "--rm", "hello-multi-stage:build", "go", "version")
    rows = docker("history", "hello-multi-stage").splitlines()
    assert rows[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert [row.split()[0] == "<missing>" for row in rows[1:]] == [False, True]
    assert 'ENTRYPOINT ["/hello"]' in rows[1]


def test_the_walk_with_the_buildx_plugin(buildx: Docker, context: Path) -> None:
    done = buildx.run("build", "--progress", "plain", "--tag", "hello-x", ".", cwd=context)
    assert done.returncode == 0, done.stderr
    assert "[build 4/4] RUN" in done.stderr
    assert "DONE" in done.stderr
    assert buildx("run", "--rm", "hello-x") == "hello from the runtime stage\n"
    quiet = buildx("build", "-q", "--target", "build", "--tag", "hello-x:build", ".", cwd=context).strip()
    assert quiet.startswith("sha256:")
    assert "hello-x" in buildx("images")
    assert buildx.run("buildx", "build", "--load", "-t", "hello-x:again", ".", cwd=context).returncode == 0


def test_a_second_build_is_cached_and_says_so(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo once > /a\nENV A=1\nCMD cat /a\n")
    first = docker("build", "-t", "again", tmp_path)
    second = docker("build", "-t", "again", tmp_path)
    assert "Running in" in first
    assert "Running in" not in second
    assert "Step 2/4 : RUN echo once > /a\n ---> Using cache\n" in second
    assert first.splitlines()[-2] == second.splitlines()[-2]


def test_what_a_step_says_comes_under_its_step(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS one\nRUN sleep 0.5; echo first-$((40+2)) | tee /one\n"
        "FROM busybox\nRUN echo second-$((40+3)) > /two; cat /two\nCOPY --from=one /one /\n"
    )
    lines = docker("build", "--no-cache", tmp_path).splitlines()
    assert lines.index("first-42") < lines.index("Step 3/5 : FROM busybox") < lines.index("second-43")


def test_a_step_that_fails_fails_the_build(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo why; exit 3\n")
    done = docker.run("build", tmp_path)
    assert done.returncode == 3
    assert "why" in done.stdout
    assert "The command '/bin/sh -c echo why; exit 3' returned a non-zero code: 3" in done.stderr


def test_a_wrong_dockerfile_is_named(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUNN echo\n")
    done = docker.run("build", tmp_path)
    assert done.returncode != 0
    assert "RUNN" in done.stderr


def test_arguments_labels_target_and_quiet(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("FROM busybox AS a\nARG WHO=nobody\nRUN echo $WHO > /who\nFROM busybox\n")
    id = docker("build", "-q", "-f", tmp_path / "other", "--build-arg", "WHO=me", "--label", "x=y", "--target", "a",
                "-t", "one", "-t", "two:2", tmp_path).strip()  # fmt: skip
    assert id.startswith("sha256:")
    assert docker("run", "--rm", "two:2", "cat", "/who") == "me\n"
    assert docker("inspect", "-f", "{{.Id}} {{.Config.Labels.x}}", "one").split() == [id, "y"]


def test_the_ignore_file_and_hosts_reach_the_build(docker: Docker, tmp_path: Path) -> None:
    for name in ("keep", "drop"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text("drop\nDockerfile\n.dockerignore\n")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY . /c\nRUN ls -A /c; grep 10.1.2.3 /etc/hosts\n")
    out = docker("build", "--add-host", "far:10.1.2.3", tmp_path)
    assert "\nkeep\n" in out
    for ignored in ("drop", "Dockerfile", ".dockerignore"):  # the last two are sent whatever the file says of them
        assert f"\n{ignored}\n" not in out
    assert "10.1.2.3\tfar" in out


def test_a_dockerfile_from_standard_input(docker: Docker) -> None:
    assert "Successfully built" in docker("build", "-", stdin=b"FROM busybox\nENV X=1\n")


def test_a_path_of_the_service_is_no_remote_context(service: Service) -> None:
    for remote in ("/etc", "../..", "file:///etc", "etc"):
        with service.connect() as connection:
            head = f"POST /build?remote={remote} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
            answer = connection.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 400"), answer
            assert b"is no URL" in answer


def test_a_client_that_goes_away_cancels_its_build(docker: Docker, tmp_path: Path) -> None:
    import subprocess
    import time

    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 4242\n")
    process = subprocess.Popen(["docker", "build", "--no-cache", str(tmp_path)], env=docker.environment,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
    assert process.stdout
    assert any(b"begun" in line for line in iter(process.stdout.readline, b""))
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while _sleeps("4242"):
        assert time.monotonic() < deadline, "the step still runs"
        time.sleep(0.1)


def _sleeps(seconds: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", seconds.encode()]:
            return True
    return False


def test_a_build_of_version_two_takes_its_context_from_the_session(mirror: Path, tmp_path: Path) -> None:
    """What clients without buildx do (Docker's Go library): the session beside it, the progress as BuildKit's."""
    import base64
    import http.client
    import json

    from kedge.daemon.wire import control
    from tests.daemon.client import Client
    from tests.daemon.engine.test_engine_http import Local

    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY a /b\nENV X=1\n")
    (context / "a").write_text("from the session")
    with running(tmp_path, mirror, "--buildkit", f"unix://{tmp_path}/bk.sock") as own:
        client = Client(f"unix:{tmp_path}/bk.sock", tmp_path / "client", {"context": context, "dockerfile": context})
        try:
            connection: http.client.HTTPConnection = Local(own.socket)
            query = f"version=2&session={client.id}&remote=client-session&t=two:1&buildid=b1"
            connection.request("POST", f"/build?{query}", headers={"Content-Length": "0"})
            response = connection.getresponse()
            messages = [json.loads(line) for line in response.read().splitlines()]
            connection.close()
        finally:
            client.close()
        assert [m["error"] for m in messages if "error" in m] == []
        traces = [base64.b64decode(m["aux"]) for m in messages if m.get("id") == "moby.buildkit.trace"]
        names = {v.name for data in traces for v in control.StatusResponse.FromString(data).vertexes}
        assert "[1/1] COPY a /b" in names
        ids = [m["aux"]["ID"] for m in messages if m.get("id") == "moby.image.id"]
        assert own.kedge("images", "--no-trunc", "-q").split() == ids


def test_a_client_of_buildkits_api_leaves_no_image_that_it_cannot_prune(mirror: Path, tmp_path: Path) -> None:
    from kedge.daemon.wire import control
    from tests.daemon.client import Client

    context = tmp_path / "context"
    context.mkdir()
    named = control.Exporter(Type="image", Attrs={"name": "again"})
    with running(tmp_path, mirror, "--buildkit", f"unix://{tmp_path}/bk.sock") as own:
        client = Client(f"unix://{tmp_path}/bk.sock", tmp_path / "client", {"context": context, "dockerfile": context})
        for number in range(2):
            (context / "Dockerfile").write_text(f"FROM scratch\nLABEL n={number}\n")
            client.solve(Frontend="dockerfile.v0", Exporters=[named])
        client.close()
        assert own.kedge("images", "--format", "{{.Repository}}") == "again\n"


def test_a_dockerfile_of_the_services_machine_is_out_of_reach(service: Service, tmp_path: Path) -> None:
    """`dockerfile` is a path in the context, whatever it says and whatever links the context holds."""
    import io
    import tarfile

    from tests.daemon.engine.test_engine_http import Local

    (tmp_path / "secret").write_text("FROM scratch\nLABEL of=the-host\n")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        tar.addfile(link)
    for name in (str(tmp_path / "secret"), f"../../../../../..{tmp_path}/secret", "link"):
        connection = Local(service.socket)
        connection.request(
            "POST", f"/build?dockerfile={name}", archive.getvalue(), {"Content-Type": "application/x-tar"}
        )
        response = connection.getresponse()
        answer = response.read().decode()
        connection.close()
        assert response.status == 404, answer
        assert "the-host" not in answer
