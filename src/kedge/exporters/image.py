"""The image exporter: a built stage becomes a name in the store.

Owns what is written there and in which order: documents first, the name last, so that a name always holds a whole
image. Layers are named by their uncompressed tar and made into bytes when somebody asks. Does not know registries or
archives.
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

from kedge.exporters.assemble import Assembled, Document, Stage, assemble, document, index_document
from kedge.exporters.options import ImageOptions
from kedge.model.digest import Digest
from kedge.model.image import Descriptor
from kedge.model.reference import Reference
from kedge.model.value import dataclass
from kedge.storage.images import ImageRecord
from kedge.storage.layer_bytes import Compression
from kedge.storage.store import Store


class Steps(Protocol):
    """Where an export tells how far it is (`sources.handler.Work` is one)."""

    def status(
        self, id: str, current: int = 0, total: int = 0, *, started: float | None = None, done: bool = False
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Referrer:
    """A manifest about another one, `subject`, which does not know of it (OCI image specification 1.1)."""

    subject: Digest
    manifest: Descriptor


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export made. `target` is the manifest, or the index of several platforms; `document` its bytes.

    `extra` are the documents and blobs of attestations; `referrers` those of their manifests that are not in the index.
    """

    images: tuple[Assembled, ...]
    document: Document
    names: tuple[Reference, ...] = ()
    extra: tuple[Document, ...] = ()
    referrers: tuple[Referrer, ...] = ()

    @property
    def documents(self) -> dict[Digest, bytes]:
        """All documents by digest."""
        pairs = [each for image in self.images for each in (image.config_document, image.manifest_document)]
        return {each.descriptor.digest: each.data for each in (self.document, *pairs, *self.extra)}

    @property
    def target(self) -> Descriptor:
        return self.document.descriptor

    @property
    def id(self) -> Digest:
        """What Docker calls the image's id: the config's digest, of several platforms the index's."""
        return self.images[0].id if len(self.images) == 1 else self.target.digest

    @property
    def metadata(self) -> dict[str, Any]:
        """BuildKit's entries for `--metadata-file`."""
        out: dict[str, Any] = {}
        if len(self.images) == 1:
            out["containerimage.config.digest"] = self.images[0].id
        out["containerimage.descriptor"] = self.target.to_json()
        out["containerimage.digest"] = self.target.digest
        if self.names:
            out["image.name"] = ",".join(str(name) for name in self.names)
        return out


def assemble_all(
    store: Store, stages: Sequence[Stage], options: ImageOptions, compression: Compression | None, steps: Steps
) -> Exported:
    """The documents of all platforms, and the blobs `compression` asks for (see `assemble`), told as one step."""
    started = time.time()
    steps.status("exporting layers", started=started)

    def packing(action: str, digest: Digest, current: int, total: int) -> None:
        steps.status("exporting layers", current, total, started=started)

    images = tuple(assemble(store, stage, options, compression, packing) for stage in stages)
    steps.status("exporting layers", started=started, done=True)
    if len(images) == 1 and not options.index:
        return Exported(images, images[0].manifest_document, options.names)
    index = index_document([i.manifest_document for i in images], options, [i.config for i in images])
    return Exported(images, index, options.names)


def export_image(store: Store, stages: Sequence[Stage], options: ImageOptions, steps: Steps) -> Exported:
    """Put the stages' image into the store under the options' names, or under none: then its id finds it.

    A name that another image had moves. Raises StoreError, IntegrityError.
    """
    exported = assemble_all(store, stages, options, layer_compression(options), steps)
    record_image(store, exported, steps)
    return exported


def layer_compression(options: ImageOptions) -> Compression | None:
    """The compression that the options ask for; `assemble` makes eStargz, which is gzip to all others."""
    return "gzip" if options.compression == "estargz" else options.compression


def record_image(store: Store, exported: Exported, steps: Steps) -> None:
    """Store the documents of an export, then give it its names."""
    put_documents(store, exported)
    for referrer in exported.referrers:
        store.images.add_referrer(referrer.subject, referrer.manifest)
    now = time.time()
    for name in exported.names:
        started = time.time()
        store.images.set(ImageRecord(str(name), exported.target, exported.id, now))
        steps.status(f"naming to {shown_name(name)}", started=started, done=True)
    if not exported.names:
        store.images.set(ImageRecord(exported.id, exported.target, exported.id, now))


def put_documents(store: Store, exported: Exported) -> None:
    """Store configs, manifests and index of an export."""
    for data in exported.documents.values():
        store.blobs.put(data)


def shown_name(name: Reference) -> str:
    """A full name without the tag everyone expects."""
    return str(name).removesuffix(":latest")


__all__ = [
    "Exported",
    "Referrer",
    "Steps",
    "assemble_all",
    "document",
    "export_image",
    "put_documents",
    "record_image",
    "shown_name",
]
