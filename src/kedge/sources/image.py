"""`docker-image://`: images by name, from the store or a registry.

Owns resolve modes and what is remembered of an answer. Does not know the wire protocol (`registry`), how an image is
picked out of an index (`pick`), nor how layers are unpacked.
"""

import os
import time
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from kedge.model.digest import Digest
from kedge.model.errors import IntegrityError, InvalidInput, NotFound, Unauthorized
from kedge.model.graph import Snapshot
from kedge.model.image import INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST, Descriptor, media_type_in, strict_json
from kedge.model.ops import Source
from kedge.model.platform import Platform, best_match, of_machine
from kedge.model.reference import Reference, parse_reference
from kedge.model.trust import Trust
from kedge.model.value import dataclass, replace
from kedge.sources.handler import Pin, Work
from kedge.sources.once import Once
from kedge.sources.pick import PickedImage, buildkit_names, declare_layers, limited, pick_image

if TYPE_CHECKING:
    from kedge.registry.client import Registry
    from kedge.storage.images import ImageRecord
    from kedge.storage.store import Store

ResolveMode: TypeAlias = Literal["default", "pull", "local", "never"]
_MODES: Final[dict[str, ResolveMode]] = {word: word for word in get_args(ResolveMode)}
_DOCUMENT_LIMIT = 4 << 20
_CONFIG_LIMIT = 8 << 20


class ImageSource:
    """SourceHandler for docker-image://. One per build: a name is resolved once and means the same until the end.

    `host` is the platform for sources that name none: this machine's unless told. Without `trust` in all that the store
    has, the registry is asked for every name and digest, and what is found gets no name.
    """

    def __init__(
        self, store: "Store", registry: "Registry", host: Platform | None = None, trust: Trust = "all"
    ) -> None:
        self._store, self._registry, self._host = store, registry, host or of_machine(os.uname().machine)
        self._trust = trust
        self._targets, self._images = Once[Descriptor](), Once[PickedImage]()
        self._arriving: dict[Digest, _LayerProgress] = {}

    def resolve(
        self, reference: Reference, platform: Platform, mode: ResolveMode = "default", work: Work | None = None
    ) -> PickedImage:
        """The image for `platform`, with its config: what lowering asks. Blocking; the same question is asked once.

        "default" (and BuildKit's "local") takes the store's own without asking anyone, "pull" asks the registry first,
        "never" never asks it. Raises NotFound, RegistryError, IntegrityError, Unsupported.
        """

        def find() -> PickedImage:
            started = time.time()
            title = f"resolve {reference}"
            if work:
                work.status(title, started=started)
            found = self._find(reference, platform, mode)
            if work:
                work.status(title, started=started, done=True)
            return found

        return self._images.ask((reference, platform, mode), find)

    def pull(self, reference: Reference, platform: Platform, work: Work) -> PickedImage:
        """`kedge pull`: what the registry has now, with all its layers fetched and unpacked."""
        image = self.resolve(reference, platform, "pull", work)
        if reference.digest:  # asked for by itself, it is to be found again; a build's pinned base needs no name
            self._name(replace(reference, tag=""), image)
        self._store.layers.directories(self._declare(reference, image), _LayerProgress(work))
        return image

    def pin(self, source: Source, platform: Platform | None, work: Work) -> Pin:
        """The layers' identity: two names for the same layers are the same thing to every later step."""
        image = self._image(source, platform, work)
        self._watch(image, work)
        return Pin(
            image.key,
            labels=(("image", str(_read(source)[0].with_digest(image.target.digest))),),
            buildkit=buildkit_names(image, platform or self._host),
        )

    def fetch(self, source: Source, platform: Platform | None, pin: Pin, work: Work) -> Snapshot:
        """The image's layers, lazily: nothing is downloaded until some step needs their files."""
        return self._declare(_read(source)[0], self._image(source, platform, work))

    def _image(self, source: Source, platform: Platform | None, work: Work) -> PickedImage:
        reference, mode = _read(source)
        image = self.resolve(reference, platform or self._host, mode, work)
        return limited(image, source.attr("image.layerlimit"))

    def _declare(self, reference: Reference, image: PickedImage) -> Snapshot:
        return declare_layers(self._store, image, f"docker-image://{reference.name}")

    def _watch(self, image: PickedImage, work: Work) -> None:
        """Show the image's layers as work of the step that names it, whichever step needs their files first."""
        progress = _LayerProgress(work)
        self._arriving |= {layer.digest: progress for layer in image.manifest.layers}
        self._store.layers.watch = self._arrived

    def _arrived(self, action: str, digest: Digest, current: int, total: int) -> None:
        if progress := self._arriving.get(digest):
            progress(action, digest, current, total)

    # ---- finding -----------------------------------------------------------------------------------------------------

    def _find(self, reference: Reference, platform: Platform, mode: ResolveMode) -> PickedImage:
        by_name = not reference.digest and self._trust != "none"
        record = self._store.images.get(str(reference)) if by_name else None
        if record and mode != "pull":
            image = self._from_store(reference, record, platform, mode)
            if image:
                return image
        if mode == "never" and not reference.digest:
            raise NotFound(
                f"{reference.familiar} is not in the store, and may not be pulled",
                hint=f"Run `kedge pull {reference.familiar}`.",
            )
        try:
            target = self._targets.ask(reference, lambda: self._target(reference, record))
        except (NotFound, Unauthorized):
            if record and mode != "pull":  # the store's own, for another platform, is better than nothing
                return self._pick(reference, record.target, platform, asks=False)
            raise
        image = self._pick(reference, target, platform, asks=mode != "never")
        self._remember(reference, image, record)
        return image

    def _from_store(
        self, reference: Reference, record: "ImageRecord", platform: Platform, mode: ResolveMode
    ) -> PickedImage | None:
        """The store's own image of that name; None if the registry may have one that suits the platform better."""
        try:
            image = self._pick(reference, record.target, platform, asks=mode != "never")
        except (NotFound, IntegrityError):
            if mode == "never":
                raise
            return None
        suits = best_match(platform, [image.config.platform]) is not None
        return image if suits or mode == "never" or record.target.media_type in INDEXES else None

    def _target(self, reference: Reference, record: "ImageRecord | None") -> Descriptor:
        """What the name points at, by asking as little as that takes."""
        if reference.digest and self._may_have(reference.digest) and self._store.blobs.has(reference.digest):
            return _described(reference.digest, self._store.blobs.read(reference.digest, _DOCUMENT_LIMIT))
        if record or self._trust != "all":  # most likely here: HEAD costs no pull of the rate limit
            target = self._registry.resolve(reference)
            if record or self._store.blobs.has(target.digest):
                return target
        document = self._registry.manifest(reference)
        self._store.blobs.put(document.data)
        return document.descriptor

    def _may_have(self, digest: Digest) -> bool:
        """May it be used if the store has it, without asking who serves it?"""
        if self._trust == "names":
            return any(not name.startswith("sha256:") for name in self._store.images.names(digest))
        return self._trust == "all"

    def _pick(self, reference: Reference, target: Descriptor, platform: Platform, *, asks: bool) -> PickedImage:
        pinned = reference.with_digest(target.digest)
        documents = _Documents(self._store, self._registry if asks else None, pinned)
        return pick_image(reference.familiar, target, documents, platform)

    def _remember(self, reference: Reference, image: PickedImage, record: "ImageRecord | None") -> None:
        if self._trust == "all" and not reference.digest and not (record and record.target == image.target):
            self._name(reference, image)

    def _name(self, reference: Reference, image: PickedImage) -> None:
        from kedge.storage.images import ImageRecord

        self._declare(reference, image)  # so that whoever finds the name can also find its layers
        self._store.images.set(ImageRecord(str(reference), image.target, image.manifest.config.digest, time.time()))


@dataclass(frozen=True, slots=True)
class _Documents:
    """Documents from the store, else (unless it may not be asked: None) from the registry, and then kept."""

    store: "Store"
    registry: "Registry | None"
    reference: Reference

    def manifest(self, descriptor: Descriptor) -> bytes:
        if self.store.blobs.has(descriptor.digest):
            return self._checked(descriptor, self.store.blobs.read(descriptor.digest, _DOCUMENT_LIMIT))
        document = self._asking(descriptor).manifest(self.reference.with_digest(descriptor.digest), descriptor)
        self.store.blobs.put(document.data)
        return document.data

    def config(self, descriptor: Descriptor) -> bytes:
        if self.store.blobs.has(descriptor.digest):
            return self._checked(descriptor, self.store.blobs.read(descriptor.digest, _CONFIG_LIMIT))
        data = self._asking(descriptor).read_blob(self.reference, descriptor, _CONFIG_LIMIT)
        self.store.blobs.put(data)
        return data

    def _checked(self, descriptor: Descriptor, data: bytes) -> bytes:
        if len(data) != descriptor.size:
            raise IntegrityError(
                f"{descriptor.digest} has {len(data)} bytes, not {descriptor.size} as its descriptor says"
            )
        return data

    def _asking(self, descriptor: Descriptor) -> "Registry":
        if self.registry is None:
            raise NotFound(f"{self.reference.familiar} is not whole in the store, and may not be pulled")
        return self.registry


class _LayerProgress:
    """Layers on their way, told as BuildKit tells them: one status each for its bytes and its unpacking."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._started: dict[str, float] = {}

    def __call__(self, action: str, digest: Digest, current: int, total: int) -> None:
        self._work.check()
        id = digest if action == "fetching" else f"extracting {digest}"
        started = self._started.setdefault(id, time.time())
        self._work.status(id, current, total, started=started, done=bool(total) and current >= total)


def _described(digest: Digest, data: bytes) -> Descriptor:
    """The descriptor of a document the store holds by digest alone: its type is what it says, or its fields say."""
    value = strict_json(data, str(digest))
    kind = media_type_in(value) or (OCI_INDEX if "manifests" in value else OCI_MANIFEST)
    if kind not in MANIFESTS | INDEXES:
        raise IntegrityError(f"{digest} is no manifest and no index")
    return Descriptor(kind, digest, len(data))


def _read(source: Source) -> tuple[Reference, ResolveMode]:
    word = source.attr("image.resolvemode", "default")
    mode = _MODES.get(word)
    if mode is None:
        raise InvalidInput(f"invalid image resolve mode {word[:40]!r}")
    reference = parse_reference(source.identifier.partition("://")[2])
    checksum = source.attr("image.checksum")
    if checksum:
        from kedge.model.digest import parse_digest

        reference = replace(reference, digest=parse_digest(checksum))
    return reference, mode
