"""What a scanner image wrote: in-toto statements, one a file (BuildKit's docs/attestations/sbom-protocol.md).

Owns which files of the scanner's output count, in which order, and their bounds. Does not know how the scanner ran.
"""

import json
import os
from collections.abc import Iterator
from typing import Any, Final

from kedge.exporters.sbom.files import Files
from kedge.exporters.sbom.spdx import PREDICATE
from kedge.model.errors import InvalidInput
from kedge.model.value import dataclass

CORE: Final = "sbom"  # the name of the build's result among what is scanned
EXTRA: Final = "sbom-"  # stands before the names of a context and of other stages
LARGEST: Final = 40 << 20  # bytes of a statement, as in BuildKit
_LARGEST_SUM: Final = 160 << 20
_MOST: Final = 1000  # statements
_HEADROOM: Final = 100  # levels of nesting that JSON must leave to those who write it again


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: the file it was in, what it says, and of what; of nothing (): of the image."""

    file: str
    predicate: dict[str, Any]
    subjects: tuple[dict[str, Any], ...] = ()


def read_bundle(root: int) -> list[Statement]:
    """The statements in a directory, about the build's result first. Raises InvalidInput for what is none."""
    names = Files(root).names("/")
    if len(names) > _MOST:
        raise InvalidInput(f"the SBOM scanner wrote more than {_MOST} files")
    found = list(_statements(Files(root), names))
    if not found:
        raise InvalidInput("the SBOM scanner wrote nothing into $BUILDKIT_SCAN_DESTINATION")
    return sorted(found, key=lambda one: not is_core(one.file, CORE))


def is_core(file: str, core: str) -> bool:
    """Is a statement about the build's result, which is known to the scanner as `core`?"""
    return file.rpartition("/")[2].partition(".")[0] == core


def _statements(files: Files, names: list[str]) -> Iterator[Statement]:
    left = _LARGEST_SUM
    for name in names:
        name_of_file = os.fsencode(name).decode("utf-8", "replace")
        shown = name_of_file[:100]
        data = files.read(name, LARGEST + 1)
        if data is None:
            raise InvalidInput(f"the SBOM scanner wrote {shown}, which is not a regular file")
        left -= len(data)
        if len(data) > LARGEST or left < 0:
            raise InvalidInput(f"the SBOM scanner wrote {shown}, which is too large")
        try:
            yield _statement(name_of_file, data)
        except (ValueError, RecursionError):
            raise InvalidInput(f"the SBOM scanner wrote {shown}, which is no in-toto statement") from None


def _statement(name: str, data: bytes) -> Statement:
    """Raises ValueError for what is none."""
    value = json.loads(data, parse_constant=_refuse)
    if not isinstance(value, dict) or not isinstance(value.get("predicate"), dict):
        raise ValueError("no predicate")
    if value.get("predicateType") != PREDICATE:
        kind = str(value.get("predicateType"))[:80]
        raise InvalidInput(f"the SBOM scanner wrote {name[:100]} of type {kind!r}: expected {PREDICATE}")
    subjects = tuple(_subject(one) for one in value.get("subject") or ())
    # It will be written again: as UTF-8, inside a larger document, with more of the stack used.
    json.dumps(_inside_lists(value), ensure_ascii=False, allow_nan=False).encode()
    return Statement(name, value["predicate"], subjects)


def _inside_lists(value: Any) -> Any:
    for _ in range(_HEADROOM):
        value = [value]
    return value


def _subject(value: Any) -> dict[str, Any]:
    digests = value.get("digest") if isinstance(value, dict) else None
    if not isinstance(digests, dict) or not all(isinstance(one, str) for one in digests.values()):
        raise ValueError("no subject")
    return {"name": str(value.get("name") or "_"), "digest": digests}


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")
