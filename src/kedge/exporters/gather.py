"""What an image consists of: documents and blobs, gathered from wherever it is.

Owns reading an image's documents, and narrowing an index to platforms or to what is there. Does not know any place
(`places`), nor what is done with it (`copy_image`).
"""

from collections.abc import Sequence
from typing import BinaryIO, Final, Protocol

from kedge.model.digest import Digest, sha256
from kedge.model.errors import InvalidInput, NotFound
from kedge.model.image import INDEXES, MANIFESTS, Descriptor, Index, Manifest
from kedge.model.platform import Platform, best_match
from kedge.model.reference import Reference
from kedge.model.value import dataclass, field, replace

_DEEPEST: Final = 4  # indexes within indexes


class Reader(Protocol):
    """A place images are read from. Blocking, safe for many threads, idempotent."""

    @property
    def partial(self) -> bool:
        """Whether it may rightly lack some images of an index: those platforms are then left out of a copy."""
        ...

    def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest's or index's bytes, verified. Raises NotFound."""
        ...

    def open(self, descriptor: Descriptor, offset: int = 0) -> BinaryIO:
        """A blob's bytes from `offset` on. Raises NotFound."""
        ...

    def repository(self, descriptor: Descriptor) -> Reference | None:
        """A repository known to hold the blob, to mount it from; None if there is none."""
        ...

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """What is listed here as manifests about `subject`; not believed."""
        ...


@dataclass(frozen=True, slots=True)
class Tree:
    """An image, or an index and its images: `documents` hold children before parents, the root last."""

    documents: tuple[tuple[Descriptor, bytes], ...]
    blobs: tuple[Descriptor, ...]

    @property
    def root(self) -> Descriptor:
        return self.documents[-1][0]


@dataclass(slots=True)
class _Gathering:
    documents: dict[Digest, tuple[Descriptor, bytes]] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)


def gather(source: Reader, root: Descriptor, platforms: Sequence[Platform] = ()) -> Tree:
    """All that `root` refers to. `platforms` narrows an index: to one image's manifest, or to an index of several.

    Images that a partial source lacks are left out in the same way. Raises NotFound, IntegrityError.
    """
    root, data = _narrowed(source, root, platforms)
    found = _Gathering()
    _gather(source, root, data, found, 0)
    return Tree(tuple(found.documents.values()), tuple(found.blobs.values()))


def _gather(source: Reader, descriptor: Descriptor, data: bytes, found: _Gathering, depth: int) -> None:
    if descriptor.digest in found.documents:
        return
    if descriptor.media_type in INDEXES and depth < _DEEPEST:
        for child in Index.from_bytes(data, descriptor.media_type).manifests:
            if child.media_type in MANIFESTS | INDEXES:
                _gather(source, child, source.manifest(child), found, depth + 1)
            else:
                found.blobs.setdefault(child.digest, child)
    elif descriptor.media_type in MANIFESTS:
        manifest = Manifest.from_bytes(data, descriptor.media_type)
        for blob in (*manifest.layers, manifest.config):  # the small config last: large blobs start first
            found.blobs.setdefault(blob.digest, blob)
    else:
        raise InvalidInput(f"{descriptor.digest} is no image but a {descriptor.media_type[:100]}")
    found.documents[descriptor.digest] = (descriptor, data)


def _narrowed(source: Reader, root: Descriptor, platforms: Sequence[Platform]) -> tuple[Descriptor, bytes]:
    data = source.manifest(root)
    if root.media_type not in INDEXES or not (platforms or source.partial):
        return root, data
    index = Index.from_bytes(data, root.media_type)
    kept = index.manifests
    if platforms:
        kept = _chosen(kept, platforms)
    if source.partial:
        kept = tuple(entry for entry in kept if _has(source, entry))
        images = [entry for entry in kept if not _is_attestation(entry)]
        if not images:
            raise NotFound(f"no image of {root.digest} is whole here")
    if kept == index.manifests:
        return root, data
    if len(kept) == 1:
        return replace(kept[0], platform=None, annotations=()), source.manifest(kept[0])
    data = replace(index, manifests=kept).to_bytes()
    return Descriptor(root.media_type, sha256(data), len(data)), data


def _chosen(entries: Sequence[Descriptor], platforms: Sequence[Platform]) -> tuple[Descriptor, ...]:
    """The images for the platforms, and with several what attests to them."""
    offered = [entry.platform or Platform("", "") for entry in entries]
    chosen = set[Digest]()
    for platform in platforms:
        index = best_match(platform, offered)
        if index is None:
            names = ", ".join(str(one) for one in offered if one.os not in ("", "unknown")) or "none"
            raise NotFound(f"there is no image for {platform}", hint=f"There are: {names}.")
        chosen.add(entries[index].digest)
    if len(chosen) > 1:
        about = {e.digest for e in entries if dict(e.annotations).get("vnd.docker.reference.digest") in chosen}
        chosen |= about
    return tuple(entry for entry in entries if entry.digest in chosen)


def _is_attestation(entry: Descriptor) -> bool:
    return entry.platform is not None and entry.platform.os == "unknown"


def _has(source: Reader, entry: Descriptor) -> bool:
    try:
        source.manifest(entry)
        return True
    except NotFound:
        return False
