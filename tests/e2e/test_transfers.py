"""Images travel by the command line: push, pull, copy, manifest inspect, login, import, export, save, load."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.conftest import running_registry
from tests.e2e.conftest import Kedge, write_tree


@pytest.fixture(scope="module")
def hello(shared: Kedge, tmp_path_factory: pytest.TempPathFactory) -> Kedge:
    """A small image of one file, under the name `hello`."""
    context = write_tree(
        tmp_path_factory.mktemp("hello"), {"Dockerfile": "FROM scratch\nCOPY f /f\nLABEL a=b\n", "f": "hi"}
    )
    shared.build(context, "-t", "hello")
    return shared


def test_what_was_pushed_can_be_pulled_by_another_store(hello: Kedge, kedge: Kedge, registry: str) -> None:
    name = f"{registry}/team/hello:1"
    hello("tag", "hello", name)
    assert "digest: sha256:" in hello("push", "--progress", "plain", name).stdout
    assert kedge("pull", "-q", name).stdout == name + "\n"
    ids = [each("images", "-q", "--no-trunc", "--filter", f"reference={name}").stdout for each in (hello, kedge)]
    assert ids[0] == ids[1]


def test_pushing_again_sends_nothing(hello: Kedge, registry: str) -> None:
    name = f"{registry}/team/again:1"
    hello("tag", "hello", name)
    first = hello("push", "--progress", "plain", name)
    second = hello("push", "--progress", "plain", name)
    assert first.stdout == second.stdout


def test_manifest_inspect_shows_what_the_registry_has(hello: Kedge, registry: str) -> None:
    name = f"{registry}/team/inspected:1"
    hello("tag", "hello", name)
    hello("push", "-q", name)
    document = json.loads(hello("manifest", "inspect", name).stdout)
    assert len(document["layers"]) == 1
    assert document["layers"][0]["mediaType"].endswith("gzip")
    assert "LAYER" in hello("manifest", "inspect", "--format", "table", name).stdout
    assert json.loads(hello("manifest", "inspect", "--local", "hello").stdout)["schemaVersion"] == 2


def test_a_copy_to_an_archive_in_no_directory_changes_nothing(hello: Kedge, tmp_path: Path) -> None:
    archive = tmp_path / "no/such/x.tar"
    done = hello("copy", "store:hello", f"oci:{tmp_path}/layout", f"oci-archive:{archive}", check=False)
    assert done.returncode == 1
    assert f"there is no directory {archive.parent} to write x.tar to" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_image_is_copied_through_every_kind_of_place(hello: Kedge, registry: str, tmp_path: Path) -> None:
    layout, archive = f"oci:{tmp_path}/layout:one", f"oci-archive:{tmp_path}/image.tar:two"
    places = [f"docker://{registry}/team/copied:1", layout, archive, "store:copied:2"]
    digests = set()
    source = "store:hello"
    for place in places:
        digests.add(hello("copy", "--progress", "plain", source, place).stdout)
        source = place
    assert len(digests) == 1
    config = json.loads(hello("inspect", "copied:2").stdout)[0]["Config"]
    assert config["Labels"] == {"a": "b"}


def test_an_unknown_kind_of_place_is_named(hello: Kedge) -> None:
    done = hello("copy", "dcoker://x", "store:y", check=False)
    assert done.returncode == 125
    assert "Did you mean docker:?" in done.stderr


def test_a_root_file_system_is_imported_and_exported(kedge: Kedge, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "root.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("etc/motd")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    changes = ["--change", 'CMD ["/x"]', "--change", "ENV A=1", "--message", "from a test", "--label", "k=v"]
    id = kedge("import", *changes, tmp_path / "root.tar.gz", "rooted:1").stdout.strip()
    assert id.startswith("sha256:")
    config = json.loads(kedge("inspect", "rooted:1").stdout)[0]["Config"]
    assert (config["Cmd"], config["Env"][-1], config["Labels"]) == (["/x"], "A=1", {"k": "v"})
    assert "from a test" in kedge("history", "rooted:1").stdout
    kedge("export", "-o", tmp_path / "out.tar", "rooted:1")
    with tarfile.open(tmp_path / "out.tar") as tar:
        file = tar.extractfile("etc/motd")
        assert file is not None
        assert file.read() == b"hello"


def test_several_images_are_saved_and_loaded_through_pipes(hello: Kedge, kedge: Kedge, tmp_path: Path) -> None:
    hello("tag", "hello", "second:1")
    hello("save", "-o", tmp_path / "both.tar", "hello", "second:1")
    loaded = kedge("load", stdin=(tmp_path / "both.tar").read_bytes()).stdout
    assert sorted(loaded.splitlines()) == ["Loaded image: hello:latest", "Loaded image: second:1"]


def test_a_wrong_login_is_refused_and_nothing_is_kept(kedge: Kedge, registry: str, tmp_path: Path) -> None:
    done = kedge("login", "-u", "me", "--password-stdin", "127.0.0.1:9", stdin=b"secret\n", check=False,
                 DOCKER_CONFIG=str(tmp_path))  # fmt: skip
    assert done.returncode == 1
    assert "secret" not in done.stderr + done.stdout
    assert not (tmp_path / "config.json").exists()
    assert "Not logged in" in kedge("logout", registry, DOCKER_CONFIG=str(tmp_path)).stdout


def test_a_login_opens_a_registry_until_the_logout(hello: Kedge, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    with running_registry(tmp_path / "registry", users={"me": "right"}) as closed:
        name, docker = f"{closed.address}/team/closed:1", {"DOCKER_CONFIG": str(tmp_path)}
        hello("tag", "hello", name)
        assert hello("push", "-q", name, check=False, **docker).returncode == 1
        wrong = hello("login", "-u", "me", "--password-stdin", closed.address, stdin=b"wrong", check=False, **docker)
        assert wrong.returncode == 1
        done = hello("login", "-u", "me", "--password-stdin", closed.address, stdin=b"right\n", **docker)
        assert done.stdout == "Login Succeeded\n"
        assert (tmp_path / "config.json").stat().st_mode & 0o77 == 0
        assert hello("push", "-q", name, **docker).stdout == name + "\n"
        assert "Removing login credentials" in hello("logout", closed.address, **docker).stdout
        assert hello("manifest", "inspect", name, check=False, **docker).returncode == 1


def test_a_build_pushes_and_tells_what_it_pushed(shared: Kedge, kedge: Kedge, registry: str, tmp_path: Path) -> None:
    context = write_tree(tmp_path / "context", {"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "pushed by a build"})
    name = f"{registry}/team/built:1"
    shared.build(context, "--push", "-t", name, "--metadata-file", tmp_path / "metadata.json")
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["image.name"] == name
    kedge("pull", "-q", f"{name}@{metadata['containerimage.digest']}")
    kedge("export", "-o", tmp_path / "out.tar", f"{name}@{metadata['containerimage.digest']}")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames() == ["f"]
