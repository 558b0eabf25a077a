"""Attestations beside plain files: an output without an image has them as files of its own.

Owns the files' names and their statements, which are about every file of the tree. Does not know what a predicate says.
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from typing import Final

from kedge.exporters.attest import STATEMENT, Predicate
from kedge.model.image import canonical_json

_PIECE: Final = 1 << 20


def statement_files(tree: int, predicates: Sequence[Predicate], platform: str) -> list[tuple[str, bytes]]:
    """Names and bytes; a name has the `platform` in it unless that is empty. `tree` is the directory's descriptor."""
    subjects = _subjects(tree) if predicates else []
    found = []
    for one in predicates:
        about = list(one.subjects) or subjects
        value = {"_type": STATEMENT, "predicateType": one.type, "subject": about, "predicate": one.value}
        stem, end = os.path.splitext(one.file)
        found.append((f"{stem}.{platform}{end}" if platform else one.file, canonical_json(value)))
    return found


def _subjects(tree: int) -> list[dict[str, object]]:
    top = f"/proc/self/fd/{tree}/"
    paths = (os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names)
    return [{"name": path[len(top) :], "digest": {"sha256": _digest(path)}} for path in sorted(paths) if _is_file(path)]


def _is_file(path: str) -> bool:
    return stat.S_ISREG(os.lstat(path).st_mode)


def _digest(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()
