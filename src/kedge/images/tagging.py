"""Names of images: giving and taking them away.

Owns what `tag` and `rmi` mean. Does not free space by itself: what no name holds any more is garbage for the store.
"""

import time
from collections.abc import Sequence

from kedge.images.lookup import find, shown_name
from kedge.model.digest import Digest
from kedge.model.errors import Conflict, InvalidInput
from kedge.model.reference import Reference, parse_reference
from kedge.model.value import dataclass, replace
from kedge.storage.images import ImageRecord
from kedge.storage.store import Store


@dataclass(frozen=True, slots=True)
class Removed:
    """What `remove` did: the names taken away (short form), and the image's id when its last name went."""

    untagged: tuple[str, ...]
    deleted: Digest | None


def tag(store: Store, source: str, target: str) -> ImageRecord:
    """Give the image that `source` names the name `target` too. Raises NotFound, InvalidReference, InvalidInput."""
    reference = parse_reference(target)
    if reference.digest:
        raise InvalidInput(f"a tag cannot have a digest: {target[:300]}")
    record = replace(find(store, source), name=str(reference), created_at=time.time())
    store.images.set(record)
    return record


def note_pushed(store: Store, record: ImageRecord, name: Reference, digest: Digest) -> None:
    """A registry has the image under `name` with that digest: from now on it is found here by both."""
    pinned = name.repository_only.with_digest(digest)
    store.images.set(replace(record, name=str(pinned), created_at=time.time()))


def remove(store: Store, text: str, *, force: bool = False) -> Removed:
    """Take the name `text` away, or, given an id, all names of that image. Raises NotFound, Conflict.

    An id with several names needs `force`. An image that keeps another name stays; a name that only says under which
    digest the same repository has it is none.
    """
    record = find(store, text)
    same = [r for r in store.images.list() if r.target.digest == record.target.digest]
    by_id = record.name.startswith("sha256:") or not _is_name(record, text)
    doomed = same if by_id else [record, *_only_digests(same, record)]
    if by_id and len(doomed) > 1 and not force:
        names = ", ".join(shown_name(r.name) for r in doomed)
        raise Conflict(f"image {text} has several names: {names}", hint="Name one of them, or use --force.")
    for each in doomed:
        store.images.remove(each.name)
    untagged = tuple(shown_name(r.name) for r in doomed if not r.name.startswith("sha256:"))
    return Removed(untagged, record.id if len(doomed) == len(same) else None)


def _only_digests(same: Sequence[ImageRecord], gone: ImageRecord) -> list[ImageRecord]:
    """What is left of the repository when a tag goes, if that is digests only."""
    name = parse_reference(gone.name)
    left = [r for r in same if r.name != gone.name and parse_reference(r.name).name == name.name]
    return left if not name.digest and all(parse_reference(r.name).digest for r in left) else []


def _is_name(record: ImageRecord, text: str) -> bool:
    digits = text.removeprefix("sha256:")
    return not (record.id.removeprefix("sha256:").startswith(digits) or
                record.target.digest.removeprefix("sha256:").startswith(digits))  # fmt: skip
