"""eStargz layers, read back by this file's own reader from the format's description: footer, table, members."""

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from kedge.model.errors import IntegrityError
from kedge.storage.estargz import CHUNK, write_estargz
from kedge.storage.tar_write import TarOptions, write_tar

CLAMP = 315532801


def member(blob: bytes, offset: int) -> bytes:
    """The one gzip member at an offset."""
    reader = zlib.decompressobj(31)
    data = reader.decompress(blob[offset:])
    assert reader.eof
    return data


def table(blob: bytes) -> tuple[dict[str, Any], bytes]:
    """The table of contents by way of the footer."""
    footer = blob[-51:]
    assert footer[:4] == b"\x1f\x8b\x08\x04"
    assert footer[10:16] == b"\x1a\x00SG\x16\x00"
    assert footer[32:38] == b"STARGZ"
    assert gzip.decompress(footer) == b""
    with tarfile.open(fileobj=io.BytesIO(member(blob, int(footer[16:32], 16)))) as archive:
        entry = archive.next()
        assert entry is not None
        assert entry.name == "stargz.index.json"
        file = archive.extractfile(entry)
        assert file is not None
        data = file.read()
    return json.loads(data), data


def contents(blob: bytes) -> dict[str, bytes]:
    """Every file, read chunk by chunk as a lazy reader would."""
    toc, _ = table(blob)
    assert toc["version"] == 1
    found: dict[str, bytes] = {}
    for entry in toc["entries"]:
        if entry["type"] == "reg":
            found[entry["name"]] = b""
        if "offset" in entry:
            data = member(blob, entry["offset"])
            if "chunkSize" in entry:
                assert entry["chunkSize"] == len(data)
            assert entry["chunkDigest"] == "sha256:" + hashlib.sha256(data).hexdigest()
            assert entry.get("chunkOffset", 0) == len(found[entry["name"]])
            found[entry["name"]] += data
    for entry in toc["entries"]:
        if entry["type"] == "reg":
            assert entry["digest"] == "sha256:" + hashlib.sha256(found[entry["name"]]).hexdigest()
            assert entry.get("size", 0) == len(found[entry["name"]])
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    (root / "d" / "small").write_bytes(b"small\n")
    (root / "d" / "empty").touch()
    (root / "large").write_bytes(os.urandom(CHUNK + 12345))
    (root / "exact").write_bytes(b"x" * (2 * CHUNK))
    (root / "link").symlink_to("d/small")
    os.link(root / "d" / "small", root / "d" / "twin")
    os.setxattr(root / "d" / "small", "user.note", b"\x00\xff")
    (root / "d" / ("long" * 40)).write_bytes(b"long")
    return root


def made(tree: Path, level: int | None = None) -> tuple[bytes, bytes, Any]:
    plain, out = io.BytesIO(), io.BytesIO()
    write_tar(tree, plain, TarOptions(clamp=CLAMP))
    plain.seek(0)
    written = write_estargz(plain, out, level)
    return plain.getvalue(), out.getvalue(), written


def test_it_is_a_gzip_tar_to_all_others(tree: Path) -> None:
    plain, blob, written = made(tree)
    data = gzip.decompress(blob)
    assert written.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert written.size == len(data)
    with tarfile.open(fileobj=io.BytesIO(plain)) as before, tarfile.open(fileobj=io.BytesIO(data)) as after:
        names = after.getnames()
        assert names == [".no.prefetch.landmark", *before.getnames(), "stargz.index.json"]
        for one, other in zip(before.getmembers(), after.getmembers()[1:], strict=False):
            assert (one.name, one.mode, one.uid, one.mtime, one.type, one.linkname, one.pax_headers) == (
                other.name, other.mode, other.uid, other.mtime, other.type, other.linkname, other.pax_headers,
            )  # fmt: skip


def test_every_file_is_read_alone(tree: Path) -> None:
    _, blob, written = made(tree)
    found = contents(blob)
    assert found.pop(".no.prefetch.landmark") == b"\x0f"
    regular = {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file() and not p.is_symlink()}
    regular.pop("d/twin")  # a hard link
    assert found == regular
    toc, data = table(blob)
    assert written.toc == "sha256:" + hashlib.sha256(data).hexdigest()
    entries = {entry["name"]: entry for entry in toc["entries"] if entry["type"] != "chunk"}
    assert entries["link"]["linkName"] == "d/small"
    assert entries["d/twin"] == {**entries["d/twin"], "type": "hardlink", "linkName": "d/small"}
    assert base64.b64decode(entries["d/small"]["xattrs"]["user.note"]) == b"\x00\xff"
    assert entries["d/"]["type"] == "dir"
    assert entries["large"]["modtime"] == "1980-01-01T00:00:01Z"
    assert len([e for e in toc["entries"] if e["name"] == "exact"]) == 2


def test_the_same_tree_gives_the_same_bytes(tree: Path) -> None:
    assert made(tree)[1] == made(tree)[1]
    assert len(made(tree, 9)[1]) < len(made(tree, 0)[1])


def test_a_table_in_the_tar_does_not_stay(tree: Path) -> None:
    (tree / "stargz.index.json").write_text("{}")
    (tree / ".prefetch.landmark").write_text("x")
    names = [entry["name"] for entry in table(made(tree)[1])[0]["entries"]]
    assert "stargz.index.json" not in names
    assert ".prefetch.landmark" not in names


def test_what_is_no_tar_is_refused() -> None:
    with pytest.raises(IntegrityError):
        write_estargz(io.BytesIO(b"x" * 2048), io.BytesIO(), None)
