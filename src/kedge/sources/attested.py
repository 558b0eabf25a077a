"""What is attested of an image, from its index down to the signature: the documents by which a client can judge it.

Owns which documents those are, as BuildKit's clients expect them (frontend/gateway, AttestationChain), and their
bounds. Judges nothing, and believes nothing of them but their digests.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from kedge.model.digest import Digest
from kedge.model.errors import IntegrityError
from kedge.model.image import MANIFESTS, OCI_INDEX, Descriptor, Index, Manifest
from kedge.model.reference import Reference
from kedge.model.value import dataclass, field
from kedge.sources.pick import PickedImage

if TYPE_CHECKING:
    from kedge.registry.client import Registry
    from kedge.storage.store import Store

IN_TOTO: Final = "application/vnd.in-toto+json"
PREDICATE_TYPE: Final = "in-toto.io/predicate-type"
_ABOUT, _KIND, _ATTESTATION = "vnd.docker.reference.digest", "vnd.docker.reference.type", "attestation-manifest"
_PROVENANCE: Final = "https://slsa.dev/provenance/"
# Sigstore's, those that clients rather have first.
_SIGNATURES: Final = (
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.cosign.artifact.sig.v1+json",
)
_LARGEST: Final = 14 << 20  # bytes of all together: they go into one message, of which clients take 16 MiB


@dataclass(frozen=True, slots=True)
class Blob:
    """A document, and what the one above it says of it."""

    descriptor: Descriptor
    data: bytes


@dataclass(frozen=True, slots=True)
class AttestationChain:
    """The digests on the way, each None or empty if there is no such thing, and the documents by theirs."""

    root: Digest
    image: Digest
    attestation: Digest | None = None
    signatures: tuple[Digest, ...] = ()
    blobs: Mapping[Digest, Blob] = field(default_factory=dict)


def find_chain(
    store: "Store", registry: "Registry", reference: Reference, image: PickedImage, kinds: Iterable[str] = ()
) -> AttestationChain | None:
    """What is attested of an image that was picked out of an index, with the statements of these predicate types; None
    of one that is in no index. Raises KedgeError.
    """
    if image.target.media_type != OCI_INDEX:
        return None
    found = _Documents(store, registry, reference)
    index = Index.from_bytes(found.take(image.target))
    attestation = _entry(index, image.descriptor.digest) or found.provenance_of(image.descriptor.digest)
    if attestation is None:
        return AttestationChain(image.target.digest, image.descriptor.digest, blobs=found.blobs)
    layers = Manifest.from_bytes(found.take(attestation)).layers
    signature = found.signature_of(attestation.digest)
    if signature is not None:
        for layer in Manifest.from_bytes(found.take(signature)).layers:
            found.take(layer)
    wanted = set(kinds) - {""}
    for layer in layers:
        if dict(layer.annotations).get(PREDICATE_TYPE) in wanted:
            found.take(layer)
    return AttestationChain(
        image.target.digest,
        image.descriptor.digest,
        attestation.digest,
        (signature.digest,) if signature else (),
        found.blobs,
    )


def _entry(index: Index, image: Digest) -> Descriptor | None:
    """What the index itself lists about the image."""
    for one in index.manifests:
        notes = dict(one.annotations)
        if notes.get(_KIND) == _ATTESTATION and notes.get(_ABOUT) == image:
            return one
    return None


class _Documents:
    """Documents from the store, else from the registry; those that were taken, by digest."""

    def __init__(self, store: "Store", registry: "Registry", reference: Reference) -> None:
        self._store, self._registry, self._reference = store, registry, reference
        self.blobs: dict[Digest, Blob] = {}
        self._left = _LARGEST

    def take(self, descriptor: Descriptor) -> bytes:
        """A document's bytes, kept for the answer."""
        if descriptor.digest not in self.blobs:
            self._left -= descriptor.size
            if self._left < 0:
                raise IntegrityError(f"more is attested of {self._reference} than {_LARGEST >> 20} MiB")
            self.blobs[descriptor.digest] = Blob(descriptor, self._read(descriptor))
        return self.blobs[descriptor.digest].data

    def _read(self, descriptor: Descriptor) -> bytes:
        if self._store.blobs.has(descriptor.digest):
            return self._store.blobs.read(descriptor.digest, _LARGEST)
        if descriptor.media_type in MANIFESTS | {OCI_INDEX}:
            return self._registry.manifest(self._reference.with_digest(descriptor.digest), descriptor).data
        return self._registry.read_blob(self._reference, descriptor, _LARGEST)

    def provenance_of(self, image: Digest) -> Descriptor | None:
        """Provenance that refers to the image, which its index does not know of (OCI image specification 1.1)."""
        found = [one for one in self._referrers(image, IN_TOTO) if one.artifact_type == IN_TOTO]
        return next((one for one in found if _predicate(one).startswith(_PROVENANCE)), None)

    def signature_of(self, attestation: Digest) -> Descriptor | None:
        """The one signature that counts. All referrers are asked for: some registries cannot tell two kinds apart."""
        found = self._referrers(attestation)
        return next((one for kind in _SIGNATURES for one in found if one.artifact_type == kind), None)

    def _referrers(self, subject: Digest, kind: str = "") -> Sequence[Descriptor]:
        ours = self._store.images.referrers(subject)
        return ours or self._registry.referrers(self._reference, subject, kind).manifests


def _predicate(one: Descriptor) -> str:
    return dict(one.annotations).get(PREDICATE_TYPE, "")
