"""kedge manifest inspect: what a name points at: an index, its platforms and attestations, or one image."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.spelling import size
from kedge.cli.table import Column, table
from kedge.model.digest import Digest

if TYPE_CHECKING:
    from kedge.model.image import Descriptor

_REFERENCE: Final = "vnd.docker.reference"
COLUMNS: Final = (Column("Platform", "PLATFORM"), Column("Digest", "DIGEST"), Column("Size", "SIZE"))


def work(options: Options, console: Console) -> int:
    place = _Store(console) if options.local else _Registry(console, options.image)
    data, digest = place.document(options.image)
    if options.format != "table":
        console.print(json.dumps(json.loads(data), indent=3 if options.format is None else None, ensure_ascii=False))
        return 0
    document = json.loads(data)
    console.print(f"Name:       {options.image}")
    console.print(f"Digest:     {digest}")
    console.print(f"MediaType:  {document.get('mediaType', '')}")
    console.print()
    for line in table(_rows(document, digest, place)):
        console.print(line)
    return 0


class _Store:
    """Documents of the store."""

    def __init__(self, console: Console) -> None:
        self._store = console.store()

    def document(self, name: str) -> tuple[bytes, str]:
        from kedge.images.lookup import find

        target = find(self._store, name).target
        return self._store.blobs.read(target.digest), target.digest

    def manifest(self, digest: Digest) -> bytes:
        return self._store.blobs.read(digest)

    def referrers(self, digest: Digest) -> "Sequence[Descriptor]":
        return self._store.images.referrers(digest)


class _Registry:
    """Documents of a registry."""

    def __init__(self, console: Console, name: str) -> None:
        from kedge.model.reference import parse_reference

        self._registry, self._name = console.registry(), parse_reference(name)

    def document(self, name: str) -> tuple[bytes, str]:
        document = self._registry.manifest(self._name)
        return document.data, document.digest

    def manifest(self, digest: Digest) -> bytes:
        return self._registry.manifest(self._name.with_digest(digest)).data

    def referrers(self, digest: Digest) -> "Sequence[Descriptor]":
        return self._registry.referrers(self._name, digest).manifests


def _rows(document: dict[str, Any], digest: str, place: "_Store | _Registry") -> list[list[str]]:
    """An index's images with their attestations below them, or an image's layers and then its attestations."""
    if "manifests" not in document:
        rows = [["LAYER", "DIGEST", "SIZE"]]
        layers = enumerate(document.get("layers", []))
        rows += [[str(number), each["digest"], size(each["size"])] for number, each in layers]
        return rows + _attestations(Digest(digest), [], place)
    rows = [["PLATFORM", "DIGEST", "SIZE"]]
    about: dict[str, list[Any]] = {}
    for entry in document["manifests"]:
        notes = entry.get("annotations") or {}
        about.setdefault(notes.get(f"{_REFERENCE}.digest", ""), []).append(entry)
    for entry in about.pop("", []):
        rows.append([_platform(entry), entry["digest"], size(entry["size"])])
        rows += _attestations(entry["digest"], about.pop(entry["digest"], []), place)
    rows += _attestations(Digest(digest), [], place)  # what refers to the index as a whole
    return rows + [[_kind(each), each["digest"], size(each["size"])] for group in about.values() for each in group]


def _attestations(subject: Digest, entries: list[Any], place: "_Store | _Registry") -> list[list[str]]:
    """A line for each statement about an image: those of the index, and those that only refer to it."""
    rows, known = [], {entry["digest"] for entry in entries}
    entries = entries + [each.to_json() for each in place.referrers(subject) if each.digest not in known]
    for entry in entries:
        kind, digest, length = _kind(entry), entry["digest"], entry["size"]
        statements = _statements(place, digest)
        rows += [[f"  {name or kind}", each, size(many)] for name, each, many in statements or [(kind, digest, length)]]
    return rows


def _statements(place: "_Store | _Registry", digest: Digest) -> list[tuple[str, str, int]]:
    """(kind, digest, size) of what an attestation manifest holds; nothing if it cannot be read."""
    from kedge.model.errors import KedgeError
    from kedge.model.image import Manifest

    try:
        layers = Manifest.from_bytes(place.manifest(digest)).layers
    except KedgeError:
        return []
    kinds = [(dict(layer.annotations).get("in-toto.io/predicate-type", ""), layer) for layer in layers]
    return [(_spoken(kind), layer.digest, layer.size) for kind, layer in kinds]


def _spoken(predicate: str) -> str:
    if predicate.startswith("https://slsa.dev/provenance/"):
        return "provenance"
    return {"https://spdx.dev/Document": "sbom"}.get(predicate, predicate[:40])


def _platform(entry: dict[str, Any]) -> str:
    platform = entry.get("platform") or {}
    return "/".join(filter(None, (platform.get(key) for key in ("os", "architecture", "variant")))) or "any"


def _kind(entry: dict[str, Any]) -> str:
    notes = entry.get("annotations") or {}
    kind = notes.get(f"{_REFERENCE}.type") or entry.get("artifactType") or "attestation"
    return str(kind)[:40].removesuffix("-manifest")


COMMAND = Command(
    "manifest inspect",
    "Show what a name points at: an index and its platforms, or a manifest",
    work,
    (
        Flag("format", "The document as it is indented, as json in one line, or as a table", metavar="FORMAT",
             choices=("json", "table")),
        Flag("local", "Look in the store instead of the registry"),
    ),
    (Argument("IMAGE", complete="image"),),
    examples=(("kedge manifest inspect --format table alpine:3.20", "its platforms and attestations"),),
)  # fmt: skip
