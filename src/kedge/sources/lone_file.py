"""A layer that is one file: what a URL or a blob of a registry becomes.

Owns the file's name, mode, owner and time as LLB's attributes have them. Does not know where its bytes are from.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.model.digest import Digest, sha256
from kedge.model.errors import InvalidInput
from kedge.model.ops import Source
from kedge.model.value import dataclass

if TYPE_CHECKING:
    from kedge.storage.store import Store

PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class FileForm:
    """How the file is to look. `name` is as asked, and may be empty."""

    name: str = ""
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


def read_form(source: Source) -> FileForm:
    """The attributes of a source, which are http's for all schemes. Raises InvalidInput."""
    return FileForm(
        source.attr("http.filename"),
        _number(source.attr("http.perm") or "0600", 0o7777),
        _number(source.attr("http.uid") or "0", 0x7FFFFFFF),
        _number(source.attr("http.gid") or "0", 0x7FFFFFFF),
    )


def place(store: "Store", content: Digest, path: Path, form: FileForm, time: float = 0.0) -> None:
    """Make the file at `path`, of a blob that the store has; `time` in seconds."""
    with store.blobs.open(content) as source, open(path, "xb") as target:
        while piece := source.read(PIECE):
            target.write(piece)
        if (form.uid, form.gid) != (0, 0):
            from kedge.storage import ownership

            ownership.give(target.fileno(), form.uid, form.gid, ownership.policy())
        os.fchmod(target.fileno(), form.mode)
    os.utime(path, (time, time))


def safe_name(text: str) -> str:
    """A name that is one component, never a path, a dot name or a control character (BuildKit:
    pathutil.SafeFileName).
    """
    name = text.strip().rstrip("/").rpartition("/")[2]
    if name in ("", ".", "..") or any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        return "download"
    return name if len(os.fsencode(name)) <= 255 else "download"


def buildkit_name(fields: Mapping[str, str | int | None]) -> Digest:
    """BuildKit's name for the file: the digest of these fields as Go writes their JSON."""
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return sha256(text.encode())


def _number(text: str, most: int) -> int:
    """Go's ParseInt with base 0: a leading 0 is octal, 0x hexadecimal."""
    octal = re.fullmatch(r"0[0-7]+", text)
    try:
        value = int(text, 8 if octal else 0)
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise InvalidInput(f"{text[:40]!r} is no proper number for a file's mode or owner")
    return value
