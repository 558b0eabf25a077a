"""From what a user typed to one platform's image in the store.

Owns the order in which names and ids are tried. Does not know registries: what is not here is not found.
"""

from collections.abc import Sequence

from kedge.model.digest import Digest
from kedge.model.errors import InvalidReference, NotFound
from kedge.model.graph import Snapshot
from kedge.model.image import INDEXES, Descriptor, ImageConfig, Index, Manifest
from kedge.model.platform import Platform, best_match
from kedge.model.reference import parse_reference
from kedge.model.suggest import did_you_mean
from kedge.model.value import dataclass
from kedge.storage.images import ImageRecord
from kedge.storage.layers import Declared
from kedge.storage.store import Store

_SHORTEST_ID = 4  # hexadecimal digits that are taken for the beginning of an image id


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One platform's image. `names` are all the names of its record's target; `descriptor` names `manifest`."""

    record: ImageRecord
    names: tuple[str, ...]
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig

    @property
    def id(self) -> Digest:
        return self.manifest.config.digest


def find(store: Store, text: str) -> ImageRecord:
    """The record that `text` names, by name first, then by id prefix. Raises NotFound with the nearest name."""
    try:
        if record := _by_name(store, text):
            return record
    except InvalidReference:
        pass  # an id, perhaps; else it is said below that there is none
    digits = text.removeprefix("sha256:")
    if len(digits) >= _SHORTEST_ID and set(digits) <= set("0123456789abcdef"):
        found = store.images.find(digits)
        if len({record.id for record in found}) == 1:
            return found[0]
        if found:
            raise NotFound(f"several images have an id that starts with {text}", hint="Give more digits.")
    raise NotFound(f"no such image: {text[:300]}", hint=_nearest(store, text))


def _by_name(store: Store, text: str) -> ImageRecord | None:
    reference = parse_reference(text)
    if record := store.images.get(str(reference)):
        return record
    if reference.digest:  # a name with a digest means that very image under any name of the repository
        here = (f"{reference.name}:", f"{reference.name}@")
        for record in store.images.list():
            if record.target.digest == reference.digest and record.name.startswith(here):
                return record
    return None


def _nearest(store: Store, text: str) -> str:
    names = {shown_name(record.name).removesuffix(":latest"): None for record in store.images.list()}
    return (
        did_you_mean(text.removesuffix(":latest"), names)
        or "`kedge images` lists what is here; `kedge pull` brings more."
    )


def shown_name(name: str) -> str:
    """The short form of a record's name; an id stays as it is."""
    try:
        return parse_reference(name).familiar
    except InvalidReference:
        return name


def names_of(store: Store, record: ImageRecord) -> tuple[str, ...]:
    """The names, full form, that point at the same target as `record`."""
    return tuple(name for name in store.images.names(record.target.digest) if not name.startswith("sha256:"))


def platforms_of(store: Store, record: ImageRecord) -> Sequence[tuple[Descriptor, Platform | None]]:
    """The manifests of a record that are in the store, with the platform each is for; attestations are left out."""
    if record.target.media_type not in INDEXES:
        return [(record.target, record.target.platform)]
    children = Index.from_bytes(store.blobs.read(record.target.digest)).manifests
    return [
        (child, child.platform)
        for child in children
        if store.blobs.has(child.digest) and "vnd.docker.reference.type" not in dict(child.annotations)
    ]


def open_image(store: Store, text: str, platform: Platform | None = None, host: Platform | None = None) -> StoredImage:
    """The image that `text` names for `platform`; without one, for `host` or the only one there. Raises NotFound."""
    record = find(store, text)
    image = read_image(store, record, _pick(store, record, platform, host, text))
    own = image.config.platform
    if platform and image.descriptor.platform is None and best_match(platform, [own]) is None:
        raise NotFound(f"image {text} is not here for {platform}: its platform is {own}")
    return image


def read_image(store: Store, record: ImageRecord, descriptor: Descriptor) -> StoredImage:
    """Read the documents of one manifest. Raises IntegrityError for malformed ones."""
    manifest = Manifest.from_bytes(store.blobs.read(descriptor.digest))
    config = ImageConfig.from_bytes(store.blobs.read(manifest.config.digest))
    return StoredImage(record, names_of(store, record), descriptor, manifest, config)


def _pick(store: Store, record: ImageRecord, platform: Platform | None, host: Platform | None, text: str) -> Descriptor:
    offered = list(platforms_of(store, record))
    wanted = platform or host
    known = [p or Platform("unknown", "unknown") for _, p in offered]
    if len(offered) == 1 and (platform is None or offered[0][1] is None):
        return offered[0][0]
    index = best_match(wanted, known) if wanted else None
    if index is None:
        there = ", ".join(str(p) for p in known) or "none"
        raise NotFound(f"image {text} is not here for {wanted or 'any platform'}: its platforms here are {there}")
    return offered[index][0]


def snapshot_of(store: Store, image: StoredImage) -> Snapshot:
    """The image's layers, declared; no byte moves until one is needed."""
    pairs = zip(image.config.diff_ids, image.manifest.layers, strict=True)
    return store.layers.declare_all(Declared(diff_id, layer) for diff_id, layer in pairs)
