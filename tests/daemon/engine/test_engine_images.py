"""Images, with Docker's own client."""

import json
import re
import subprocess
from pathlib import Path

from tests.conftest import LiveRegistry
from tests.daemon.engine.conftest import Docker


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
    docker("volume", "ls")
    assert "not supported" in docker.run("volume", "create", "x").stderr


def test_info_and_version(docker: Docker) -> None:
    assert json.loads(docker("version", "-f", "{{json .Server}}"))["ApiVersion"] == "1.50"
    assert json.loads(docker("info", "-f", "{{json .}}"))["OSType"] == "linux"
