"""Fixtures that any test may use: real registries on loopback (Debian's docker-registry), one per test run."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import namespace


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "namespace: must be uid 0, to mount or so: run in a user namespace for an ordinary user"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    namespace.relay(config, items)


@pytest.fixture(scope="session", autouse=True)
def _files_are_ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave no files of subordinate ids: the run after next could not remove them."""
    yield
    namespace.take_over(tmp_path_factory.getbasetemp())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class LiveRegistry:
    """A running docker-registry. `ca` is the file of its private authority, "" for plain http."""

    address: str
    directory: Path
    ca: str = ""
    username: str = ""
    password: str = ""


@contextmanager
def running_registry(directory: Path, *, tls: bool = False, users: dict[str, str] | None = None,
                     token: tuple[str, Path] | None = None) -> Iterator[LiveRegistry]:  # fmt: skip
    """A docker-registry on a free port of 127.0.0.1. `token`: a realm, and the certificate that signs its tokens."""
    program = shutil.which("docker-registry")
    if not program:
        pytest.skip("docker-registry is not installed (apt-get install docker-registry)")
    for _ in range(5):
        port = free_port()
        environment = {
            "PATH": os.environ["PATH"],
            "REGISTRY_HTTP_ADDR": f"127.0.0.1:{port}",
            "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(directory / "data"),
            "REGISTRY_STORAGE_DELETE_ENABLED": "true",
            "REGISTRY_LOG_LEVEL": "warn",
            "OTEL_TRACES_EXPORTER": "none",
        }
        if tls:
            make_certificates(directory)
            environment["REGISTRY_HTTP_TLS_CERTIFICATE"] = str(directory / "server.pem")
            environment["REGISTRY_HTTP_TLS_KEY"] = str(directory / "server.key")
        if users:
            if not shutil.which("htpasswd"):
                pytest.skip("htpasswd is not installed (apt-get install apache2-utils)")
            lines = [
                subprocess.run(
                    ["htpasswd", "-nbB", name, word], check=True, capture_output=True, text=True
                ).stdout.strip()
                for name, word in users.items()
            ]
            (directory / "htpasswd").write_text("\n".join(lines) + "\n")
            environment |= {
                "REGISTRY_AUTH_HTPASSWD_REALM": "test",
                "REGISTRY_AUTH_HTPASSWD_PATH": str(directory / "htpasswd"),
            }
        if token:
            environment |= {
                "REGISTRY_AUTH_TOKEN_REALM": token[0],
                "REGISTRY_AUTH_TOKEN_SERVICE": "live",
                "REGISTRY_AUTH_TOKEN_ISSUER": "kedge-tests",
                "REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE": str(token[1]),
            }
        (directory / "config.yml").write_text(
            "version: 0.1\nlog: {level: warn}\nhttp: {addr: 127.0.0.1:1}\n"
            "storage: {filesystem: {rootdirectory: /nonexistent}}\n"
        )
        log = (directory / "log").open("ab")
        process = subprocess.Popen(
            [program, "serve", str(directory / "config.yml")], env=environment, stdout=log, stderr=log
        )
        try:
            if _answers(port, process):
                name, word = next(iter((users or {"": ""}).items()))
                yield LiveRegistry(f"127.0.0.1:{port}", directory, str(directory / "ca.pem") if tls else "", name, word)
                return
        finally:
            process.terminate()
            process.wait(60)
            log.close()
    pytest.fail(f"docker-registry does not start: {(directory / 'log').read_text()[-2000:]}")


def _answers(port: int, process: "subprocess.Popen[bytes]") -> bool:
    for _ in range(3000):
        if process.poll() is not None:
            return False  # somebody else took the port
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(0.02)
    return False


def make_certificates(directory: Path) -> None:
    """A private authority (ca.pem) and a certificate for 127.0.0.1 and localhost (server.pem, server.key)."""
    if (directory / "server.pem").exists():
        return

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=directory)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Kedge tests",
            "-addext", "keyUsage=critical,keyCertSign", "-addext", "basicConstraints=critical,CA:TRUE")  # fmt: skip
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nauthorityKeyIdentifier=keyid\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "san", "-out", "server.pem")  # fmt: skip


@pytest.fixture(scope="session")
def live_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """A plain-http registry for the whole run of this worker. Use repository names of your own."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def registry(live_registry: LiveRegistry) -> str:
    """The address, `127.0.0.1:PORT`, of a real registry that wants no credentials."""
    return live_registry.address


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, server.pem and server.key for 127.0.0.1."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory)
    return directory
