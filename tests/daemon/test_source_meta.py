"""Questions about a source, before it is used."""

import json

from kedge.daemon.wire import gateway, llb
from kedge.model.image import OCI_INDEX, OCI_MANIFEST, Index, Manifest
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
