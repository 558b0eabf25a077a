"""kedge manifest inspect: what a name points at: an index, its platforms and attestations, or one image."""

import json
from typing import Any, Final

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.spelling import size
from kedge.cli.table import Column, table

_REFERENCE: Final = "vnd.docker.reference"
COLUMNS: Final = (Column("Platform", "PLATFORM"), Column("Digest", "DIGEST"), Column("Size", "SIZE"))


def work(options: Options, console: Console) -> int:
    data, digest = _read(options, console)
    if options.format != "table":
        console.print(json.dumps(json.loads(data), indent=3 if options.format is None else None, ensure_ascii=False))
        return 0
    document = json.loads(data)
    console.print(f"Name:       {options.image}")
    console.print(f"Digest:     {digest}")
    console.print(f"MediaType:  {document.get('mediaType', '')}")
    console.print()
    for line in table(_rows(document)):
        console.print(line)
    return 0


def _read(options: Options, console: Console) -> tuple[bytes, str]:
    """The document's bytes and digest."""
    from kedge.model.reference import parse_reference

    if options.local:
        from kedge.images.lookup import find

        target = find(console.store(), options.image).target
        return console.store().blobs.read(target.digest), target.digest
    document = console.registry().manifest(parse_reference(options.image))
    return document.data, document.digest


def _rows(document: dict[str, Any]) -> list[list[str]]:
    """An index's images with their attestations below them, or an image's layers."""
    if "manifests" not in document:
        rows = [["LAYER", "DIGEST", "SIZE"]]
        return rows + [
            [str(n), each["digest"], size(each["size"])] for n, each in enumerate(document.get("layers", []))
        ]
    rows = [["PLATFORM", "DIGEST", "SIZE"]]
    about: dict[str, list[Any]] = {}
    for entry in document["manifests"]:
        notes = entry.get("annotations") or {}
        about.setdefault(notes.get(f"{_REFERENCE}.digest", ""), []).append(entry)
    for entry in about.pop("", []):
        rows.append([_platform(entry), entry["digest"], size(entry["size"])])
        rows += [[f"  {_kind(each)}", each["digest"], size(each["size"])] for each in about.pop(entry["digest"], [])]
    return rows + [[_kind(each), each["digest"], size(each["size"])] for group in about.values() for each in group]


def _platform(entry: dict[str, Any]) -> str:
    platform = entry.get("platform") or {}
    return "/".join(filter(None, (platform.get(key) for key in ("os", "architecture", "variant")))) or "any"


def _kind(entry: dict[str, Any]) -> str:
    return str((entry.get("annotations") or {}).get(f"{_REFERENCE}.type", "attestation"))[:40].removesuffix("-manifest")


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
