"""What is attested of an image: the documents by which a client judges it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kedge.model.errors import IntegrityError, KedgeError
from kedge.model.image import OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Manifest
from kedge.model.platform import Platform
from kedge.model.reference import Reference, parse_reference
from kedge.model.settings import NetworkSettings, Settings
from kedge.model.value import replace
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry
from kedge.sources import attested
from kedge.sources.attested import IN_TOTO, PREDICATE_TYPE, AttestationChain, find_chain
from kedge.sources.image import ImageSource
from kedge.storage.store import Store

AMD = Platform("linux", "amd64")
NAME = "some/image"
PROVENANCE, SBOM = "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"
BUNDLE, COSIGN = "application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.cosign.artifact.sig.v1+json"


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def chain(fake: FakeRegistry, tmp_path: Path) -> Iterator[Callable[..., AttestationChain | None]]:
    """Finds the chain of the tag v1."""
    settings = Settings(network=NetworkSettings(attempts=2, timeout=5, backoff=0.005))
    with Registry(settings) as registry, Store.open(tmp_path / "store") as store:

        def find(*kinds: str) -> AttestationChain | None:
            reference: Reference = parse_reference(f"{fake.address}/{NAME}:v1")
            image = ImageSource(store, registry, AMD, "none").resolve(reference, AMD)
            return find_chain(store, registry, reference, image, kinds)

        yield find


def artifact(
    fake: FakeRegistry, subject: Descriptor | None, kind: str, *layers: Descriptor, **notes: str
) -> Descriptor:
    """A manifest about another one."""
    config = fake.add_blob(NAME, b"{}", "application/vnd.oci.empty.v1+json")
    told = tuple((key.replace("_", "-"), value) for key, value in notes.items())
    made = Manifest(config, layers, OCI_MANIFEST, told, subject, kind)
    return fake.add_manifest(NAME, "", made.to_bytes())


def statement(fake: FakeRegistry, kind: str, data: bytes) -> Descriptor:
    return replace(fake.add_blob(NAME, data, IN_TOTO), annotations=((PREDICATE_TYPE, kind),))


def publish(
    fake: FakeRegistry, *attested_by: Descriptor, about: Descriptor | None = None
) -> tuple[Descriptor, Descriptor]:
    """An index, and the image in it; what attests the image is listed beside it."""
    image = fake.add_image(NAME, "")
    notes = (
        ("vnd.docker.reference.digest", str((about or image).digest)),
        ("vnd.docker.reference.type", "attestation-manifest"),
    )
    listed = [replace(one, platform=Platform("unknown", "unknown"), annotations=notes) for one in attested_by]
    index = Index((replace(image, platform=AMD), *listed))
    return fake.add_manifest(NAME, "v1", index.to_bytes(), OCI_INDEX), image


def test_documents_from_the_index_to_the_signature(fake: FakeRegistry, chain: Callable[..., AttestationChain]) -> None:
    sbom, provenance = statement(fake, SBOM, b'"sbom"'), statement(fake, PROVENANCE, b'"provenance"')
    attestation = artifact(fake, None, "", sbom, provenance)
    signed = fake.add_blob(NAME, b'"signed"', BUNDLE)
    artifact(fake, attestation, COSIGN, fake.add_blob(NAME, b'"other"'))
    signature = artifact(fake, attestation, BUNDLE, signed)
    index, image = publish(fake, attestation)
    found = chain(PROVENANCE)
    assert (found.root, found.image) == (index.digest, image.digest)
    assert (found.attestation, found.signatures) == (attestation.digest, (signature.digest,))
    documents = [index, attestation, signature, signed, provenance]
    assert set(found.blobs) == {one.digest for one in documents}, "no more than that is asked for"
    assert found.blobs[provenance.digest].data == b'"provenance"'
    assert dict(found.blobs[provenance.digest].descriptor.annotations) == {PREDICATE_TYPE: PROVENANCE}


def test_without_a_kind_statements_stay_where_they_are(
    fake: FakeRegistry, chain: Callable[..., AttestationChain]
) -> None:
    attestation = artifact(fake, None, "", statement(fake, PROVENANCE, b"1"))
    index, _ = publish(fake, attestation)
    found = chain()
    assert set(found.blobs) == {index.digest, attestation.digest}
    assert found.signatures == ()


def test_provenance_that_refers_to_the_image_is_found_too(
    fake: FakeRegistry, chain: Callable[..., AttestationChain]
) -> None:
    _, image = publish(fake)
    told = {"in_toto.io/predicate_type": SBOM}
    artifact(fake, image, IN_TOTO, statement(fake, SBOM, b"1"), **told)
    attestation = artifact(
        fake, image, IN_TOTO, statement(fake, PROVENANCE, b"2"), **told | {"in_toto.io/predicate_type": PROVENANCE}
    )
    found = chain(PROVENANCE)
    assert found.attestation == attestation.digest
    assert b"2" in [one.data for one in found.blobs.values()]


def test_what_attests_another_image_does_not_count(fake: FakeRegistry, chain: Callable[..., AttestationChain]) -> None:
    other = fake.add_image(NAME, "", layers=(b"other",))
    publish(fake, artifact(fake, None, "", statement(fake, PROVENANCE, b"1")), about=other)
    assert chain(PROVENANCE).attestation is None


def test_an_image_that_is_in_no_index_has_no_chain(
    fake: FakeRegistry, chain: Callable[..., AttestationChain | None]
) -> None:
    fake.add_image(NAME, "v1")
    assert chain() is None


def test_other_bytes_than_promised_are_refused(fake: FakeRegistry, chain: Callable[..., AttestationChain]) -> None:
    lying = statement(fake, PROVENANCE, b"1")
    publish(fake, artifact(fake, None, "", lying))
    fake.repository(NAME).blobs[lying.digest] = b"2"
    with pytest.raises(KedgeError):
        chain(PROVENANCE)


def test_more_than_a_client_takes_is_refused(
    fake: FakeRegistry, chain: Callable[..., AttestationChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attested, "_LARGEST", 10_000)
    large = [statement(fake, PROVENANCE, b"%d" % number * 6000) for number in range(2)]
    publish(fake, artifact(fake, None, "", *large))
    with pytest.raises(IntegrityError, match="more is attested"):
        chain(PROVENANCE)
