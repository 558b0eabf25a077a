"""Attestations beside plain files: an output without an image has them as files of its own.

Owns the files' names and their statements, which are about every file of the tree. Does not know what a predicate says.
"""

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from typing import Final

from kedge.exporters.attest import STATEMENT, Predicate
from kedge.model.errors import InvalidInput

_PIECE: Final = 1 << 20


def statement_files(
    tree: int, predicates: Sequence[Predicate], platform: str, prefix: str = ""
) -> list[tuple[str, bytes]]:
    """Names and bytes; a name begins with `prefix`, and has the `platform` in it unless that is empty.

    `tree` is the directory's descriptor. Raises InvalidInput for two of one name, or a prefix that is a path.
    """
    if "/" in prefix:
        raise InvalidInput(f"output attribute attestation-prefix={prefix[:40]}: it begins a file's name, not a path")
    subjects = _subjects(tree) if predicates else []
    found: list[tuple[str, bytes]] = []
    for one in predicates:
        about = list(one.subjects) if one.subjects and all("digest" in each for each in one.subjects) else subjects
        value = {"_type": STATEMENT, "predicateType": one.type, "subject": about, "predicate": one.value}
        stem, end = os.path.splitext(one.file)
        name = prefix + (f"{stem}.{platform}{end}" if platform else one.file)
        if any(name == other for other, _ in found):
            raise InvalidInput(f"two attestations would be written to {name[:100]}")
        found.append((name, json.dumps(value, indent=2, ensure_ascii=False).encode()))
    return found


def _subjects(tree: int) -> list[dict[str, object]]:
    top = f"/proc/self/fd/{tree}/"
    paths = (os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names)
    files = [path for path in sorted(paths) if _is_file(path)]
    return [{"name": _text(path[len(top) :]), "digest": {"sha256": _digest(path)}} for path in files]


def _text(path: str) -> str:
    """A path of any bytes as JSON can say it."""
    return os.fsencode(path).decode("utf-8", "replace")


def _is_file(path: str) -> bool:
    return stat.S_ISREG(os.lstat(path).st_mode)


def _digest(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()
