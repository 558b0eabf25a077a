"""Records of language package managers: Python's dist-info, Node's package.json and lock files.

Owns these formats. What each file says is believed only as far as it is short and printable.
"""

import email.parser
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from kedge.exporters.sbom.files import Files, Found, text_of
from kedge.exporters.sbom.package import Package, believable

_LARGEST: Final = 4 << 20  # bytes of one package's record
_LARGEST_LOCK: Final = 64 << 20
_METADATA = re.compile(r"(?:^|/)[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)$")
_MODULE = re.compile(r"(?:^|/)node_modules/(?:(@[^/]+)/)?([^/@.][^/]*)/package\.json$")
_LOCKS: Final = frozenset(("package-lock.json", ".package-lock.json", "npm-shrinkwrap.json"))


def is_python(found: Found) -> bool:
    return _METADATA.search(found.path) is not None


def is_node(found: Found) -> bool:
    return found.name in _LOCKS or (found.name == "package.json" and _MODULE.search(found.path) is not None)


def python(files: Files, found: Found) -> Iterator[Package]:
    """A distribution as pip and others record it (Core metadata; only the header counts)."""
    data = files.read(found.path, _LARGEST) or b""
    head = email.parser.HeaderParser().parsestr(text_of(data.partition(b"\n\n")[0]))
    name, version = believable(head.get("Name")), believable(head.get("Version"))
    if name and version:
        license = believable(head.get("License-Expression")) or believable(head.get("License"))
        normal = re.sub(r"[-_.]+", "-", name).lower()
        yield Package("pypi", normal, version, found.path, license=license, supplier=believable(head.get("Author")))


def node(files: Files, found: Found) -> Iterator[Package]:
    """An installed module, or what a lock file names."""
    value = _json(files.read(found.path, _LARGEST_LOCK if found.name in _LOCKS else _LARGEST))
    if found.name in _LOCKS:
        yield from _locked(value, found)
    elif package := _module(value.get("name"), value, found):
        yield package


def _locked(value: dict[str, Any], found: Found) -> Iterator[Package]:
    """npm's lock, versions 2 and 3 (`packages`), else 1 (`dependencies`). What is only for development is left out."""
    packages = value.get("packages")
    if isinstance(packages, dict):
        for path, entry in packages.items():
            if not isinstance(entry, dict) or "node_modules/" not in path or entry.get("dev") or entry.get("link"):
                continue
            if package := _module(entry.get("name") or path.rpartition("node_modules/")[2], entry, found):
                yield package
        return
    todo = [value.get("dependencies")]
    while todo:
        entries = todo.pop()
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            if isinstance(entry, dict) and not entry.get("dev"):
                todo.append(entry.get("dependencies"))
                if package := _module(name, entry, found):
                    yield package


def _module(name: object, entry: dict[str, Any], found: Found) -> Package | None:
    whole, version = believable(name), believable(entry.get("version"))
    if not whole or not version:
        return None
    scope, _, short = whole.rpartition("/")
    license = entry.get("license")
    if isinstance(license, dict):
        license = license.get("type")
    author = entry.get("author")
    if isinstance(author, dict):
        author = author.get("name")
    return Package("npm", short, version, found.path, scope, license=believable(license), supplier=believable(author))


def _json(data: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(text_of(data or b""))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
