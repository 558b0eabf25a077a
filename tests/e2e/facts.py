"""What an image is, as plain values to compare: read from an OCI layout by Python's own tarfile, nothing of Kedge's.

One line of text for each file: kind, mode, owner, content, extended attributes; hard links by the first of their names.
Times are part of it only where they come from the case's data (the year 2001, see `world.THEN`).
"""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

_OLD = 1_500_000_000
_SHOWN = 300  # bytes; longer content is told by its digest


@dataclass(frozen=True)
class Node:
    """A file of the merged tree; two names of one file are one object."""

    kind: str
    mode: int
    owner: str
    content: str = ""
    xattrs: tuple[tuple[str, str], ...] = ()
    mtime: int = 0

    def __str__(self) -> str:
        parts = [self.kind, f"{self.mode:o}" if self.kind != "symlink" else "", self.owner, self.content]
        parts += [f"{name}={value!r}" for name, value in self.xattrs]
        if self.kind == "file" and self.mtime < _OLD:
            parts.append(f"@{self.mtime}")
        return " ".join(part for part in parts if part)


@dataclass
class Facts:
    """An image: its tree (path -> line), config, history of what was built on top of its base, number of layers."""

    tree: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    layers: int = 0

    def without(self, base: "Facts") -> dict[str, Any]:
        """What this image has that its base has not: the form of expected.json."""
        made = {path: line for path, line in self.tree.items() if base.tree.get(path) != line}
        gone = sorted(path for path in base.tree if path not in self.tree)
        out: dict[str, Any] = {"tree": made}
        if gone:
            out["gone"] = gone
        return out | {
            "config": self.config,
            "history": self.history[len(base.history) :],
            "layers": self.layers - base.layers,
        }


def read_layout(folder: Path) -> Facts:
    """The facts of the only image in an OCI layout."""
    index = json.loads((folder / "index.json").read_text())
    document = index
    while "layers" not in document:
        (entry,) = [e for e in document["manifests"] if "attestation" not in json.dumps(e.get("annotations", {}))]
        document = json.loads(_blob(folder, entry["digest"]))
    config = json.loads(_blob(folder, document["config"]["digest"]))
    merged: dict[str, Node] = {}
    for layer, diff_id in zip(document["layers"], config["rootfs"]["diff_ids"], strict=True):
        _apply(merged, _layer(folder, layer["digest"], diff_id))
    return Facts(_lines(merged), _config(config), _history(config), len(document["layers"]))


def _blob(folder: Path, digest: str) -> bytes:
    algorithm, _, hexadecimal = digest.partition(":")
    data = (folder / "blobs" / algorithm / hexadecimal).read_bytes()
    assert hashlib.sha256(data).hexdigest() == hexadecimal
    return data


_layers: dict[str, list[tuple[str, Node | str]]] = {}


def _layer(folder: Path, digest: str, diff_id: str) -> list[tuple[str, Node | str]]:
    """The entries of a layer, in order: (path, node), or (path, the path of a hard link's first name)."""
    if diff_id not in _layers:
        data = _blob(folder, digest)
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        assert "sha256:" + hashlib.sha256(data).hexdigest() == diff_id
        _layers[diff_id] = _entries(data)
    return _layers[diff_id]


def _entries(data: bytes) -> list[tuple[str, Node | str]]:
    entries: list[tuple[str, Node | str]] = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            path = entry.name.removeprefix("./").strip("/")
            if entry.islnk():
                entries.append((path, entry.linkname.removeprefix("./").strip("/")))
            elif path and path != ".":
                file = archive.extractfile(entry) if entry.isfile() else None
                entries.append((path, _node(entry, file.read() if file else b"")))
    return entries


def _node(entry: tarfile.TarInfo, data: bytes) -> Node:
    prefix = "SCHILY.xattr."
    xattrs = tuple(
        sorted((key[len(prefix) :], value) for key, value in entry.pax_headers.items() if key.startswith(prefix))
    )
    kinds = {tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink", tarfile.FIFOTYPE: "fifo", tarfile.CHRTYPE: "char"}
    kind = kinds.get(entry.type, "file" if entry.isfile() else "other")
    content = {
        "file": _content(data),
        "symlink": f"-> {entry.linkname}",
        "char": f"{entry.devmajor}:{entry.devminor}",
    }.get(kind, "")
    return Node(kind, entry.mode & 0o7777, f"{entry.uid}:{entry.gid}", content, xattrs, int(entry.mtime))


def _content(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if len(data) <= _SHOWN and (text or not data):
        return json.dumps(text, ensure_ascii=False)
    return f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:16]}"


def _apply(merged: dict[str, Node], entries: list[tuple[str, Node | str]]) -> None:
    """Put a layer on top, by the image specification's layer.md: whiteouts first, then entries."""
    for path, _ in entries:
        parent, _, name = path.rpartition("/")
        if name == ".wh..wh..opq":
            _remove_below(merged, parent)
        elif name.startswith(".wh."):
            victim = f"{parent}/{name[4:]}".lstrip("/")
            _remove_below(merged, victim)
            merged.pop(victim, None)
    for path, node in entries:
        if path.rpartition("/")[2].startswith(".wh."):
            continue
        if isinstance(node, str):
            merged[path] = merged[node]
            continue
        if node.kind != "dir":
            _remove_below(merged, path)
        merged[path] = replace(node)  # an object of its own: names of one file are found by identity


def _remove_below(merged: dict[str, Node], path: str) -> None:
    prefix = f"{path}/" if path else ""
    for name in [name for name in merged if name.startswith(prefix)]:
        del merged[name]


def _lines(merged: dict[str, Node]) -> dict[str, str]:
    first: dict[int, str] = {}
    lines = {}
    for path in sorted(merged):
        node = merged[path]
        known = first.setdefault(id(node), path)
        lines[path] = str(node) if known == path else f"hard link to {known}"
    return lines


def _config(document: dict[str, Any]) -> dict[str, Any]:
    config = {key: value for key, value in (document.get("config") or {}).items() if value or value == []}
    if document.get("author"):
        config["author"] = document["author"]
    return dict(sorted(config.items()))


def _history(document: dict[str, Any]) -> list[str]:
    return [
        entry.get("created_by", "")
        + (f" [comment {entry.get('comment')}]" if entry.get("comment") != "buildkit.dockerfile.v0" else "")
        + (" (empty)" if entry.get("empty_layer") else "")
        for entry in document.get("history") or []
    ]


@lru_cache(maxsize=16)
def read_layout_once(folder: Path) -> Facts:
    """`read_layout` of a layout that does not change."""
    return read_layout(folder)
