"""Reading what a registry says: error bodies, Retry-After, Link, ranges, and the type of a document.

Owns small pure functions over headers and bodies that nobody has vouched for. Does not send anything.
"""

import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

from kedge.model.digest import Digest, parse_digest, sha256
from kedge.model.errors import IntegrityError, InvalidDigest, Unsupported
from kedge.model.image import INDEXES, MANIFESTS, Descriptor, Index, Manifest, strict_json
from kedge.model.value import dataclass

# Content types of servers that serve files and know no better; then the document itself must say what it is.
_GENERIC = frozenset({"", "application/octet-stream", "application/json", "text/plain", "binary/octet-stream"})
_SCHEMA_1 = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1\+(json|prettyjws)")


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as served: its bytes, verified against `digest`."""

    data: bytes
    media_type: str
    digest: Digest

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.data))


def error_text(body: bytes | None) -> str:
    """What an error body says, "" or at most 300 printable characters, whether or not it is JSON (distribution spec,
    error codes).
    """
    try:
        value = json.loads(body or b"")
        text = "; ".join(_one_error(entry) for entry in value["errors"][:3])
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
        text = _loose_error(body or b"")
    text = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"\s+", " ", text).strip()[:300]


def _one_error(entry: Any) -> str:
    code, message = str(entry.get("code") or ""), str(entry.get("message") or "")
    detail = entry.get("detail")
    more = f" ({detail})" if isinstance(detail, str) and detail and detail != message else ""
    return (message or code.lower().replace("_", " ")) + more


def _loose_error(body: bytes) -> str:
    text = body[:4096].decode(errors="replace")
    try:
        value = json.loads(text)
        found = [value.get(key) for key in ("details", "message", "error_description", "error")]
        return next((str(item) for item in found if isinstance(item, str) and item), "")
    except (ValueError, AttributeError, RecursionError):
        return re.sub(r"<(?:style|script|head).*?</[^>]*>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)


def retry_after(header: str) -> float | None:
    """The pause a server asks for, in seconds; None when it does not say (RFC 9110, 10.2.3)."""
    header = header.strip()
    if re.fullmatch(r"[0-9]{1,9}", header):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time()) if header else None
    except (ValueError, TypeError, OverflowError):
        return None


def next_link(header: str) -> str:
    """The URL of the next page, maybe relative, that a Link header names; "" when there is none (RFC 8288)."""
    for target, parameters in re.findall(r"<([^>]*)>((?:\s*;[^,]*)*)", header[:4096]):
        if re.search(r';\s*rel\s*=\s*"?next"?\s*(?:;|$)', parameters, re.IGNORECASE):
            return str(target)
    return ""


def content_range(header: str) -> tuple[int, int | None] | None:
    """First byte and total size (None: not told) of a Content-Range; None when it is malformed (RFC 9110, 14.4)."""
    match = re.fullmatch(r"\s*bytes\s+([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)\s*", header)
    return match and (int(match[1]), None if match[2] == "*" else int(match[2]))


def acknowledged(header: str) -> int | None:
    """How many bytes of an upload the registry has, by its Range header (`0-1023`: 1024); None when it does not say.

    `0-0` is what registries send both for nothing and for one byte: taken as nothing.
    """
    match = re.fullmatch(r"\s*(?:bytes=)?0-([0-9]{1,18})\s*", header)
    return match and (int(match[1]) + 1 if int(match[1]) else 0)


def stated_digest(header: str | None) -> Digest | None:
    """The digest in a Docker-Content-Digest header, None when there is none; IntegrityError for nonsense
    (CVE-2024-3727).
    """
    if not header:
        return None
    try:
        return parse_digest(header.strip())
    except InvalidDigest as error:
        raise IntegrityError(f"the registry states an {error.message}") from None


def media_type_of(header: str | None) -> str:
    """A Content-Type without its parameters, in lower case."""
    return (header or "").partition(";")[0].strip().lower()


def read_document(body: bytes, content_type: str | None, stated: str | None, what: str, expected: Descriptor | None,
                  pinned: Digest | None) -> Document:  # fmt: skip
    """Check a manifest or index that came as `content_type`: digest, size, and one unambiguous type (CVE-2021-41190).

    `stated` is the Docker-Content-Digest header, `pinned` the digest asked for. Raises IntegrityError or Unsupported.
    """
    digest = _verified(body, what, pinned or (expected.digest if expected else None), stated_digest(stated))
    if expected and expected.size != len(body):
        raise IntegrityError(f"{what} has {len(body)} bytes, not {expected.size} as its descriptor says")
    served = media_type_of(content_type)
    if _SCHEMA_1.fullmatch(served):
        raise Unsupported(f"{what} is in Docker's old schema 1", hint="Push it again with a current tool.")
    inside = strict_json(body, what).get("mediaType")
    kind = served
    if served in _GENERIC:
        kind = inside if isinstance(inside, str) else expected.media_type if expected else ""
    if kind not in MANIFESTS | INDEXES:
        raise IntegrityError(
            f"{what} is served as {kind[:100] or 'nothing'!r}, which is no type of a manifest or an index"
        )
    if expected and expected.media_type != kind:
        raise IntegrityError(f"{what} is served as {kind}, but its descriptor says {expected.media_type[:100]}")
    (Manifest if kind in MANIFESTS else Index).from_bytes(body, kind)
    return Document(body, kind, digest)


def _verified(body: bytes, what: str, wanted: Digest | None, stated: Digest | None) -> Digest:
    import hashlib

    target = wanted or stated
    algorithm = target.partition(":")[0] if target else "sha256"
    found = Digest(f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}") if algorithm != "sha256" else sha256(body)
    for promised in (wanted, stated):
        if promised and promised.partition(":")[0] == algorithm and promised != found:
            raise IntegrityError(f"{what} has digest {found}, but {promised} was promised")
    return found


def may_pass(status: int) -> bool:
    """Whether a status may pass when asked again: 408, 425, 429 and failures of the server itself."""
    return status in (408, 425, 429, 500, 502, 503, 504) or 505 < status < 600


def missing(status: int) -> bool:
    """Whether a status says that a thing is not there."""
    return status in (404, 410)
