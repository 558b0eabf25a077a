"""What clients of one service have of each other: results of their steps, and nothing that was only one's own."""

import gzip
import io
import tarfile

import grpc
import pytest

from kedge.daemon.wire import control
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
