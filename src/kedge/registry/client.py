"""The client of registries: names to descriptors, manifests, blobs, tags and referrers (OCI distribution spec 1.1).

Owns what is asked of a registry, in which order its mirrors are tried, and the checks on every document. Does not know
how requests are authorised and repeated (`exchange`), nor where bytes come from or go to (`transfer`).
"""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Final, TypeVar, cast

from kedge.model.credential import Credential, CredentialSource, anonymous
from kedge.model.digest import Digest, hex_part
from kedge.model.errors import IntegrityError, InvalidInput, NotFound, RegistryError
from kedge.model.image import INDEXES, MANIFESTS, OCI_INDEX, Descriptor, Index, referring, strict_json
from kedge.model.reference import DOCKER_HUB, Reference, parse_registry
from kedge.model.settings import RegistryHost, Settings
from kedge.registry import transfer
from kedge.registry.answers import (
    Document,
    media_type_of,
    next_link,
    read_document,
    stated_digest,
)
from kedge.registry.auth import pull_scope, push_scope
from kedge.registry.exchange import Address, Server, turns
from kedge.registry.transfer import BlobReader, BlobSink, OpenAt, Progress, no_progress
from kedge.registry.transport import Answer, Transport, Unreachable, absolute, origin_of

__all__ = ["BlobSink", "Document", "OpenAt", "Progress", "Registry"]

MANIFEST_LIMIT: Final = 4 << 20  # bytes: what the distribution specification asks registries to take at least
CONFIG_LIMIT: Final = 8 << 20
_PAGE_LIMIT: Final = 4 << 20
_PAGES: Final = 1000
_NO_REFERRERS: Final = (400, 405, 406, 501)  # besides 404: what registries without the referrers API answer
_NO_HEAD: Final = (401, 403, 404, 405, 501)  # an answer to GET also tells why
_ACCEPT: Final = ", ".join(sorted(MANIFESTS | INDEXES))
_HUB_SERVER: Final = "registry-1.docker.io"

Result = TypeVar("Result")


class Registry:
    """All registries, through one pool of connections and one cache of tokens. Blocking, safe to use from many threads.

    Every method raises NotFound for what the registry does not have, RegistryError (Unauthorized, or with the HTTP
    `status`) for its refusals, IntegrityError for an answer that is not what its digest, size or type promised, and
    Cancelled once `cancel` is set.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        credentials: CredentialSource = anonymous,
        cancel: threading.Event | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._credentials = credentials
        self._transport = Transport(self._settings.network, cancel)
        self._servers: dict[str, tuple[Server, ...]] = {}
        self._lock = threading.Lock()
        self._listing = threading.Lock()  # a list of referrers is read, then written

    # ---- reading -----------------------------------------------------------------------------------------------------

    def resolve(self, reference: Reference) -> Descriptor:
        """What `reference`'s tag or digest points at now: asked by HEAD, or where that tells too little, by GET."""
        return self._read(reference, lambda server: self._resolve(server, reference))

    def manifest(self, reference: Reference, expected: Descriptor | None = None) -> Document:
        """The manifest or index by digest (if the reference has one) or tag, verified; `expected` also fixes size and
        type.
        """
        return self._read(reference, lambda server: self._manifest(server, reference, expected))

    def read_blob(self, repository: Reference, descriptor: Descriptor, limit: int = CONFIG_LIMIT) -> bytes:
        """A small blob (a config) in memory, verified; IntegrityError if its descriptor claims more than `limit`
        bytes.
        """
        if descriptor.size > limit:
            raise IntegrityError(
                f"{descriptor.digest} claims {descriptor.size} bytes; {limit} are the most for its kind"
            )
        with self.open_blob(repository, descriptor) as source:
            return source.read()

    def find_blob(self, reference: Reference) -> Descriptor:
        """The blob of the reference's digest, with its size: asked by HEAD. Raises NotFound."""
        digest = reference.digest
        assert digest is not None
        return self._read(reference, lambda server: transfer.find_blob(server, reference.repository, digest))

    def open_blob(self, repository: Reference, descriptor: Descriptor, offset: int = 0) -> BinaryIO:
        """A blob's bytes from `offset` on, resumed behind the scenes; verified at their end if `offset` is 0."""
        reader = BlobReader(self._for_reading(repository), repository.repository, descriptor, offset)
        return cast(BinaryIO, io.BufferedReader(reader, 1 << 18))

    def download(
        self, repository: Reference, descriptor: Descriptor, sink: BlobSink, progress: Progress = no_progress
    ) -> None:
        """Write a blob's bytes from `sink.offset` on into `sink`, and commit it."""
        transfer.download(self._for_reading(repository), repository.repository, descriptor, sink, progress)

    def tags(self, repository: Reference) -> Iterator[str]:
        """The repository's tags, in the registry's order, asked for page by page."""
        server = self._own(repository)
        name = server.repository(repository.repository)
        for page in self._pages(server, f"{name}/tags/list?n=1000", pull_scope(name)):
            found = strict_json(page, "list of tags").get("tags")
            yield from (tag for tag in found or () if isinstance(tag, str))

    def referrers(self, repository: Reference, digest: Digest, artifact_type: str = "") -> Index:
        """The manifests whose subject is `digest`: by the referrers API, else by the tag schema. Empty when there are
        none.
        """
        told = False
        try:
            for turn in turns(self._for_reading(repository)):
                with turn as server:
                    found = self._referrers(server, repository, digest, artifact_type)
                    told = True
                    if not found:  # a mirror need not have them
                        raise NotFound(f"{server.name} knows nothing that refers to {digest}")
                    return Index(tuple(entry for entry in found if artifact_type in ("", entry.artifact_type)))
        except NotFound:
            pass
        except Unreachable:
            if not told:
                raise
        return Index(())

    def _referrers(self, server: Server, repository: Reference, digest: Digest, kind: str) -> list[Descriptor]:
        name = server.repository(repository.repository)
        query = f"?artifactType={kind}" if kind else ""
        try:
            pages = list(self._pages(server, f"{name}/referrers/{digest}{query}", pull_scope(name), OCI_INDEX))
            return [entry for page in pages for entry in Index.from_bytes(page).manifests]
        except NotFound:
            return list(self._referrers_by_tag(server, repository, digest).manifests)
        except RegistryError as error:
            if error.status not in _NO_REFERRERS:
                raise
            return list(self._referrers_by_tag(server, repository, digest).manifests)

    def has_blob(self, repository: Reference, descriptor: Descriptor) -> bool:
        """Whether the registry itself, not a mirror, has a blob."""
        return transfer.has_blob(self._own(repository), repository.repository, descriptor.digest, descriptor.size)

    def has_manifest(self, reference: Reference, descriptor: Descriptor) -> bool:
        """Whether the registry itself has this very manifest under the reference's tag, or by digest without a tag."""
        server = self._own(reference)
        name = server.repository(reference.repository)
        path, headers = f"{name}/manifests/{reference.tag or descriptor.digest}", {"Accept": _ACCEPT}
        try:
            with _about(reference.familiar):
                answer = server.request("HEAD", path, push_scope(name), headers=headers)
        except NotFound:
            return False
        answer.close()
        return (
            answer.headers.get("Docker-Content-Digest", "" if reference.tag else descriptor.digest) == descriptor.digest
        )

    # ---- writing -----------------------------------------------------------------------------------------------------

    def upload(
        self,
        repository: Reference,
        descriptor: Descriptor,
        open_at: OpenAt,
        progress: Progress = no_progress,
        mount_from: Sequence[Reference] = (),
    ) -> bool:
        """Make the registry have a blob: if it lacks it, mount it from a sibling repository, else send it. True if it
        was sent.
        """
        with _about(repository.familiar):
            if self.has_blob(repository, descriptor):
                progress(descriptor.size, descriptor.size)
                return False
            return self._upload(repository, descriptor, open_at, progress, mount_from)

    def _upload(
        self,
        repository: Reference,
        descriptor: Descriptor,
        open_at: OpenAt,
        progress: Progress,
        mount_from: Sequence[Reference],
    ) -> bool:
        others = dict.fromkeys(
            other.repository
            for other in mount_from
            if other.registry == repository.registry and other.repository != repository.repository
        )
        server = self._own(repository)
        return transfer.upload(server, repository.repository, descriptor, open_at, progress, list(others))

    def put_manifest(self, reference: Reference, data: bytes, media_type: str) -> Digest:
        """Store a manifest under `reference`'s tag, or its digest when there is no tag; also as a referrer of its
        subject.
        """
        server = self._own(reference)
        document = read_document(data, media_type, None, "manifest to push", None, None)
        with _about(reference.familiar):
            answer = self._put(server, reference, document)
        about = referring(document.descriptor, data)
        if about and not answer.headers.get("OCI-Subject"):
            with self._listing:
                self._add_referrer(server, reference, *about)
        return document.digest

    def login(self, registry: str, credential: Credential) -> Credential:
        """Check a credential against a registry; returns what to keep: an identity token where the registry gives one.

        Raises Unauthorized when it is refused. A registry that asks nobody for anything accepts every credential.
        """
        host = parse_registry(registry)
        name = _HUB_SERVER if host == DOCKER_HUB else host
        server = self._server(Address(name), self._settings.registry(host), lambda _: credential)
        server.authorizer().wants_identity = True
        answer = server.request("GET", "", frozenset(), ok=(200, 401))
        if answer.status == 401:
            server.refuse(answer)
        answer.close()
        token = server.authorizer().refresh_token()
        return Credential(username=credential.username, identity_token=token) if token else credential

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._transport.close()

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- servers -----------------------------------------------------------------------------------------------------

    def _all_servers(self, reference: Reference) -> tuple[Server, ...]:
        with self._lock:
            if reference.registry not in self._servers:
                self._servers[reference.registry] = self._make_servers(reference.registry)
            return self._servers[reference.registry]

    def _make_servers(self, registry: str) -> tuple[Server, ...]:
        settings = self._settings.registry(registry)
        mirrors = [_mirror_address(text, registry) for text in settings.mirrors]
        made = [self._server(address, self._settings.registry(address.host), self._credentials) for address in mirrors]
        own = Address(_HUB_SERVER if registry == DOCKER_HUB else registry)
        return (*made, self._server(own, settings, lambda _: self._credentials(registry)))

    def _server(self, address: Address, host: RegistryHost, credentials: CredentialSource) -> Server:
        return Server(address, host, self._settings.network, self._transport, credentials)

    def _for_reading(self, reference: Reference) -> list[Server]:
        servers = self._all_servers(reference)
        return [server for server in servers[:-1] if not server.down] + [servers[-1]]

    def _own(self, reference: Reference) -> Server:
        return self._all_servers(reference)[-1]

    def _read(self, reference: Reference, ask: Callable[[Server], Result]) -> Result:
        """What the first server says that says anything; the registry's own error when none does."""
        for turn in turns(self._for_reading(reference)):
            with turn as server:
                return ask(server)
        raise AssertionError("the turns end with a result or the last error")

    # ---- requests ----------------------------------------------------------------------------------------------------

    def _resolve(self, server: Server, reference: Reference) -> Descriptor:
        name = server.repository(reference.repository)
        what = reference.digest or reference.tag
        with _about(reference.familiar, server):
            target, headers = f"{name}/manifests/{what}", {"Accept": _ACCEPT}
            answer = server.request("HEAD", target, pull_scope(name), headers=headers, ok=(200, *_NO_HEAD))
        answer.close()
        stated = stated_digest(answer.headers.get("Docker-Content-Digest"))
        kind = media_type_of(answer.headers.get("Content-Type"))
        if answer.status != 200 or not stated or not answer.length or kind not in MANIFESTS | INDEXES:
            return self._manifest(server, reference, None).descriptor
        if reference.digest not in (None, stated):
            raise IntegrityError(f"{server.name} says {reference.familiar} has the digest {stated}")
        return Descriptor(kind, stated, answer.length)

    def _manifest(self, server: Server, reference: Reference, expected: Descriptor | None) -> Document:
        name = server.repository(reference.repository)
        pinned = expected.digest if expected else reference.digest
        target = f"{name}/manifests/{pinned or reference.tag}"
        shown = reference.familiar if pinned in (None, reference.digest) else f"{reference.familiar_name}@{pinned}"
        with _about(shown, server):
            answer = server.request("GET", target, pull_scope(name), headers={"Accept": _ACCEPT})
            limit = MANIFEST_LIMIT if expected is None else min(expected.size, MANIFEST_LIMIT)
            body = _limited(answer, limit, shown)
        stated = answer.headers.get("Docker-Content-Digest")
        return read_document(body, answer.headers.get("Content-Type"), stated, shown, expected, pinned)

    def _pages(self, server: Server, path: str, scopes: frozenset[str], accept: str = "") -> Iterator[bytes]:
        url, seen = server.url(path), set[str]()
        while url:
            seen.add(url)
            answer = server.request("GET", url, scopes, headers={"Accept": accept} if accept else {})
            yield _limited(answer, _PAGE_LIMIT, "a list")
            following = next_link(answer.headers.get("Link", ""))
            url = absolute(answer.url, following) if following else ""
            if url and origin_of(url) != server.authorizer().origin:
                raise RegistryError(f"{server.name} continues a list at {origin_of(url)}: not followed")
            if url in seen or len(seen) >= _PAGES:
                raise RegistryError(f"{server.name} sends a list without end")

    def _put(self, server: Server, reference: Reference, document: Document) -> Answer:
        name = server.repository(reference.repository)
        path = f"{name}/manifests/{reference.tag or document.digest}"
        headers = {"Content-Type": document.media_type}
        answer = server.request("PUT", path, push_scope(name), headers=headers, body=document.data, ok=(200, 201, 202))
        answer.close()
        stated = stated_digest(answer.headers.get("Docker-Content-Digest"))
        if stated and stated != document.digest:
            raise IntegrityError(f"{server.name} stored {stated} instead of {document.digest}")
        return answer

    def _referrers_by_tag(self, server: Server, repository: Reference, digest: Digest) -> Index:
        tagged = repository.with_tag(f"{digest.partition(':')[0]}-{hex_part(digest)}"[:128])
        try:
            document = self._manifest(server, tagged, None)
        except NotFound:
            return Index(())
        return Index.from_bytes(document.data, document.media_type)

    def _add_referrer(self, server: Server, reference: Reference, subject: Digest, entry: Descriptor) -> None:
        """What a client does for a registry without the referrers API: keep the list under a tag (distribution spec
        1.1).
        """
        known = self._referrers_by_tag(server, reference, subject)
        if any(other.digest == entry.digest for other in known.manifests):
            return
        data = Index((*known.manifests, entry)).to_bytes()
        tagged = reference.with_tag(f"{subject.partition(':')[0]}-{hex_part(subject)}"[:128])
        self._put(server, tagged, read_document(data, OCI_INDEX, None, "list of referrers", None, None))


@contextmanager
def _about(shown: str, server: Server | None = None) -> Iterator[None]:
    """Let refusals name the image they are about; with `server`, what is missing there is that image."""
    try:
        yield
    except NotFound:
        if server is None:
            raise
        raise NotFound(f"{shown} is not in the registry {server.name}") from None
    except RegistryError as error:
        error.message = f"{shown}: {error.message}"
        error.args = (error.message,)
        raise


def _limited(answer: Answer, limit: int, what: str) -> bytes:
    if answer.length is not None and answer.length > limit:
        answer.close()
        raise IntegrityError(f"{what} has {answer.length} bytes; {limit} were expected at most")
    body = answer.body(limit)
    if body is None:
        raise IntegrityError(f"{what} has more than the {limit} bytes expected at most")
    return body


def _mirror_address(text: str, registry: str) -> Address:
    """A mirror as the configuration spells it: `[http[s]://]host[:port][/path]`; InvalidInput for anything else."""
    scheme, separator, rest = text.partition("://")
    host, _, path = (rest if separator else text).partition("/")
    path = path.strip("/").removeprefix("v2/") if path.strip("/") != "v2" else ""
    try:
        origin_of(f"https://{host}/{path}")
    except RegistryError:
        host = ""
    if (separator and scheme not in ("http", "https")) or not host or set(path) & set("?#%"):
        raise InvalidInput(f"the mirror {text!r} of {registry} is no address", hint='Write it as "host:port/path".')
    return Address(host, scheme if separator else None, f"{path}/" if path else "", registry)
