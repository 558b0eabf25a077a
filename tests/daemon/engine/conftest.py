"""A running service with Docker's API, and Docker's own client on it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import bases, mirror  # noqa: F401 - fixtures

pytest.importorskip("h11", reason="the extra `serve` is not installed")
pytest.importorskip("grpc", reason="the extra `serve` is not installed")
BUILDX = next(
    (p for p in ("/tmp/peers/bin/docker-buildx", shutil.which("docker-buildx") or "") if os.path.exists(p)), ""
)


@dataclass
class Service:
    """A `kedge serve` of our own. `log` is its standard error."""

    store: Path
    socket: Path
    environment: Mapping[str, str]
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(30)
        connection.connect(str(self.socket))
        return connection

    def kedge(self, *words: str) -> str:
        """The command line on the service's store."""
        done = subprocess.run([sys.executable, "-m", "kedge", *words], env=self.environment, capture_output=True,
                              text=True, timeout=120, check=True)  # fmt: skip
        return done.stdout


@contextmanager
def running(folder: Path, config: Path, *words: str) -> Iterator[Service]:
    """A service over `folder`, until the context ends."""
    path = folder / "kedge.sock"
    environment = os.environ | {"KEDGE_ROOT": str(folder / "store"), "KEDGE_CONFIG": str(config)}
    log = folder / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "kedge", "serve", "--listen", f"unix://{path}", *words],
            env=environment,
            stderr=errors,
        )
    service = Service(folder / "store", path, environment, process, log)
    try:
        for _ in range(1200):
            if b"serving" in log.read_bytes() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert "serving" in log.read_text(), log.read_text()
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, log.read_text()[-3000:]
    assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


@pytest.fixture(scope="session")
def service(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:  # noqa: F811
    """The service that the tests of one worker share; busybox is in its store."""
    with running(tmp_path_factory.mktemp("service"), mirror) as started:
        started.kedge("pull", "-q", "busybox")
        yield started


@dataclass
class Docker:
    """Docker's command on a service."""

    service: Service
    config: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.config),
            "DOCKER_HOST": self.service.url,
            "DOCKER_CONFIG": str(self.config),
        }

    def run(self, *words: str | Path, stdin: bytes = b"", cwd: Path | None = None, **environment: str) -> (
        "subprocess.CompletedProcess[str]"
    ):  # fmt: skip
        """`docker WORDS`, whatever comes of it."""
        done = subprocess.run(
            ["docker", *map(str, words)],
            input=stdin,
            capture_output=True,
            env=self.environment | environment,
            cwd=cwd,
            timeout=120,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def __call__(self, *words: str | Path, stdin: bytes = b"", cwd: Path | None = None, **environment: str) -> str:
        """`docker WORDS`, which must succeed; what it printed."""
        done = self.run(*words, stdin=stdin, cwd=cwd, **environment)
        assert done.returncode == 0, f"docker {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def docker(service: Service, tmp_path: Path) -> Docker:
    """Docker's client without any plugin; skipped where it is not installed."""
    if not shutil.which("docker"):
        pytest.skip("Docker's client is not installed (apt-get install docker-cli)")
    config = tmp_path / "docker"
    config.mkdir()
    return Docker(service, config)


@pytest.fixture
def buildx(docker: Docker) -> Docker:
    """Docker's client with the buildx plugin; skipped where there is none."""
    if not BUILDX:
        pytest.skip("docker-buildx is not here")
    (docker.config / "cli-plugins").mkdir()
    os.symlink(BUILDX, docker.config / "cli-plugins" / "docker-buildx")
    return docker
