"""`docker-image+blob://` and `oci-layout+blob://`: one blob of a registry or layout, by its digest, as a file.

Owns what such a source is called and when its place is asked. Does not know a registry's protocol, nor a layout's form:
a `Blobs` does.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from kedge.model.digest import Digest, digest_of, hex_part
from kedge.model.errors import InvalidInput, NotFound
from kedge.model.graph import Snapshot
from kedge.model.image import ANY_BYTES, Descriptor
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.reference import Reference, parse_reference
from kedge.model.trust import Trust
from kedge.sources.handler import Pin, Work
from kedge.sources.lone_file import FileForm, buildkit_name, place, read_form, safe_name
from kedge.sources.once import Once

if TYPE_CHECKING:
    from kedge.registry.client import Registry
    from kedge.storage.blobs import BlobWriter
    from kedge.storage.store import Store

Progress: TypeAlias = Callable[[int, int], None]


class Blobs(Protocol):
    """Where blobs are. Both methods block, are idempotent and raise NotFound, KedgeError."""

    def find_blob(self, source: Source) -> Descriptor:
        """What the source's digest names, with its size: asked now, of who serves it, as the client may."""

    def copy_blob(self, source: Source, descriptor: Descriptor, writer: "BlobWriter", progress: Progress) -> None:
        """Write its bytes into `writer`, and commit it."""


class BlobSource:
    """SourceHandler for blobs. A blob that the store has is asked for still, unless all in the store is trusted: it may
    be another client's.
    """

    def __init__(self, store: "Store", blobs: Blobs, trust: Trust = "all") -> None:
        self._store, self._blobs, self._trust = store, blobs, trust
        self._found = Once[Descriptor]()

    def pin(self, source: Source, platform: Platform | None, work: Work) -> Pin:
        """By content, name and owner."""
        digest, form = blob_digest(source), read_form(source)
        if self._trust != "all" or not self._store.blobs.has(digest):
            self._find(source)
        return Pin(
            digest_of(("blob", digest, _file_name(digest, form), form.mode, form.uid, form.gid)),
            labels=(("blob", source.identifier.partition("://")[2]),),
            buildkit=(_buildkit_name(source, digest, form),),
        )

    def fetch(self, source: Source, platform: Platform | None, pin: Pin, work: Work) -> Snapshot:
        """A layer with the one file."""
        digest, form = blob_digest(source), read_form(source)
        if not self._store.blobs.has(digest):
            descriptor = self._find(source)
            with self._store.blobs.writer(descriptor) as writer:
                self._blobs.copy_blob(source, descriptor, writer, lambda at, whole: _tell(work, descriptor, at))
            work.status(descriptor.digest, descriptor.size, descriptor.size, done=True)
        with self._store.layers.draft() as draft:
            place(self._store, digest, draft.upper / _file_name(digest, form), form)
            return (draft.commit(source.identifier),)

    def _find(self, source: Source) -> Descriptor:
        return self._found.ask(source, lambda: self._blobs.find_blob(source))


class RegistryBlobs:
    """Blobs of repositories. A digest may be a manifest's, too."""

    def __init__(self, registry: "Registry") -> None:
        self._registry = registry

    def find_blob(self, source: Source) -> Descriptor:
        reference = _reference(source)
        try:
            return self._registry.find_blob(reference)
        except NotFound:
            return self._registry.resolve(reference)

    def copy_blob(self, source: Source, descriptor: Descriptor, writer: "BlobWriter", progress: Progress) -> None:
        reference = _reference(source)
        if descriptor.media_type == ANY_BYTES:
            self._registry.download(reference, descriptor, writer, progress)
        else:
            writer.write(self._registry.manifest(reference, descriptor).data)
            writer.commit()


def blob_digest(source: Source) -> Digest:
    """The digest in a source's `NAME@DIGEST`. Raises InvalidInput for anything else."""
    reference = _reference(source)
    if reference.digest is None or reference.tag:
        raise InvalidInput(f"{source.identifier[:200]!r} names no blob: expected NAME@DIGEST")
    return reference.digest


def _reference(source: Source) -> Reference:
    """The name is one of a repository also where a layout is meant, which a client knows by another."""
    return parse_reference(source.identifier.partition("://")[2])


def _file_name(digest: Digest, form: FileForm) -> str:
    return safe_name(form.name) if form.name else hex_part(digest)


def _tell(work: Work, descriptor: Descriptor, at: int) -> None:
    work.check()
    work.status(descriptor.digest, at, descriptor.size)


def _buildkit_name(source: Source, digest: Digest, form: FileForm) -> Digest:
    """What BuildKit's source/containerblob calls it."""
    fields: dict[str, str | int | None] = {
        "Digest": digest,
        "Filename": safe_name(form.name) if form.name else "",
        "Perm": form.mode if source.attr("http.perm") else 0,
        "UID": form.uid,
        "GID": form.gid,
    }
    return buildkit_name(fields)
