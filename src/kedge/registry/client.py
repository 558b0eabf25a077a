"""The client of registries: names to descriptors, manifests, blobs, tags and referrers (OCI distribution
specification 1.1).

Owns what is asked of a registry, in which order its mirrors are tried, and the checks on every answer. Does not know
how requests are authorised (`auth`), repeated (`transport`), nor where bytes come from or go to.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeAlias

from kedge.model.credential import Credential, CredentialSource, anonymous
from kedge.model.digest import Digest
from kedge.model.image import Descriptor, Index
from kedge.model.reference import Reference
from kedge.model.settings import Settings

Progress: TypeAlias = Callable[[int, int], None]  # bytes moved so far, bytes in all; called from the moving thread
OpenAt: TypeAlias = Callable[[int], BinaryIO]  # a blob's bytes from an offset on; called again when a transfer resumes


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as served: its bytes, verified against `digest`."""

    data: bytes
    media_type: str
    digest: Digest

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.data))


class BlobSink(Protocol):
    """Where a download goes. `offset` bytes are there already (of this very blob) and hashed; `digest()` is of all
    written so far.

    `restart()` forgets everything: what was there turned out to be wrong. storage's BlobWriter is one.
    """

    @property
    def offset(self) -> int: ...
    def write(self, data: bytes, /) -> object: ...
    def digest(self) -> Digest: ...
    def restart(self) -> None: ...


class Registry:
    """All registries, through one pool of connections and one cache of tokens. Blocking, safe to use from many threads.

    Every method raises RegistryError (Unauthorized, or with the HTTP `status`), NotFound for what the registry does
    not have, and IntegrityError for an answer that is not what its digest, size or type promised.
    """

    def __init__(self, settings: Settings | None = None, credentials: CredentialSource = anonymous) -> None: ...
    def resolve(self, reference: Reference) -> Descriptor:
        """What `reference`'s digest or tag points at now; without a digest it is asked for by HEAD."""
        raise NotImplementedError

    def manifest(self, reference: Reference, expected: Descriptor | None = None) -> Document:
        """The manifest or index by digest or tag, verified; `expected` also fixes its size and type."""
        raise NotImplementedError

    def read_blob(self, repository: Reference, descriptor: Descriptor, limit: int = 1 << 23) -> bytes:
        """A small blob (a config) in memory, verified; IntegrityError if its descriptor claims more than `limit` bytes."""
        raise NotImplementedError

    def open_blob(self, repository: Reference, descriptor: Descriptor, offset: int = 0) -> BinaryIO:
        """A blob's bytes from `offset` on, resumed behind the scenes; verified at its end if `offset` is 0."""
        raise NotImplementedError

    def download(
        self, repository: Reference, descriptor: Descriptor, sink: BlobSink, progress: Progress | None = None
    ) -> None:
        """Write the rest of a blob (from `sink.offset` on) into `sink`; returns only when `sink.digest()` is the blob's."""
        raise NotImplementedError

    def has_blob(self, repository: Reference, digest: Digest) -> bool:
        raise NotImplementedError

    def upload(
        self,
        repository: Reference,
        descriptor: Descriptor,
        open_at: OpenAt,
        progress: Progress | None = None,
        mount_from: tuple[Reference, ...] = (),
    ) -> bool:
        """Make the registry have a blob: if it lacks it, mount it from a sibling repository, else send it. True if it was sent."""
        raise NotImplementedError

    def put_manifest(self, reference: Reference, data: bytes, media_type: str) -> Digest:
        """Store a manifest under `reference`'s tag, or its digest when there is no tag; also as a referrer of its subject."""
        raise NotImplementedError

    def tags(self, repository: Reference) -> Iterator[str]:
        raise NotImplementedError

    def referrers(self, repository: Reference, digest: Digest, artifact_type: str = "") -> Index:
        """The manifests whose subject is `digest`: by the referrers API, else by the tag schema. Empty when there are none."""
        raise NotImplementedError

    def login(self, registry: str, credential: Credential) -> Credential:
        """Check a credential against a registry; returns what to keep: an identity token where the registry gives one."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
