"""An inventory as an SPDX 2.3 document in JSON.

Owns identifiers, relationships and what may stand in a licence field (SPDX specification 2.3, annex D). The same
inventory gives the same bytes. Does not know how the inventory was made.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

from kedge.exporters.sbom.package import Package
from kedge.exporters.sbom.scan import Inventory

PREDICATE: Final = "https://spdx.dev/Document"
NOTHING: Final = "NOASSERTION"
# The licences that packages of distributions and languages are mostly under; others are told in a comment.
_LICENSES: Final = frozenset(
    """0BSD AFL-2.1 AGPL-3.0-only AGPL-3.0-or-later Apache-1.1 Apache-2.0 Artistic-1.0 Artistic-1.0-Perl Artistic-2.0
    BSD-1-Clause BSD-2-Clause BSD-3-Clause BSD-4-Clause BSL-1.0 BlueOak-1.0.0 CC-BY-3.0 CC-BY-4.0 CC-BY-SA-4.0 CC0-1.0
    CDDL-1.0 CPL-1.0 EPL-1.0 EPL-2.0 FTL GFDL-1.3-or-later GPL-1.0-or-later GPL-2.0-only GPL-2.0-or-later GPL-3.0-only
    GPL-3.0-or-later HPND ICU IJG ISC LGPL-2.0-only LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only
    LGPL-3.0-or-later Libpng MIT MIT-0 MPL-1.1 MPL-2.0 MS-PL NCSA OFL-1.1 OLDAP-2.8 OpenSSL PHP-3.01 PSF-2.0
    PostgreSQL Python-2.0 Ruby Sleepycat TCL UPL-1.0 Unicode-3.0 Unicode-DFS-2016 Unlicense Vim W3C WTFPL X11 ZPL-2.1
    Zlib bzip2-1.0.6 curl libtiff zlib-acknowledgement""".split()
)
_WORD = re.compile(r"[A-Za-z0-9.+-]+|[()]")
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")


def document(inventory: Inventory, name: str, version: str, created: str, tool: str) -> dict[str, Any]:
    """The predicate: an image `name` of `version` (its digest) that contains the packages. `created` is RFC 3339."""
    packages = [_package(package) for package in inventory.packages]
    root = _root(inventory, name, version)
    namespace = hashlib.sha256(repr((name, version, inventory)).encode("utf-8", "replace")).hexdigest()
    comment = {"comment": "The image holds more than was looked at: a bound was met."} if inventory.truncated else {}
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name or "image",
        "documentNamespace": f"https://kedge.invalid/spdx/{namespace}",
        "creationInfo": {"created": created, "creators": [f"Tool: {tool}"]},
        **comment,
        "packages": [root, *packages],
        "relationships": [_relation("SPDXRef-DOCUMENT", "DESCRIBES", root["SPDXID"])]
        + [_relation(root["SPDXID"], "CONTAINS", package["SPDXID"]) for package in packages],
    }


def _root(inventory: Inventory, name: str, version: str) -> dict[str, Any]:
    out = {
        "SPDXID": "SPDXRef-Image",
        "name": name or "image",
        "versionInfo": version,
        "downloadLocation": NOTHING,
        "filesAnalyzed": False,
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
        "primaryPackagePurpose": "CONTAINER",
    }
    return out | ({"comment": f"Operating system: {inventory.system.distro}"} if inventory.system.id else {})


def _package(package: Package) -> dict[str, Any]:
    declared = _license(package.license)
    name = f"{package.namespace}/{package.name}" if package.kind in ("npm", "golang") and package.namespace else ""
    out: dict[str, Any] = {
        "SPDXID": _identifier(package),
        "name": name or package.name,
        "versionInfo": package.version,
        "supplier": _supplier(package),
        "downloadLocation": NOTHING,
        "filesAnalyzed": False,
        "sourceInfo": f"from /{_shown(package.found)}" + (f", built from {package.source}" if package.source else ""),
        "licenseConcluded": NOTHING,
        "licenseDeclared": declared,
        "copyrightText": NOTHING,
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": package.url}
        ],
    }
    if package.license and declared == NOTHING:
        out["licenseComments"] = f"The package says: {package.license}"
    if not package.version:
        del out["versionInfo"]
    return out


def _identifier(package: Package) -> str:
    """Unique, stable, and of the letters that SPDX allows."""
    text = _UNSAFE.sub("-", f"{package.kind}-{package.name}")[:80]
    digest = hashlib.sha256(f"{package.url} {_shown(package.found)}".encode()).hexdigest()
    return f"SPDXRef-Package-{text}-{digest[:16]}"


def _shown(path: str) -> str:
    """A path of any bytes as text."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _supplier(package: Package) -> str:
    if package.kind in ("deb", "apk", "rpm"):
        return f"Organization: {package.supplier or package.namespace}"
    return f"Person: {package.supplier}" if package.supplier else NOTHING


def _license(text: str) -> str:
    """The text if it is an expression over licences that are known here, else NOASSERTION."""
    words: Sequence[str] = _WORD.findall(text)
    if not words or "".join(words) != text.replace(" ", "") or text.count("(") != text.count(")"):
        return NOTHING
    operands = [word for word in words if word not in ("(", ")")]
    alternating = all((word in ("AND", "OR")) == bool(index % 2) for index, word in enumerate(operands))
    known = all(word in _LICENSES for word in operands[::2])
    return text if alternating and known and len(operands) % 2 else NOTHING


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
