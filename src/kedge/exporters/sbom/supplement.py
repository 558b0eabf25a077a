"""Which layer each file of a scanner's bill of materials is from: what it cannot know that only saw the whole tree.

Owns the form in which it is said: BuildKit's, for those that read it (`layerID: DIGEST` as the comment of a file that
has none). Does not know who made the document.
"""

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kedge.kernel.paths import open_in_root
from kedge.model.digest import Digest

LAYER = "layerID: "


def files_of(document: Any) -> list[dict[str, Any]]:
    """The files of an SPDX document that no comment tells anything of; none of what is no such document."""
    files = document.get("files") if isinstance(document, dict) else None
    return [one for one in files if isinstance(one, dict) and not one.get("comment")] if isinstance(files, list) else []


def supplemented(document: Any, layers: Sequence[tuple[Digest, Path]], tool: str) -> Any:
    """The document with its files' layers, which are given bottom first, by the digests of their blobs; `tool` says who
    told them. A file that a layer above removed is of the layer that made it.
    """
    wanted, found = files_of(document), dict[int, str]()
    with _opened([path for _, path in layers]) as roots:
        for index, one in enumerate(wanted):
            above = zip(reversed(layers), reversed(roots), strict=True)
            digest = next((digest for (digest, _), root in above if _has(root, one.get("fileName"))), None)
            if digest:
                found[index] = digest
    if not found:
        return document
    numbers = {id(one): index for index, one in enumerate(wanted)}
    files = [
        one | {"comment": LAYER + found[number]} if (number := numbers.get(id(one))) in found else one
        for one in document["files"]
    ]
    return document | {"files": files, "creationInfo": _signed(document.get("creationInfo"), tool)}


def _signed(info: Any, tool: str) -> Any:
    """Who made the document, and us."""
    told: Mapping[str, Any] = info if isinstance(info, dict) else {}
    creators = told.get("creators")
    return {**told, "creators": [*(creators if isinstance(creators, list) else []), f"Tool: {tool}"]}


@contextmanager
def _opened(directories: Sequence[Path]) -> Iterator[list[int]]:
    with ExitStack() as stack:
        roots = []
        for path in directories:
            roots.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, roots[-1])
        yield roots


def _has(root: int, name: Any) -> bool:
    """Does a layer hold a file of that name, which is not a whiteout? The name is a stranger's."""
    if not isinstance(name, str):
        return False
    try:
        fd = open_in_root(root, posixpath.normpath(f"/{name}"), os.O_PATH | os.O_NOFOLLOW)
    except (OSError, ValueError):
        return False
    try:
        told = os.fstat(fd)
        return not (stat.S_ISCHR(told.st_mode) and told.st_rdev == 0)
    finally:
        os.close(fd)
