"""The real service in a process of its own, as it is installed."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if importlib.util.find_spec("grpc") is None:
    print("tests/daemon: grpcio is not installed (pip install '.[serve]'): left out")
    collect_ignore = ["test_control.py", "test_sessions.py", "test_definition.py", "test_buildkitd.py"]
else:
    from tests.daemon.client import Client


class RunningService:
    """A service that listens at `address`."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder, self.address = folder, f"unix://{folder}/b.sock"
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kedge.cli.buildkitd", "--root", str(folder / "root"), "--addr", self.address,
                 "--config", str(self._config()), "--debug", *flags],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(folder)},
            )  # fmt: skip
        for _ in range(1200):
            if (folder / "b.sock").is_socket():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"the service does not start: {self.log.read_text()}")

    def _config(self) -> Path:
        path = self.folder / "buildkitd.toml"
        path.write_text('[worker.oci.labels]\n"of.a" = "test"\n')
        return path

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for the tests of a module. A short path: sockets allow 107 bytes."""
    folder = Path(
        subprocess.run(["mktemp", "-d", "/tmp/kedge-test-XXXXXX"], capture_output=True, text=True).stdout.strip()
    )
    running = RunningService(folder)
    yield running
    running.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def connect(service: RunningService) -> "Iterator[Callable[..., Client]]":
    """Clients of the service, closed at the end of the test."""
    clients: list[Client] = []

    def make(**lent: object) -> "Client":
        number = len(list(service.folder.glob("client-*")))
        clients.append(Client(service.address, service.folder / f"client-{number}" / "s", **lent))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A directory with a Dockerfile that runs nothing."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY a.txt /b.txt\n")
    (tmp_path / "a.txt").write_text("hello\n")
    (tmp_path / "unused.bin").write_bytes(b"x" * 100_000)
    return tmp_path
