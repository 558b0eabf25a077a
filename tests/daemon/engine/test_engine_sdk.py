"""Docker's Python SDK on the service."""

import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.engine.conftest import Service

# The SDK leaves hijacked sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
docker = pytest.importorskip("docker", reason="Docker's Python SDK is not installed (pip install docker)")


@pytest.fixture
def client(service: Service) -> Iterator[Any]:
    client = docker.DockerClient(base_url=service.url, version="auto", timeout=120)
    yield client
    client.close()


def test_build_run_images_history_tag_push_and_pull(client: Any, registry: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nARG A\nRUN echo $A > /a\nCMD cat /a\n")
    image, lines = client.images.build(path=str(tmp_path), tag="sdk:1", buildargs={"A": "told"}, rm=True)
    assert any("Step 1/4" in line.get("stream", "") for line in lines)
    assert image.tags == ["sdk:1"]
    assert client.containers.run("sdk:1", remove=True) == b"told\n"
    assert client.containers.run(image.id, "echo other", remove=True) == b"other\n"
    assert "sdk:1" in [tag for each in client.images.list() for tag in each.tags]
    assert any("RUN" in row["CreatedBy"] for row in image.history())
    name = f"{registry}/sdk/app"
    assert image.tag(name, "2")
    answers = list(client.images.push(name, tag="2", stream=True, decode=True))
    assert not [answer for answer in answers if "error" in answer]
    assert [answer["aux"]["Tag"] for answer in answers if "aux" in answer] == ["2"]
    client.images.remove(f"{name}:2")
    pulled = client.images.pull(name, tag="2")
    assert client.containers.run(pulled, remove=True) == b"told\n"
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("nosuch")
    assert client.images.get_registry_data(f"{name}:2").id.startswith("sha256:")


def test_a_failed_build_raises_with_its_lines(client: Any) -> None:
    with pytest.raises(docker.errors.BuildError) as failed:
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN echo said; exit 4\n"))
    assert "non-zero code: 4" in str(failed.value)
    assert "said\n" in [line.get("stream") for line in failed.value.build_log]


def test_a_failed_container_raises(client: Any, registry: str) -> None:
    with pytest.raises(docker.errors.ContainerError) as failed:
        client.containers.run("busybox", "sh -c 'echo bad >&2; exit 9'")
    assert failed.value.exit_status == 9
    assert failed.value.stderr == b"bad\n"
    with pytest.raises(docker.errors.ImageNotFound):
        client.containers.run(f"{registry}/nosuch/image:1")


def test_a_container_from_start_to_end(client: Any, tmp_path: Path) -> None:
    script = "echo up; trap 'exit 3' TERM; while :; do sleep 0.05; done"
    volumes = {str(tmp_path): {"bind": "/m", "mode": "rw"}}
    more = {"detach": True, "name": "sdk-one", "labels": {"a": "b"}, "volumes": volumes}
    container = client.containers.run("busybox", ["sh", "-c", script], **more)
    assert next(iter(container.logs(stream=True))) == b"up\n"
    assert client.containers.list(filters={"label": "a=b"})[0].name == "sdk-one"
    assert container.exec_run("echo inside").output == b"inside\n"
    assert container.exec_run("sh -c 'exit 6'").exit_code == 6
    demuxed = container.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True).output
    assert demuxed == (b"o\n", b"e\n")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("given")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
    assert container.put_archive("/tmp", archive.getvalue())
    stream, status = container.get_archive("/tmp/given")
    assert status["size"] == 3
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        member = tar.extractfile("given")
        assert member is not None
        assert member.read() == b"abc"
    container.stop(timeout=5)
    assert container.wait()["StatusCode"] == 3
    container.remove()
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("sdk-one")


def test_a_command_that_cannot_start_is_refused_though_nobody_waits_for_it(client: Any) -> None:
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    try:
        first, second = (client.api.exec_create(container.id, ["true"])["Id"] for _ in range(2))
        client.api.exec_start(first, detach=True)
        with pytest.raises(docker.errors.APIError, match="has run already"):
            client.api.exec_start(first, detach=True)
        container.kill()
        container.wait()
        with pytest.raises(docker.errors.APIError, match="is not running"):
            client.api.exec_start(second, detach=True)
    finally:
        container.remove(force=True)


def test_volumes_health_policies_pauses_and_commits(client: Any) -> None:
    volume = client.volumes.create("sdk-volume", labels={"of": "sdk"})
    assert [each.name for each in client.volumes.list(filters={"label": "of=sdk"})] == ["sdk-volume"]
    container = client.containers.run(
        "busybox",
        ["sh", "-c", "echo x > /d/f; exec sleep 1000"],
        detach=True,
        volumes={"sdk-volume": {"bind": "/d", "mode": "rw"}},
        ports={"80/tcp": ("127.0.0.1", None)},
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
        healthcheck={"test": ["CMD", "true"], "interval": 50_000_000},
        init=True,
        cap_drop=["ALL"],
        mem_limit="64m",
    )
    deadline = time.monotonic() + 60
    while container.health != "healthy":
        assert time.monotonic() < deadline
        time.sleep(0.1)
        container.reload()
    assert container.ports["80/tcp"][0]["HostIp"] == "127.0.0.1"
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.update(restart_policy={"Name": "no"})
    made = container.commit("sdk-committed", "1", changes='CMD ["echo", "committed"]')
    assert client.containers.run(made.id, remove=True) == b"committed\n"
    assert container.stats(stream=False)["pids_stats"]["current"] >= 1
    assert "sleep" in str(container.top())
    container.remove(force=True, v=True)
    client.images.remove("sdk-committed:1")
    volume.remove()
    with pytest.raises(docker.errors.NotFound):
        client.volumes.get("sdk-volume")


def test_attaching_to_a_socket(client: Any) -> None:
    container = client.containers.create("busybox", "cat", stdin_open=True, tty=False)
    line = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    line._sock.sendall(b"over the wire\n")
    head = line.read(8)
    assert head[0] == 1
    assert line.read(int.from_bytes(head[4:], "big")) == b"over the wire\n"
    line._sock.close()
    line.close()
    container.remove(force=True)


def test_save_load_ping_info_and_usage(client: Any) -> None:
    data = b"".join(client.images.get("busybox").save(named=True))
    assert "busybox:latest" in client.images.load(data)[0].tags
    assert client.ping()
    assert client.info()["OSType"] == "linux"
    assert "Images" in client.df()
    assert client.version()["MinAPIVersion"] == "1.24"
    assert {network.name for network in client.networks.list()} == {"bridge", "host", "none"}
