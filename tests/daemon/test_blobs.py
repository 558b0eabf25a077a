"""Single blobs of registries and of lent layouts, as a graph names them."""

import io
import json
import tarfile

import grpc
import pytest

from kedge.daemon.buildkit.definition import encode
from kedge.daemon.wire import content
from kedge.model.digest import sha256
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import Source
from kedge.registry.fake import FakeRegistry
from tests.daemon.test_exports import exporter

ATTRS = (("http.filename", "model"), ("http.perm", "0644"))
DATA = b"weights" * 100


class Content:
    """A content store of the client's."""

    def Info(self, request, context):
        if request.digest != sha256(DATA):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such blob")
        return content.InfoResponse(info=content.Info(digest=request.digest, size=len(DATA)))

    def Read(self, request, context):
        yield content.ReadContentResponse(data=DATA[request.offset :])


def build(client, identifier, *attrs):
    """What a graph of that source comes to, and the things that its provenance says it used."""
    client.solve(
        Definition=encode(Edge(Vertex(Source(identifier, tuple(sorted((*ATTRS, *attrs))))))),
        FrontendAttrs={"attest:provenance": ""},
        Exporters=[exporter("tar")],
    )
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        file = archive.getmember("model")
        used = json.load(archive.extractfile("provenance.json"))["predicate"]["buildDefinition"]["resolvedDependencies"]
        return archive.extractfile(file).read(), file.mode, used


def test_a_blob_of_a_registry_is_a_file_and_a_thing_that_was_used(connect):
    with FakeRegistry() as fake:
        blob = fake.add_blob("models/one", DATA)
        data, mode, used = build(connect(), f"docker-image+blob://{fake.address}/models/one@{blob.digest}")
    assert (data, mode) == (DATA, 0o644)
    host = fake.address.replace(":", "%3A")
    (one,) = used
    assert (
        one["uri"]
        .replace(":", "%3A")
        .endswith(f"{host}/models/one?digest={blob.digest.replace(':', '%3A')}&ref_type=blob")
    )
    assert one["digest"] == {"sha256": blob.digest[7:]}


def test_a_blob_of_a_lent_layout_is_a_file_and_a_thing_that_was_used(connect):
    client = connect(more=((content.services["Content"], Content()),))
    name = f"oci-layout+blob://not/real@{sha256(DATA)}"
    data, _, used = build(client, name, ("oci.store", "mine"))
    assert data == DATA
    assert [one["uri"] for one in used] == [f"pkg:oci/not/real?digest={sha256(DATA)}&ref_type=blob"]


def test_a_blob_that_a_layout_lacks_fails_the_build(connect):
    client = connect(more=((content.services["Content"], Content()),))
    with pytest.raises(grpc.RpcError, match="has no sha256:0000"):
        build(client, f"oci-layout+blob://not/real@sha256:{64 * '0'}", ("oci.store", "mine"))
