"""One installed package, as a package manager's own records tell of it, and its package URL (purl-spec).

Owns the value. Does not know any record's format.
"""

from urllib.parse import quote

from kedge.model.value import dataclass

LONGEST = 512  # characters of a name or version that are believed


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """`kind` is purl's type (deb, apk, rpm, pypi, npm, golang); `found` the path of the record, from the root.

    `namespace` is purl's (the distribution, npm's scope, Go's path); `qualifiers` its rest. `license` is what the
    record says, in its own words; `supplier` who maintains it.
    """

    kind: str
    name: str
    version: str
    found: str
    namespace: str = ""
    qualifiers: tuple[tuple[str, str], ...] = ()
    license: str = ""
    supplier: str = ""
    source: str = ""
    checksum: str = ""  # Go's h1:…

    @property
    def url(self) -> str:
        """`pkg:deb/debian/bash@5.2?arch=amd64`."""
        path = "/".join(_quoted(part) for part in (*self.namespace.split("/"), self.name) if part)
        version = f"@{_quoted(self.version)}" if self.version else ""
        pairs = "&".join(f"{key}={_quoted(value)}" for key, value in sorted(self.qualifiers) if value)
        return f"pkg:{self.kind}/{path}{version}" + (f"?{pairs}" if pairs else "")


def _quoted(text: str) -> str:
    return quote(text, safe=".-_~:+")


def believable(text: object) -> str:
    """A name or version as one short printable line; empty for anything else."""
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST or not text.isprintable():
        return ""
    return text.strip()
