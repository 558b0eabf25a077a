"""Content digests: the one name that bytes and values have everywhere.

Owns the digest type, its syntax and the digest of a frozen value. Does not know what is digested or where it is kept.
"""

import enum
import hashlib
import json
import re
from typing import Any, NewType

from kedge.model import value as values
from kedge.model.errors import InvalidDigest

Digest = NewType("Digest", str)

# OCI image specification, descriptor.md: only these algorithms are registered; each fixes the length of its hex part.
_REGISTERED = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")

_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def parse_digest(text: str) -> Digest:
    """The digest that `text` spells; raises InvalidDigest for anything but a registered algorithm with lower-case hex.

    Every digest that comes from outside passes here before it becomes part of a path or a URL (CVE-2024-3727).
    """
    if not _REGISTERED.fullmatch(text):
        raise InvalidDigest(f"invalid digest {text[:100]!r}: expected sha256: and 64 lower-case hexadecimal digits")
    return Digest(text)


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    """The SHA-256 digest of `data`."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def hex_part(digest: Digest) -> str:
    """The digits behind the algorithm: what a file or a short id is named after."""
    return digest.partition(":")[2]


def digest_of(value: object) -> Digest:
    """The digest of a frozen value: its type names and comparable fields, independent of process and machine."""
    return sha256(_JSON.encode(_plain(value)).encode())


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is str or value is None or kind is int or kind is bool:  # first what there is most of
        return value
    if kind is tuple or kind is list:
        return [_plain(each) for each in value]
    if values.is_dataclass(kind):
        return {"": kind.__name__} | {
            one.name: _plain(getattr(value, one.name)) for one in values.fields(kind) if one.compare
        }
    if isinstance(value, enum.Enum):
        return [kind.__name__, value.name]
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted(json.dumps(_plain(v), sort_keys=True) for v in value)]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, dict):
        return ["dict", sorted((str(k), _plain(v)) for k, v in value.items())]
    raise TypeError(f"{kind.__name__} has no digest")
