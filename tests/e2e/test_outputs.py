"""What `-o` makes, read by the tools of others; several outputs of one build; `--load` into a running Podman."""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kedge.exporters.validate import validate_layout
from tests.conftest import running_registry
from tests.e2e.conftest import Kedge, write_tree

TEXT = """\
FROM busybox AS b
RUN mkdir -p /o/bin && echo hi > /o/f && ln -s f /o/l && chown 7:8 /o/f
FROM scratch
COPY --from=b /o /
COPY large /large
ENV A=1
"""


def need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def sh(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tree(tmp_path_factory.mktemp("outputs"), {"Dockerfile": TEXT})
    (folder / "large").write_bytes(os.urandom(3 << 20))
    return folder


def layers_of(archive: Path) -> list[dict[str, Any]]:
    """The layers in an archive's only manifest."""
    with tarfile.open(archive) as tar:

        def read(digest: str) -> Any:
            file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert file
            return json.load(file)

        index = tar.extractfile("index.json")
        assert index
        (entry,) = json.load(index)["manifests"]
        found: list[dict[str, Any]] = read(entry["digest"])["layers"]
    return found


def test_many_outputs_of_one_build(shared: Kedge, context: Path, registry: str, tmp_path: Path) -> None:
    name, other = f"{registry}/out/many:1", f"{registry}/out/other:2"
    shared.build(
        context,
        *("-o", f'type=image,"name={name},{other}",push=true'),
        *("-o", f"type=oci,dest={tmp_path}/oci.tar"),
        *("-o", f"type=oci,tar=false,dest={tmp_path}/layout"),
        *("-o", f"type=docker,name=out:1,dest={tmp_path}/docker.tar"),
        *("-o", f"type=local,dest={tmp_path}/files"),
        *("-o", f"type=tar,dest={tmp_path}/files.tar"),
        *("-o", "type=cacheonly"),
        *("--metadata-file", tmp_path / "meta.json", "--iidfile", tmp_path / "id"),
    )
    metadata = json.loads((tmp_path / "meta.json").read_text())
    assert (tmp_path / "id").read_text() == metadata["containerimage.config.digest"]
    assert (tmp_path / "files" / "f").read_text() == "hi\n"
    assert os.readlink(tmp_path / "files" / "l") == "f"
    with tarfile.open(tmp_path / "files.tar") as tar:
        assert (tar.getmember("f").uid, tar.getmember("f").gid) == (7, 8)
    assert validate_layout(tmp_path / "layout") == []
    assert shared("run", "--rm", name, "x", check=False).returncode == 127, "there is no program in it, but an image"
    need("skopeo", "umoci")
    digests = {
        json.loads(sh("skopeo", "inspect", "--tls-verify=false", f"docker://{n}"))["Digest"] for n in (name, other)
    }
    assert len(digests) == 1
    for source in (
        f"oci-archive:{tmp_path}/oci.tar",
        f"oci:{tmp_path}/layout",
        f"docker-archive:{tmp_path}/docker.tar",
    ):
        assert json.loads(sh("skopeo", "inspect", "--config", source))["config"]["Env"][-1] == "A=1"
    sh("skopeo", "copy", f"oci:{tmp_path}/layout", f"oci:{tmp_path}/tagged:x")
    if os.geteuid() == 0:
        sh("umoci", "unpack", "--image", f"{tmp_path}/tagged:x", tmp_path / "bundle")
        assert (tmp_path / "bundle/rootfs/f").stat().st_uid == 7


@pytest.mark.parametrize(
    ("attributes", "kind", "first"),
    [
        ("compression=gzip", "tar+gzip", b"\x1f\x8b"),
        ("compression=gzip,compression-level=9", "tar+gzip", b"\x1f\x8b"),
        ("compression=zstd", "tar+zstd", b"\x28\xb5\x2f\xfd"),
        ("compression=zstd,compression-level=19", "tar+zstd", b"\x28\xb5\x2f\xfd"),
        ("compression=uncompressed", "tar", b""),
        ("compression=estargz", "tar+gzip", b"\x1f\x8b"),
        ("oci-mediatypes=false", "tar.gzip", b"\x1f\x8b"),
    ],
)
def test_compressions_are_read_by_others(
    shared: Kedge, context: Path, tmp_path: Path, attributes: str, kind: str, first: bytes
) -> None:
    archive = tmp_path / "x.tar"
    shared.build(context, "-o", f"type=oci,{attributes},dest={archive}")
    layers = layers_of(archive)
    assert all(layer["mediaType"].endswith(kind) for layer in layers)
    with tarfile.open(archive) as tar:
        blobs = [tar.extractfile(f"blobs/{layer['digest'].replace(':', '/')}") for layer in layers]
        assert all(blob is not None and blob.read(len(first)) == first for blob in blobs)
        tar.extractall(tmp_path / "layout")  # our own; `filter` is younger than Debian's Python 3.11.2
    assert validate_layout(tmp_path / "layout") == []
    need("skopeo")
    sh("skopeo", "copy", f"oci-archive:{archive}", f"dir:{tmp_path}/dir")  # hashes every layer
    if "estargz" in attributes:
        assert all("containerd.io/snapshot/stargz/toc.digest" in layer["annotations"] for layer in layers)


def test_an_estargz_image_is_pushed_pulled_and_run(kedge: Kedge, registry: str, tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "c", {"Dockerfile": "FROM busybox\nRUN echo made > /x\nCMD cat /x\n"})
    name = f"{registry}/out/lazy:1"
    kedge.build(folder, "-o", f"type=image,name={name},compression=estargz,force-compression=true,push=true")
    assert kedge("run", "--rm", name).stdout == "made\n"
    kedge("rmi", name)
    kedge("prune", "--all", "--force")
    kedge("pull", "-q", name)
    assert kedge("run", "--rm", name).stdout == "made\n"
    layers = json.loads(kedge("manifest", "inspect", name).stdout)["layers"]
    assert all("containerd.io/snapshot/stargz/toc.digest" in layer["annotations"] for layer in layers)


def test_base_layers_stay_as_they_came_unless_forced(shared: Kedge, tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "c", {"Dockerfile": "FROM busybox\nCOPY Dockerfile /d\n"})
    kinds = []
    for forced in ("false", "true"):
        archive = tmp_path / f"{forced}.tar"
        shared.build(folder, "-o", f"type=oci,compression=zstd,force-compression={forced},dest={archive}")
        kinds.append([layer["mediaType"].rpartition(".")[2] for layer in layers_of(archive)])
    assert kinds == [["tar+gzip", "tar+zstd"], ["tar+zstd", "tar+zstd"]]


def test_annotations_reach_every_document(shared: Kedge, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    folder = write_tree(tmp_path / "c", {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    notes = (
        "annotation.a=1,annotation-index.b=2,annotation-manifest-descriptor.c=3,annotation-manifest[linux/arm64].d=4"
    )
    shared.build(
        folder,
        *("--platform", "linux/amd64,linux/arm64", "--annotation", "e=5", "--annotation", "index:f=6"),
        *("-o", f"type=oci,tar=false,dest={layout},{notes}"),
    )
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]

    def read(digest: str) -> Any:
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())

    index = read(entry["digest"])
    assert index["annotations"] == {"b": "2", "f": "6"}
    assert all(one["annotations"] == {"c": "3"} for one in index["manifests"])
    amd, arm = (read(one["digest"])["annotations"] for one in index["manifests"])
    assert amd == {"a": "1", "e": "5"}
    assert arm == {"a": "1", "d": "4", "e": "5"}


def test_files_of_several_platforms(shared: Kedge, tmp_path: Path) -> None:
    text = "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /of-$TARGETARCH\n"
    folder = write_tree(tmp_path / "c", {"Dockerfile": text})
    words = ("--platform", "linux/amd64,linux/arm64")
    shared.build(folder, *words, "-o", f"type=local,dest={tmp_path}/split")
    assert sorted(p.name for p in (tmp_path / "split").iterdir()) == ["linux_amd64", "linux_arm64"]
    shared.build(folder, *words, "-o", f"type=local,platform-split=false,dest={tmp_path}/one")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["of-amd64", "of-arm64"]


@pytest.mark.parametrize("output", ["-", "type=oci,dest=-", "type=docker,dest=-", "type=tar,dest=-"])
def test_standard_output_takes_an_archive_and_nothing_else(shared: Kedge, context: Path, output: str) -> None:
    words = [*shared.command, "build", "--progress", "plain", "-o", output, str(context)]
    environment = os.environ | {"KEDGE_ROOT": str(shared.store), "KEDGE_CONFIG": str(shared.config)}
    done = subprocess.run(words, env=environment, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        names = archive.getnames()
    assert ("index.json" in names) != (output in ("-", "type=tar,dest=-"))


def test_a_failed_output_leaves_no_file(shared: Kedge, context: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("before")
    done = shared("build", "-o", f"type=oci,dest={tmp_path}/no/such/folder.tar", context, check=False)
    assert done.returncode != 0
    assert "No such file" in done.stderr or "no such file" in done.stderr
    broken = write_tree(tmp_path / "c", {"Dockerfile": "FROM busybox\nRUN false\n"})
    assert shared("build", "-o", f"type=oci,dest={tmp_path}/there", broken, check=False).returncode != 0
    assert (tmp_path / "there").read_text() == "before"


def test_a_push_by_digest_leaves_no_tag(shared: Kedge, context: Path, registry: str, tmp_path: Path) -> None:
    repository, meta = f"{registry}/out/by-digest", tmp_path / "meta.json"
    output = f"type=image,name={repository},push=true,push-by-digest=true,name-canonical=true"
    shared.build(context, "-o", output, "--metadata-file", meta)
    digest = json.loads(meta.read_text())["containerimage.digest"]
    need("skopeo")
    sh("skopeo", "copy", "--src-tls-verify=false", f"docker://{repository}@{digest}", f"dir:{tmp_path}/dir")
    done = subprocess.run(
        ["skopeo", "list-tags", "--tls-verify=false", f"docker://{repository}"], capture_output=True, check=False
    )
    assert done.returncode or not json.loads(done.stdout)["Tags"]


def test_a_push_may_leave_certificates_unchecked(shared: Kedge, context: Path, tmp_path: Path) -> None:
    need("openssl")
    with running_registry(tmp_path, tls=True) as secure:
        name = f"{secure.address}/out/x:1"
        assert shared("build", "-o", f"type=registry,name={name}", context, check=False).returncode != 0
        shared.build(context, "-o", f"type=registry,name={name},registry.insecure=true")


def test_an_attribute_that_means_nothing_is_named(shared: Kedge, context: Path) -> None:
    done = shared("build", "-o", "type=oci,compresion=zstd,dest=/dev/null", context, check=False)
    assert done.returncode != 0
    assert "unknown attribute 'compresion'" in done.stderr
    assert "Did you mean compression?" in done.stderr


# ---- engines ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Podman:
    """A Podman with a store of its own that serves a socket; `words` go before its subcommands."""

    words: tuple[str, ...]
    socket: str


@pytest.fixture
def podman() -> Iterator[Podman]:
    need("podman")
    if os.geteuid() != 0:
        pytest.skip("a Podman of the test's own is started as root")
    room = Path(tempfile.mkdtemp(prefix="kp-", dir="/tmp"))  # its paths may not be long
    words = ("podman", "--root", f"{room}/root", "--runroot", f"{room}/run", "--storage-driver", "vfs")
    socket = room / "socket"
    log = (room / "log").open("wb")
    service = subprocess.Popen([*words, "system", "service", "--time", "0", f"unix://{socket}"], stdout=log, stderr=log)
    try:
        for _ in range(200):
            if socket.exists() or service.poll() is not None:
                break
            time.sleep(0.05)
        if not socket.exists():
            pytest.skip(f"podman's service does not start here: {(room / 'log').read_text()[-300:]}")
        yield Podman(words, str(socket))
    finally:
        service.terminate()
        service.wait(60)
        log.close()
        shutil.rmtree(room, ignore_errors=True)


def test_load_gives_podman_the_image_and_then_only_what_it_lacks(kedge: Kedge, podman: Podman, tmp_path: Path) -> None:
    folder = write_tree(
        tmp_path / "c", {"Dockerfile": "FROM busybox\nCOPY large /large\nCOPY small /small\n", "small": "1"}
    )
    (folder / "large").write_bytes(os.urandom(2 << 20))
    socket = f"unix://{podman.socket}"
    kedge.build(folder, "--load", "-t", "loaded:1", "-t", "loaded:again", CONTAINER_HOST=socket)
    for tag in ("1", "again"):
        found = json.loads(sh(*podman.words, "image", "inspect", f"docker.io/library/loaded:{tag}"))
    assert len(found[0]["RootFS"]["Layers"]) == 3
    (folder / "small").write_text("2")
    counting = tmp_path / "counted"
    relay = subprocess.Popen([sys.executable, "-c", RELAY, str(counting), podman.socket])
    try:
        for _ in range(100):
            if counting.with_suffix(".socket").exists():
                break
            time.sleep(0.05)
        kedge.build(folder, "--load", "-t", "loaded:2", CONTAINER_HOST=f"unix://{counting.with_suffix('.socket')}")
    finally:
        relay.terminate()
        relay.wait(60)
    again = json.loads(sh(*podman.words, "image", "inspect", "docker.io/library/loaded:2"))
    assert again[0]["RootFS"]["Layers"][:2] == found[0]["RootFS"]["Layers"][:2]
    assert again[0]["RootFS"]["Layers"][2] != found[0]["RootFS"]["Layers"][2]
    sent = int(counting.read_text())
    assert sent < 1 << 20, f"{sent} bytes were sent: the large layer among them"


RELAY = """
import socket, sys, threading
from pathlib import Path
count, target = Path(sys.argv[1]), sys.argv[2]
total, lock = 0, threading.Lock()
def pump(one, other, counted):
    global total
    while data := one.recv(1 << 16):
        if counted:
            with lock:
                total += len(data)
                count.write_text(str(total))
        other.sendall(data)
    try:
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass
server = socket.socket(socket.AF_UNIX)
server.bind(str(count.with_suffix(".socket")))
server.listen()
while True:
    client = server.accept()[0]
    engine = socket.socket(socket.AF_UNIX)
    engine.connect(target)
    threading.Thread(target=pump, args=(client, engine, True), daemon=True).start()
    threading.Thread(target=pump, args=(engine, client, False), daemon=True).start()
"""


def test_an_engine_takes_one_platform(kedge: Kedge, podman: Podman, context: Path, tmp_path: Path) -> None:
    words = ("--platform", "linux/amd64,linux/arm64", "--load", "-t", "x")
    folder = write_tree(tmp_path / "c", {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    done = kedge("build", *words, folder, check=False, CONTAINER_HOST=f"unix://{podman.socket}")
    assert done.returncode != 0
    assert "one platform at a time" in done.stderr


def test_podman_loads_and_runs_what_was_archived(kedge: Kedge, podman: Podman, tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "c", {"Dockerfile": "FROM busybox\nRUN echo made > /x\n"})
    for kind in ("oci", "docker"):
        archive = tmp_path / f"{kind}.tar"
        kedge.build(folder, "-t", f"from-{kind}:1", "-o", f"type={kind},dest={archive}")
        sh(*podman.words, "load", "-q", "-i", archive)
        assert f"from-{kind}" in sh(*podman.words, "images")


def test_a_plain_layer_is_what_its_diff_id_says(shared: Kedge, context: Path, tmp_path: Path) -> None:
    shared.build(context, "-o", f"type=oci,tar=false,dest={tmp_path}/x")
    (entry,) = json.loads((tmp_path / "x/index.json").read_text())["manifests"]
    blobs = tmp_path / "x" / "blobs" / "sha256"
    manifest = json.loads((blobs / entry["digest"][7:]).read_text())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())
    plain = [gzip.decompress((blobs / layer["digest"][7:]).read_bytes()) for layer in manifest["layers"]]
    assert ["sha256:" + hashlib.sha256(data).hexdigest() for data in plain] == config["rootfs"]["diff_ids"]
