"""What refers to images without being part of them: attestations, signatures (OCI image specification 1.1, `subject`).

Owns finding it, in the order in which it is to be copied, and what a listing is not believed: each manifest must itself
say what it is about. Does not know how anything is copied (`copy_image`).
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from kedge.exporters.gather import Reader, Tree, gather
from kedge.model.digest import Digest
from kedge.model.errors import IntegrityError, InvalidInput, NotFound
from kedge.model.image import INDEXES, MANIFESTS, Descriptor, referring
from kedge.model.value import dataclass

MOST: Final = 1000  # manifests that refer to one image and what it is made of
_AT_ONCE: Final = 6
_DEEPEST: Final = 4  # signatures of attestations of images


@dataclass(frozen=True, slots=True)
class Referring:
    """A manifest with its parts, and what it is about; `listed` is how a list of referrers names it."""

    subject: Digest
    listed: Descriptor
    tree: Tree


def find_referrers(source: Reader, subjects: Iterable[Digest], left_out: Callable[[str], None]) -> list[Referring]:
    """All that refers to the subjects, and to what does, subjects first. `left_out` hears of what cannot be copied.

    Raises what the reader raises, and IntegrityError for more than anybody can mean.
    """
    found: dict[Digest, Referring] = {}
    known = set[Digest]()
    with ThreadPoolExecutor(_AT_ONCE, "referrers") as pool:
        for _ in range(_DEEPEST):
            asked = [subject for subject in dict.fromkeys(subjects) if subject not in known]
            if not asked:
                break
            known |= set(asked)
            lists = list(pool.map(source.referrers, asked))
            entries = [(subject, one) for subject, each in zip(asked, lists, strict=True) for one in each]
            if len(found) + len(entries) > MOST:
                raise IntegrityError(f"more than {MOST} manifests refer to the image")
            level = [_read(source, subject, one, left_out) for subject, one in entries if one.digest not in found]
            found |= {one.listed.digest: one for one in level if one}
            subjects = [one.listed.digest for one in level if one]
    return list(found.values())


def _read(source: Reader, subject: Digest, entry: Descriptor, left_out: Callable[[str], None]) -> Referring | None:
    if entry.media_type not in MANIFESTS | INDEXES:
        left_out(f"{entry.digest}, which refers to {subject}: {entry.media_type[:80]} is not known")
        return None
    try:
        tree = gather(source, entry)
    except NotFound:
        left_out(f"{entry.digest}, which is said to refer to {subject}: it is not there")
        return None
    except InvalidInput as error:
        left_out(f"{entry.digest}, which refers to {subject}: {error.message}")
        return None
    about = referring(*tree.documents[-1])
    if about is None or about[0] != subject:
        left_out(f"{entry.digest}: it does not refer to {subject}")
        return None
    return Referring(subject, about[1], tree)


def subjects_of(tree: Tree) -> Sequence[Digest]:
    """What others may refer to."""
    return [descriptor.digest for descriptor, _ in tree.documents]
