"""Questions about a source, before it is used."""

import functools
import hashlib
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

from kedge.daemon.buildkit.definition import encode
from kedge.daemon.wire import gateway, llb
from kedge.model.graph import Edge, Vertex
from kedge.model.image import OCI_INDEX, OCI_MANIFEST, Index, Manifest
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.value import replace
from kedge.registry.fake import FakeRegistry
from tests.daemon.driver import Driver

PROVENANCE = "https://slsa.dev/provenance/v1"


def test_a_driver_is_told_what_is_attested_of_an_image(connect):
    with FakeRegistry() as fake:
        image = fake.add_image("some/image", "")
        statement = fake.add_blob("some/image", b'{"predicateType": 1}', "application/vnd.in-toto+json")
        layer = replace(statement, annotations=(("in-toto.io/predicate-type", PROVENANCE),))
        made = Manifest(fake.add_blob("some/image", b"{}"), (layer,), OCI_MANIFEST)
        entry = replace(
            fake.add_manifest("some/image", "", made.to_bytes()),
            platform=Platform("unknown", "unknown"),
            annotations=(
                ("vnd.docker.reference.digest", image.digest),
                ("vnd.docker.reference.type", "attestation-manifest"),
            ),
        )
        index = Index((replace(image, platform=Platform("linux", "amd64")), entry))
        target = fake.add_manifest("some/image", "v1", index.to_bytes(), OCI_INDEX)
        client = connect()
        driver = Driver(client)
        request = gateway.ResolveSourceMetaRequest(
            Source=llb.SourceOp(identifier=f"docker-image://{fake.address}/some/image:v1"),
            Platform=llb.Platform(OS="linux", Architecture="amd64"),
            Image=gateway.ResolveSourceImageRequest(NoConfig=True, ResolveAttestations=[PROVENANCE]),
        )
        told = driver.call("ResolveSourceMeta", request).Image
        caps = {one.ID for one in driver.call("Ping", gateway.PingRequest()).FrontendAPICaps}
        driver.end()
    chain = told.AttestationChain
    assert (told.Digest, chain.Root, chain.ImageManifest) == (target.digest, target.digest, image.digest)
    assert chain.AttestationManifest == entry.digest
    assert json.loads(chain.Blobs[layer.digest].data) == {"predicateType": 1}
    assert dict(chain.Blobs[layer.digest].descriptor.annotations) == {"in-toto.io/predicate-type": PROVENANCE}
    assert "source.metaresolver.image.attestations" in caps


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def url(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    server.shutdown()
    server.server_close()


def checksum(connect, url, algorithm, suffix, **attrs):
    driver = Driver(connect())
    asked = gateway.ResolveSourceHTTPRequest(ChecksumRequest=gateway.ChecksumRequest(Algo=algorithm, Suffix=suffix))
    request = gateway.ResolveSourceMetaRequest(Source=llb.SourceOp(identifier=url, attrs=attrs), HTTP=asked)
    try:
        return driver.call("ResolveSourceMeta", request).HTTP.ChecksumResponse
    finally:
        driver.end()


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("number", "name"), [(0, "sha256"), (1, "sha384"), (2, "sha512")])
def test_a_driver_is_told_the_checksum_that_a_file_is_signed_by(connect, url, number, name, given):
    """Also of one whose checksum it gives itself, so that nobody has asked for the file yet."""
    attrs = {"http.checksum": "sha256:" + hashlib.sha256(b"content").hexdigest()} if given else {}
    told = checksum(connect, url, number, b" of mine", **attrs)
    assert told.Digest == f"{name}:{hashlib.new(name, b'content of mine').hexdigest()}"
    assert told.Suffix == b" of mine"


@pytest.mark.parametrize(("number", "suffix"), [(99, b""), (-1, b""), (0, bytes(5000))])
def test_a_checksum_of_another_kind_is_refused(connect, url, number, suffix):
    with pytest.raises(grpc.RpcError) as caught:
        checksum(connect, url, number, suffix)
    assert caught.value.code() != grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("attr", ["http.sig.pubkey", "http.sig.signature", "git.sig.pubkey"])
def test_a_signature_that_cannot_be_verified_is_no_source(connect, url, attr):
    """Not verified in silence."""
    identifier = "git://127.0.0.1/x.git" if attr.startswith("git") else url
    with pytest.raises(grpc.RpcError, match="cannot be verified"):
        connect().solve(Definition=encode(Edge(Vertex(Source(identifier, ((attr, "key"),))))))
