"""Servers that speak no proper HTTP, proxies, and how much memory a transfer takes."""

import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kedge.model.digest import Digest
from kedge.model.errors import KedgeError, RegistryError
from kedge.model.image import Descriptor
from kedge.model.reference import parse_reference
from kedge.model.settings import NetworkSettings, RegistryHost
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry
from kedge.registry.transport import is_loopback, origin_of, proxy_for, shown_url
from tests.registry.conftest import Connect, Memory

HASTY = NetworkSettings(attempts=2, connect_timeout=2, timeout=0.6, backoff=0.001, longest_pause=0.01)
BLOB = Descriptor("x", Digest("sha256:" + "a" * 64), 100)

Talk = Callable[[socket.socket], None]


@pytest.fixture
def talking() -> Iterator[Callable[[Talk], str]]:
    """Start servers that say what they are told; gives their addresses."""
    listeners: list[socket.socket] = []

    def start(talk: Talk) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, contextlib.suppress(OSError):
                    client.settimeout(5)
                    client.recv(65536)
                    talk(client)

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def ask(connect: Connect, address: str) -> None:
    client = connect(hosts={address: RegistryHost(http=True)}, network=HASTY)
    reference = parse_reference(f"{address}/some/image:v1")
    for question in (
        lambda: client.resolve(reference),
        lambda: client.manifest(reference),
        lambda: client.download(reference, BLOB, Memory(BLOB)),
    ):
        with pytest.raises(KedgeError):
            question()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 999999 what\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\xff\xfe: \x00\r\n\r\n",
        b"HTTP/1.1 307 Go\r\nLocation: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 307 Go\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"\xff\"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-99/100\r\nContent-Length: 1\r\n\r\nx",
    ],
)  # fmt: skip
def test_what_is_no_answer_is_an_error(connect: Connect, talking: Callable[[Talk], str], said: bytes) -> None:
    ask(connect, talking(lambda client: client.sendall(said)))


@pytest.mark.parametrize("seed", range(12))
def test_damaged_answers_are_an_error(connect: Connect, talking: Callable[[Talk], str], seed: int) -> None:
    dice = random.Random(seed)
    proper = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\nDocker-Content-Digest: x\r\n\r\n"
    )

    def talk(client: socket.socket) -> None:
        data = bytearray(proper + bytes(20))
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        client.sendall(bytes(data[: dice.randrange(len(data) + 1)]))

    ask(connect, talking(talk))


def test_headers_that_drip_meet_a_deadline(connect: Connect, talking: Callable[[Talk], str]) -> None:
    def talk(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in range(600):
            client.sendall(b"X: y\r\n")
            time.sleep(0.1)

    address = talking(talk)
    client = connect(hosts={address: RegistryHost(http=True)}, network=NetworkSettings(attempts=1, timeout=0.5))
    started = time.monotonic()
    with pytest.raises(RegistryError, match="stopped answering"):
        client.resolve(parse_reference(f"{address}/a/b"))
    assert time.monotonic() - started < 30


def test_link_local_addresses_are_refused_wherever_they_come_from(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may resolve to the cloud's metadata service: the connection itself is looked at."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    monkeypatch.setattr(socket.socket, "getpeername", lambda self: ("169.254.169.254", port))
    client = connect(hosts={f"127.0.0.1:{port}": RegistryHost(http=True)}, network=HASTY)
    with pytest.raises(RegistryError, match="link-local"):
        client.resolve(parse_reference(f"127.0.0.1:{port}/a/b"))
    listener.close()


# ---- proxies ---------------------------------------------------------------------------------------------------------


def test_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for(origin_of("https://a.test")) == ""
    monkeypatch.setenv("HTTPS_PROXY", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "inside.test,10.0.0.1")
    assert proxy_for(origin_of("https://a.test")) == "http://proxy.test:3128"
    assert proxy_for(origin_of("http://a.test")) == ""
    assert proxy_for(origin_of("https://x.inside.test:5000")) == ""
    assert proxy_for(origin_of("https://10.0.0.1")) == ""
    assert proxy_for(origin_of("https://127.0.0.1:5000")) == ""
    assert proxy_for(origin_of("https://localhost")) == ""
    monkeypatch.setenv("ALL_PROXY", "http://all.test")
    assert proxy_for(origin_of("http://a.test")) == "http://all.test"


def test_a_proxy_is_used_with_its_password(
    connect: Connect, talking: Callable[[Talk], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def talk(client: socket.socket) -> None:
        asked.append(b"")
        client.sendall(b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n")

    proxy = talking(talk)
    monkeypatch.setenv("http_proxy", f"http://me:hunter2@{proxy}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    client = connect(hosts={"registry.test": RegistryHost(http=True)}, network=HASTY)
    with pytest.raises(RegistryError) as caught:
        client.resolve(parse_reference("registry.test/a/b"))
    assert asked
    assert "hunter2" not in str(caught.value)


# ---- small parts -----------------------------------------------------------------------------------------------------


def test_urls_are_shown_without_what_is_secret() -> None:
    assert shown_url("https://me:pw@host/path?X-Signature=1#f") == "https://host/path"
    assert len(shown_url("https://host/" + "a" * 1000)) <= 200


def test_loopback_is_known_by_its_spellings() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.9.1", "::1")))
    assert not any(map(is_loopback, ("localhost.evil.test", "128.0.0.1", "registry", "0.0.0.0", "")))


def test_a_transfer_takes_no_more_memory_than_its_buffers(tmp_path: Path) -> None:
    """Push and pull 300 MB in a process of their own, and look at its peak."""
    script = tmp_path / "walk.py"
    script.write_text("""
import hashlib, io, resource, sys
from kedge.model.image import Descriptor
from kedge.model.reference import parse_reference
from kedge.registry.client import Registry

size = 300 << 20
piece = bytes(1 << 20)
whole = hashlib.sha256()
for _ in range(size // len(piece)):
    whole.update(piece)
blob = Descriptor("x", "sha256:" + whole.hexdigest(), size)

class Zeros(io.RawIOBase):
    def __init__(self, at): self.at = at
    def readable(self): return True
    def readinto(self, buffer):
        count = min(len(buffer), size - self.at)
        buffer[:count] = bytes(count)
        self.at += count
        return count

class Sink:
    offset = 0
    def __init__(self): self.hash = hashlib.sha256()
    def write(self, data):
        self.hash.update(data)
        self.offset += len(data)
    def restart(self): raise AssertionError
    def commit(self): assert "sha256:" + self.hash.hexdigest() == blob.digest

with Registry() as client:
    repository = parse_reference(sys.argv[1])
    client.has_blob(repository, blob)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    client.upload(repository, blob, lambda offset: io.BufferedReader(Zeros(offset)))
    client.download(repository, blob, Sink())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
""")
    from tests.conftest import running_registry

    (tmp_path / "registry").mkdir()
    with running_registry(tmp_path / "registry") as live:
        command = [sys.executable, str(script), f"{live.address}/big/blob"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 20_000  # KiB


def test_the_fake_can_be_closed_twice() -> None:
    fake = FakeRegistry()
    fake.close()
    fake.close()


def test_the_fake_answers_nobody_once_it_is_closed(client: Registry, fake: FakeRegistry) -> None:
    repository = parse_reference(f"{fake.address}/some/image:v1")
    fake.add_manifest("some/image", "v1", b"{}")
    assert list(client.tags(repository)) == ["v1"]  # the connection is kept
    fake.close()
    with pytest.raises(RegistryError):
        list(client.tags(repository))
