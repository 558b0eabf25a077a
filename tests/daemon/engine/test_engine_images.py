"""Images, with Docker's own client."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import LiveRegistry
from tests.daemon.engine.conftest import Docker, running


def test_listing_and_inspecting(docker: Docker) -> None:
    rows = docker("images", "--format", "{{.Repository}} {{.Tag}} {{.ID}}").splitlines()
    id = next(row.split()[2] for row in rows if row.startswith("busybox latest"))
    document = json.loads(docker("inspect", "busybox"))[0]
    assert document["Id"].startswith(f"sha256:{id}")
    assert document["Os"] == "linux"
    assert docker("images", "-q", "--filter", "reference=busy*").split() == [id]
    assert docker("images", "-q", "--filter", "reference=nothing*") == ""
    assert json.loads(docker("image", "inspect", id))[0]["Id"] == document["Id"]
    assert "No such image: nosuch:latest" in docker.run("image", "inspect", "nosuch").stderr


def test_tagging_and_removing(docker: Docker) -> None:
    docker("tag", "busybox", "other/name:1")
    assert "other/name:1" in docker("inspect", "-f", "{{.RepoTags}}", "busybox")
    assert docker("rmi", "other/name:1") == "Untagged: other/name:1\n"
    assert "No such image: other/name:1" in docker.run("rmi", "other/name:1").stderr
    assert "invalid" in docker.run("tag", "busybox", "Upper/Case").stderr.lower()


def test_an_image_lives_until_its_last_name_goes(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL only=this\n")
    id = docker("build", "-q", "-t", "gone:1", "-t", "gone:2", tmp_path).strip()
    assert "must be forced" in docker.run("rmi", id).stderr
    assert docker("rmi", "gone:1") == "Untagged: gone:1\n"
    assert docker("rmi", "gone:2") == f"Untagged: gone:2\nDeleted: {id}\n"


def test_saving_and_loading(docker: Docker, tmp_path: Path) -> None:
    docker("tag", "busybox", "saved:1")
    docker("save", "-o", tmp_path / "a.tar", "saved:1")
    docker("rmi", "saved:1")
    assert docker("load", "-i", tmp_path / "a.tar") == "Loaded image: saved:1\n"
    assert docker("run", "--rm", "saved:1", "echo", "back") == "back\n"
    subprocess.run(["gzip", "-k", tmp_path / "a.tar"], check=True)
    assert docker("load", stdin=(tmp_path / "a.tar.gz").read_bytes()) == "Loaded image: saved:1\n"
    assert docker.run("load", stdin=b"no archive").returncode == 1
    assert "No such image" in docker.run("save", "nosuch").stderr
    docker("rmi", "saved:1")


def test_importing_a_root(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in it")
    archive = subprocess.run(["tar", "c", "-C", tmp_path, "file"], capture_output=True, check=True).stdout
    assert docker("import", "-c", 'CMD ["x"]', "-", "imported:1", stdin=archive).startswith("sha256:")
    assert docker("inspect", "-f", "{{.Config.Cmd}}", "imported:1") == "[x]\n"
    docker("rmi", "imported:1")


def test_pushing_and_pulling(docker: Docker, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/engine/app"
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo pushed > /pushed\n")
    docker("build", "-t", f"{name}:1", tmp_path)
    pushed = docker("push", f"{name}:1")
    assert f"The push refers to repository [{name}]" in pushed
    digest = re.search(r"^1: digest: (sha256:[0-9a-f]{64}) size: \d+$", pushed, re.M)
    assert digest
    docker("rmi", f"{name}:1")
    pulled = docker("pull", f"{name}:1")
    assert f"Digest: {digest[1]}\nStatus: Downloaded newer image for {name}:1\n" in pulled
    assert "Image is up to date" in docker("pull", f"{name}:1")
    assert docker("run", "--rm", f"{name}:1", "cat", "/pushed") == "pushed\n"
    assert docker("pull", "-q", f"{name}@{digest[1]}").strip() == f"{name}@{digest[1]}"
    assert docker("run", "--rm", f"{name}@{digest[1]}", "cat", "/pushed") == "pushed\n"
    described = json.loads(docker("manifest", "inspect", "--insecure", f"{name}:1"))
    assert described["schemaVersion"] == 2
    missing = docker.run("pull", f"{registry}/engine/none")
    assert missing.returncode == 1
    assert "none" in missing.stderr
    assert "does not exist locally" in docker.run("push", f"{registry}/engine/none").stderr
    assert docker("run", "--rm", "--pull", "always", f"{name}:1", "true") == ""


def test_a_run_pulls_what_is_not_here(docker: Docker, registry: str) -> None:
    name = f"{registry}/engine/lazy:1"
    docker("tag", "busybox", name)
    docker("push", name)
    docker("rmi", name)
    done = docker.run("run", "--rm", name, "echo", "pulled")
    assert (done.stdout, done.returncode) == ("pulled\n", 0)
    assert f"Unable to find image '{name}' locally" in done.stderr


def test_credentials_are_the_clients_own(docker: Docker, tmp_path_factory, tmp_path: Path) -> None:
    from tests.conftest import running_registry

    with running_registry(tmp_path_factory.mktemp("locked"), users={"me": "secret"}) as locked:
        _with_login(docker, locked, tmp_path)


def _with_login(docker: Docker, locked: LiveRegistry, tmp_path: Path) -> None:
    name = f"{locked.address}/own/app:1"
    docker("tag", "busybox", name)
    assert docker.run("push", name).returncode == 1
    assert docker.run("login", "-u", "me", "--password-stdin", locked.address, stdin=b"wrong").returncode == 1
    assert "Login Succeeded" in docker("login", "-u", "me", "--password-stdin", locked.address, stdin=b"secret")
    docker("push", name)
    docker("rmi", name)
    (tmp_path / "Dockerfile").write_text(f"FROM {name}\n")
    docker("build", "--pull", "-t", "of-locked", tmp_path)
    docker("rmi", "-f", name, "of-locked")
    empty = Docker(docker.service, tmp_path)
    assert empty.run("pull", name).returncode == 1
    assert "secret" not in docker.service.log.read_text()


def test_usage_prune_and_search(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL prune=me\n")
    id = docker("build", "-q", tmp_path).strip()
    assert "<none>" in docker("images", "-a")
    assert id in docker("image", "prune", "-f")
    assert "Images" in docker("system", "df")
    assert "busybox" in docker("search", "busy")
    docker("builder", "prune", "-f")


@pytest.mark.parametrize("client", ["docker", "buildx"])
def test_an_image_whose_name_moved_stays_until_it_is_pruned(
    client: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    docker: Docker = request.getfixturevalue(client)
    ids = []
    for word in ("first", "second"):
        (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN echo {word} > /a\n")
        docker("build", "-q", "-t", "moving", tmp_path)
        ids.append(docker("inspect", "-f", "{{.Id}}", "moving").strip())
    first, second = ids
    docker("tag", "busybox", "moving")
    dangling = docker("images", "-q", "--no-trunc", "-f", "dangling=true")
    assert {first, second} <= set(dangling.split())
    assert docker("run", "--rm", first, "cat", "/a") == "first\n"
    docker("create", "--name", "of-second", second)
    told = docker("image", "prune", "-f")
    assert first in told
    assert second not in told
    docker("rm", "of-second")
    assert second in docker("image", "prune", "-f")
    assert docker("images", "-q", "-f", "dangling=true") == ""
    docker("rmi", "moving")


def test_removing_an_image_frees_what_came_with_it(mirror: Path, docker: Docker, tmp_path: Path) -> None:
    from kedge.storage.disk import measure

    with running(tmp_path, mirror) as own:
        mine = Docker(own, docker.config)
        before = measure(own.store).bytes
        mine("pull", "-q", "busybox")
        mine("tag", "busybox", "other")
        mine("rmi", "busybox")
        assert measure(own.store).bytes - before > 500_000
        mine("rmi", "other")
        assert measure(own.store).bytes - before < 200_000


def test_an_image_of_a_container(docker: Docker) -> None:
    change = "mkdir /new; echo one > /new/f; rm -rf /var; chown 5:6 /new/f"
    docker("run", "--name", "source", "-e", "OLD=1", "busybox", "sh", "-c", change)
    assert set(docker("diff", "source").splitlines()) == {"A /new", "A /new/f", "D /var"}
    words = ["-m", "why", "-a", "me", "-c", "ENV A=b", "-c", 'CMD ["cat", "/new/f"]', "-c", "WORKDIR /new"]
    id = docker("commit", *words, "source", "committed:1").strip()
    assert docker("run", "--rm", "committed:1") == "one\n"
    look = ("sh", "-c", "ls -d /var 2>&1; stat -c %u:%g f; echo $OLD$A; pwd")
    assert docker("run", "--rm", "committed:1", *look).splitlines()[1:] == ["5:6", "1b", "/new"]
    document = json.loads(docker("inspect", "committed:1"))[0]
    assert (document["Id"], document["Author"], document["Comment"]) == (id, "me", "why")
    assert "why" in docker("history", "committed:1")
    docker("rm", "source")
    assert "ENV" in docker.run("commit", "-c", "RUN x", docker("create", "busybox", "true").strip()).stderr
    docker("container", "prune", "-f")
    docker("rmi", "committed:1")


def test_a_running_container_is_held_while_it_becomes_an_image(docker: Docker) -> None:
    docker("run", "-d", "--name", "busy", "busybox", "sh", "-c", "while :; do date > /a; cp /a /b; done")
    for _ in range(3):
        id = docker("commit", "busy").strip()
        assert docker("run", "--rm", id, "true") == ""
    assert docker("inspect", "-f", "{{.State.Status}}", "busy") == "running\n"
    docker("rm", "-f", "busy")
    docker("run", "-d", "--name", "quiet", "busybox", "sleep", "1000")
    docker("commit", "--pause=false", "quiet", "unheld")
    docker("rm", "-f", "quiet")
    docker("rmi", "unheld")


def test_all_tags_are_pulled_and_pushed_digests_are_known(docker: Docker, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/engine/several"
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo several > /several\n")
    docker("build", "-q", "-t", f"{name}:1", "-t", f"{name}:2", tmp_path)
    pushed = docker("push", "-a", name)
    digests = set(re.findall(r"digest: (sha256:[0-9a-f]{64})", pushed))
    assert len(digests) == 1
    pinned = f"{name}@{digests.pop()}"
    assert json.loads(docker("inspect", "-f", "{{json .RepoDigests}}", f"{name}:1")) == [pinned]
    assert docker("run", "--rm", "--pull", "never", pinned, "cat", "/several") == "several\n"
    assert pinned.partition("@")[2] in docker("images", "--digests", name)
    assert docker("images", "-q", name, "--format", "{{.Tag}}").split().count("<none>") == 0
    docker("rmi", f"{name}:1", f"{name}:2")
    assert docker("images", "-q", name) == ""
    pulled = docker("pull", "-a", name)
    assert f"newer image for {name}:1" in pulled
    assert f"newer image for {name}:2" in pulled
    assert sorted(docker("images", name, "--format", "{{.Tag}}").split()) == ["1", "2"]
    assert docker.run("pull", "-a", f"{registry}/engine/nosuch").returncode == 1
    docker("rmi", f"{name}:1", f"{name}:2")


def test_classic_builds_take_caches_of_images(mirror: Path, registry: str, docker: Docker, tmp_path: Path) -> None:
    name = f"{registry}/engine/cached:1"
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo $((40+2)) > /a\n")
    with running(tmp_path, mirror) as own:
        first = Docker(own, docker.config)
        first("build", "-t", name, "--build-arg", "BUILDKIT_INLINE_CACHE=1", context)
        first("push", "-q", name)
    (tmp_path / "other").mkdir()
    with running(tmp_path / "other", mirror) as own:
        other = Docker(own, docker.config)
        assert "Using cache" in other("build", "--cache-from", name, "--cache-from", f"{registry}/no/such", context)


def test_pruning_tells_the_bytes_that_went(mirror: Path, docker: Docker, tmp_path: Path) -> None:
    from kedge.storage.disk import measure

    with running(tmp_path, mirror) as own:
        mine = Docker(own, docker.config)
        mine("pull", "-q", "busybox")
        mine("run", "busybox", "sh", "-c", "dd if=/dev/zero of=/z bs=1M count=3 2>/dev/null")
        assert "reclaimed space: 3.1" in mine("container", "prune", "-f")
        before = measure(own.store).bytes
        told = mine("image", "prune", "-af")
        number = re.search(r"reclaimed space: ([\d.]+)MB", told)
        assert number, told
        assert abs(float(number[1]) * 1e6 - (before - measure(own.store).bytes)) < 200_000
        rows = json.loads("[" + ",".join(mine("system", "df", "--format", "json").splitlines()) + "]")
        assert {row["Type"]: row["TotalCount"] for row in rows}["Images"] == "0"


def test_info_and_version(docker: Docker) -> None:
    assert json.loads(docker("version", "-f", "{{json .Server}}"))["ApiVersion"] == "1.50"
    assert json.loads(docker("info", "-f", "{{json .}}"))["OSType"] == "linux"
