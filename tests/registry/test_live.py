"""The client against Debian's docker-registry: plain, TLS, basic and token authorisation, cut connections."""

import base64
import contextlib
import io
import json
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kedge.model.credential import Credential
from kedge.model.digest import sha256
from kedge.model.errors import RegistryError, Unauthorized
from kedge.model.image import OCI_CONFIG, Descriptor, Manifest
from kedge.model.reference import Reference, parse_reference
from kedge.model.settings import RegistryHost
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry, Reply, Seen
from tests.conftest import LiveRegistry, running_registry
from tests.registry.conftest import QUICK, Connect, Memory

DATA = random.Random(5).randbytes(8_000_000)
BLOB = Descriptor("application/octet-stream", sha256(DATA), len(DATA))


def opened(offset: int) -> io.BytesIO:
    return io.BytesIO(DATA[offset:])


def walk(client: Registry, reference: Reference) -> None:
    """Push and pull again: everything the client can do with a repository."""
    config = Descriptor(OCI_CONFIG, sha256(b"{}"), 2)
    assert client.upload(reference, BLOB, opened)
    assert not client.upload(reference, BLOB, opened)
    client.upload(reference, config, lambda offset: io.BytesIO(b"{}"[offset:]))
    sibling = parse_reference(f"{reference.name}-sibling:v1")
    assert not client.upload(sibling, BLOB, opened, mount_from=[reference])
    manifest = Manifest(config, (BLOB,))
    digest = client.put_manifest(reference, manifest.to_bytes(), manifest.media_type)
    assert client.resolve(reference).digest == digest
    assert client.manifest(reference.with_digest(digest), client.resolve(reference)).data == manifest.to_bytes()
    assert client.has_manifest(reference, client.resolve(reference))
    assert list(client.tags(reference)) == [reference.tag]
    assert client.read_blob(reference, config) == b"{}"
    sink = Memory(BLOB, bytearray(DATA[:3_000_000]))
    client.download(reference, BLOB, sink)
    assert bytes(sink.data) == DATA
    signature = Manifest(config, (), subject=client.resolve(reference), artifact_type="application/signature")
    client.put_manifest(reference.repository_only, signature.to_bytes(), signature.media_type)
    (found,) = client.referrers(reference, digest).manifests
    assert found.artifact_type == "application/signature"


def test_plain_http_on_loopback(registry: str, connect: Connect) -> None:
    walk(connect(), parse_reference(f"{registry}/live/plain:v1"))


def test_localhost_by_name(registry: str, connect: Connect) -> None:
    walk(connect(), parse_reference(f"localhost:{registry.rpartition(':')[2]}/live/named:v1"))


def test_tls_with_a_private_authority(tmp_path: Path, connect: Connect) -> None:
    with running_registry(tmp_path, tls=True) as live:
        reference = parse_reference(f"{live.address}/live/tls:v1")
        with pytest.raises(RegistryError, match="cannot be trusted"):
            connect().resolve(reference)
        walk(connect(hosts={live.address: RegistryHost(ca=(live.ca,))}), reference)


def test_basic_authorisation(tmp_path: Path, connect: Connect) -> None:
    with running_registry(tmp_path, users={"me": "hunter2"}) as live:
        reference = parse_reference(f"{live.address}/live/basic:v1")
        for wrong in ({}, {live.address: Credential("me", "wrong")}):
            with pytest.raises(Unauthorized):
                connect(wrong).resolve(reference)
        walk(connect({live.address: Credential(live.username, live.password)}), reference)
        assert connect().login(live.address, Credential("me", "hunter2"))
        with pytest.raises(Unauthorized):
            connect().login(live.address, Credential("me", "wrong"))


# ---- tokens ----------------------------------------------------------------------------------------------------------


class TokenServer:
    """Signs the tokens that docker-registry checks (distribution's token specification, JWT with x5c)."""

    def __init__(self, directory: Path) -> None:
        self.key, self.certificate = directory / "token.key", directory / "token.pem"
        made = ["-keyout", str(self.key), "-out", str(self.certificate), "-days", "2", "-subj", "/CN=tokens"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *made], check=True, capture_output=True
        )

    def sign(self, seen: Seen, reply: Reply) -> Reply:
        if reply.status != 200:
            return reply
        from urllib.parse import parse_qs

        scopes = [s for text in parse_qs(seen.query).get("scope", []) for s in text.split()]
        access = [{"type": k, "name": n, "actions": a.split(",")} for k, n, a in (s.split(":") for s in scopes)]
        now = int(time.time())
        claims = {"iss": "kedge-tests", "sub": "me", "aud": "live", "iat": now, "nbf": now - 5, "exp": now + 300,
                  "jti": str(random.random()), "access": access}  # fmt: skip
        pem = self.certificate.read_text()
        der = "".join(pem.split("-----")[2].split())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        text = ".".join(_b64(json.dumps(part).encode()) for part in (head, claims))
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key], input=text.encode(), check=True, capture_output=True
        )
        return replace(reply, body=json.dumps({"token": f"{text}.{_b64(done.stdout)}", "expires_in": 300}).encode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def token_registry(tmp_path: Path) -> Iterator[LiveRegistry]:
    tokens = TokenServer(tmp_path)
    with FakeRegistry(users={"me": "hunter2"}) as server:
        server.on("GET", "/token", tokens.sign, -1)
        with running_registry(tmp_path, token=(server.token_url, tokens.certificate)) as live:
            yield live


def test_token_authorisation(token_registry: LiveRegistry, connect: Connect) -> None:
    address = token_registry.address
    reference = parse_reference(f"{address}/live/token:v1")
    with pytest.raises(Unauthorized):
        connect().resolve(reference)
    with pytest.raises(Unauthorized, match="incorrect username"):
        connect({address: Credential("me", "wrong")}).resolve(reference)
    walk(connect({address: Credential("me", "hunter2")}), reference)
    assert connect().login(address, Credential("me", "hunter2")).username == "me"


# ---- broken connections ----------------------------------------------------------------------------------------------


class Cutter:
    """A TCP proxy before a registry that cuts connections after a random number of bytes, a few times."""

    def __init__(self, target: str, seed: int, cuts: int, least: int = 100, most: int = 6_000_000) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._dice = random.Random(seed)
        self._range, self._left = (least, most), cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            budget = [1 << 60]
            if self._left:
                self._left -= 1
                budget = [self._dice.randint(*self._range)]
            threading.Thread(target=self._serve, args=(client, budget), daemon=True).start()

    def _serve(self, client: socket.socket, budget: list[int]) -> None:
        with client, socket.create_connection(self._target) as server:
            back = threading.Thread(target=self._pump, args=(server, client, budget), daemon=True)
            back.start()
            self._pump(client, server, budget)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket, budget: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data[: budget[0]])
                budget[0] -= len(data)
                if budget[0] <= 0:
                    break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("seed", range(4))
def test_everything_works_over_connections_that_break(registry: str, connect: Connect, seed: int) -> None:
    cutter = Cutter(registry, seed, cuts=8)
    try:
        walk(connect(network=replace(QUICK, attempts=12)), parse_reference(f"{cutter.address}/live/cut{seed}:v1"))
    finally:
        cutter.close()


def test_an_upload_of_a_real_registry_is_resumed(registry: str, connect: Connect) -> None:
    cutter = Cutter(registry, 0, cuts=1, least=5_000_000, most=5_000_001)
    try:
        reference = parse_reference(f"{cutter.address}/live/resumed")
        told: list[int] = []
        client = connect()
        client._own(reference).authorizer()  # the probe for https takes the first connection otherwise
        assert client.upload(reference, BLOB, opened, lambda current, total: told.append(current))
        sink = Memory(BLOB)
        client.download(reference, BLOB, sink)
        assert bytes(sink.data) == DATA
    finally:
        cutter.close()
