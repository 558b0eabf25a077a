"""What clients of one service have of each other: results of their steps, and nothing that was only one's own."""

import base64
import functools
import gzip
import io
import os
import subprocess
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

from kedge.daemon.wire import control, policy
from kedge.model.digest import sha256
from kedge.model.image import OCI_CONFIG, OCI_LAYER_GZIP, Manifest, canonical_json
from kedge.registry.fake import FakeRegistry


def add_image(fake):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("private")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"mine"))
    plain = out.getvalue()
    layer = fake.add_blob("some/image", gzip.compress(plain), OCI_LAYER_GZIP)
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [sha256(plain)]}}
    manifest = Manifest(fake.add_blob("some/image", canonical_json(config), OCI_CONFIG), (layer,))
    return fake.add_manifest("some/image", "v1", manifest.to_bytes())


@pytest.mark.parametrize("by", ["name", "digest"])
@pytest.mark.parametrize("way", ["FROM", "COPY"])
def test_a_private_image_is_not_for_a_client_without_a_credential(connect, tmp_path, way, by):
    tar = control.Exporter(Type="tar")
    with FakeRegistry(users={"me": "secret"}) as fake:
        target = add_image(fake)
        name = f"{fake.address}/some/image" + (":v1" if by == "name" else f"@{target.digest}")
        text = f"FROM {name}\n" if way == "FROM" else f"FROM scratch\nCOPY --from={name} /private /\n"
        (tmp_path / "Dockerfile").write_text(text)
        lent = {"context": tmp_path, "dockerfile": tmp_path}
        mine, nobodys = connect(directories=lent, credential=("me", "secret")), connect(directories=lent)
        for client, may in (mine, True), (nobodys, False), (mine, True):
            if may:
                client.solve(Frontend="dockerfile.v0", FrontendAttrs={"platform": "linux/amd64"}, Exporters=[tar])
                with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
                    assert archive.extractfile("private").read() == b"mine"
                continue
            with pytest.raises(grpc.RpcError):
                client.solve(Frontend="dockerfile.v0", FrontendAttrs={"platform": "linux/amd64"}, Exporters=[tar])
            assert "0" not in client.received


class _Private(SimpleHTTPRequestHandler):
    """Files for who has the token."""

    def do_GET(self):
        wanted = base64.b64encode(b"x-access-token:secret").decode()
        if self.headers.get("Authorization", "").partition(" ")[2] == wanted:
            super().do_GET()
        else:
            self.send_error(401)

    def translate_path(self, path):
        return super().translate_path(path.removeprefix("/repo.git"))

    def log_message(self, *_):
        pass


@pytest.fixture
def private_repository(tmp_path):
    """The URL of a repository that is served by HTTP to who has the token, at its commit."""
    folder = tmp_path / "served" / "repo.git"
    folder.mkdir(parents=True)
    who = {f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*words):
        environ = os.environ | who | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        return subprocess.run(
            ["git", *words], cwd=folder, env=environ, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q", "-b", "main")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY private /\n")
    (folder / "private").write_text("mine")
    git("add", "-A")
    git("commit", "-q", "-m", "m")
    git("update-server-info")
    commit = git("rev-parse", "HEAD").strip()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Private, directory=str(folder / ".git")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/repo.git#{commit}", server
    server.shutdown()
    server.server_close()


def test_a_private_repository_is_no_context_for_a_client_without_a_token(connect, private_repository):
    """Also where its commit is in the store."""
    url, _ = private_repository
    tar = control.Exporter(Type="tar")
    mine, nobodys = connect(lent={"GIT_AUTH_TOKEN": b"secret"}), connect()
    mine.solve(Frontend="dockerfile.v0", FrontendAttrs={"context": url}, Exporters=[tar])
    with tarfile.open(fileobj=io.BytesIO(mine.received["0"])) as archive:
        assert archive.extractfile("private").read() == b"mine"
    with pytest.raises(grpc.RpcError):
        nobodys.solve(Frontend="dockerfile.v0", FrontendAttrs={"context": url}, Exporters=[tar])
    assert "0" not in nobodys.received


def test_a_policy_holds_for_a_context_too(connect, private_repository):
    url, server = private_repository
    deny = policy.Policy(
        version=1, rules=[policy.Rule(action=policy.DENY, selector=policy.Selector(identifier="*127.0.0.1*"))]
    )
    client = connect(lent={"GIT_AUTH_TOKEN": b"secret"})
    for context in url, f"http://127.0.0.1:{server.server_port}/context.tar":
        with pytest.raises(grpc.RpcError, match="not allowed by policy"):
            client.solve(Frontend="dockerfile.v0", FrontendAttrs={"context": context}, SourcePolicy=deny)
