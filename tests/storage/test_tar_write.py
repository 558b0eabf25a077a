"""Layers as tar: deterministic, minimal, and read alike by everyone."""

import hashlib
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from kedge.kernel import identity
from kedge.model.errors import StoreError
from kedge.storage import ownership
from kedge.storage.ownership import Policy
from kedge.storage.tar_read import unpack
from kedge.storage.tar_write import TarOptions, write_tar

needs_root = pytest.mark.skipif(not identity.current().privileged, reason="needs root: real owners, devices, trusted.*")
NAN = 10**9


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A layer with every kind of file that an ordinary user can make."""
    root = tmp_path / "tree"
    (root / "d/sub").mkdir(parents=True)
    (root / "d/file").write_bytes(b"x" * 1000)
    (root / "d/other").hardlink_to(root / "d/file")
    (root / "d/sub" / ("n" * 120)).write_bytes(b"")
    (root / ("l" * 60) / ("m" * 60)).mkdir(parents=True)
    (root / ("l" * 60) / ("m" * 60) / "f").write_text("split")
    (root / "café").write_text("utf-8")
    (root / "link").symlink_to("d/file")
    (root / "long").symlink_to("t" * 300)
    os.mkfifo(root / "pipe")
    (root / "d.txt").write_text("sorts after d")
    (root / "d/file").chmod(0o4711)
    # Not rglob: before Python 3.11.4 it fails at a link whose target is too long to be a name.
    inside = [Path(folder, name) for folder, folders, files in os.walk(root) for name in folders + files]
    for path in [*inside, root]:
        os.utime(path, ns=(5 * NAN, 1_600_000_000 * NAN + 999_999_999), follow_symlinks=False)
    return root


def written(root: Path | int, options: TarOptions | None = None) -> bytes:
    out = io.BytesIO()
    done = write_tar(root, out, options)
    assert done.bytes == len(out.getvalue())
    return out.getvalue()


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def facts(root: Path) -> list[object]:
    """All that a layer is, but directories' sizes and access times."""
    found: list[object] = []
    # Not rglob, which fails at links to long names before Python 3.12.
    names = [Path(place, name) for place, inner, files in os.walk(root) for name in (*inner, *files)]
    for path in sorted(names):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        link = os.readlink(path) if path.is_symlink() else ""
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        links = 1 if stat.S_ISDIR(status.st_mode) else status.st_nlink
        found.append((str(path.relative_to(root)), status.st_mode, status.st_uid, status.st_gid, status.st_rdev,
                      status.st_mtime_ns // NAN, links, content, link, attributes))  # fmt: skip
    return found


def unpacked(data: bytes, target: Path) -> Path:
    target.mkdir()
    fd = os.open(target, os.O_RDONLY)
    try:
        unpack(io.BytesIO(data), fd, layer=True)
    finally:
        os.close(fd)
    return target


def test_comes_back_the_same(tree: Path, tmp_path: Path) -> None:
    assert facts(unpacked(written(tree), tmp_path / "back")) == facts(tree)


def test_gnu_tar_reads_the_same(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "back").mkdir()
    subprocess.run(["tar", "-xpf", "-", "--xattrs"], input=written(tree), cwd=tmp_path / "back", check=True)
    assert facts(tmp_path / "back") == facts(tree)


def test_pythons_tarfile_reads_the_same(tree: Path) -> None:
    found = members(written(tree))
    assert found["d/other"].islnk()
    assert found["d/other"].linkname == "d/file"
    assert found["café"].size == 5
    assert found["long"].linkname == "t" * 300
    assert found["pipe"].isfifo()
    assert oct(found["d/file"].mode) == "0o4711"


def test_names_come_sorted_parents_first(tree: Path) -> None:
    names = [name for name in members(written(tree)) if name[0] == "d"]
    assert names == ["d", "d/file", "d/other", "d/sub", "d/sub/" + "n" * 120, "d.txt"]


def test_only_what_ustar_cannot_say_has_a_pax_header(tree: Path) -> None:
    found = members(written(tree))
    assert {name for name, member in found.items() if member.pax_headers} == {"d/sub/" + "n" * 120, "café", "long"}


def test_bytes_depend_on_the_tree_alone(tree: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", str(tree), str(tmp_path / "copy")], check=True)
    fd = os.open(tmp_path / "copy", os.O_PATH)
    try:
        assert written(tree) == written(tmp_path / "copy") == written(fd)
    finally:
        os.close(fd)


def test_times_are_clamped_to_whole_seconds(tree: Path) -> None:
    os.utime(tree / "d.txt", (1, 1))
    found = members(written(tree, TarOptions(clamp=1_500_000_000)))
    assert (found["d"].mtime, found["d.txt"].mtime) == (1_500_000_000, 1)
    assert members(written(tree))["d"].mtime == 1_600_000_000


def test_times_before_1970_survive(tree: Path, tmp_path: Path) -> None:
    os.utime(tree / "d.txt", (-5, -5))
    assert (unpacked(written(tree), tmp_path / "back") / "d.txt").stat().st_mtime == -5


def test_the_root_has_an_entry_only_on_request(tree: Path) -> None:
    assert "." not in members(written(tree))
    assert next(iter(members(written(tree, TarOptions(root=True))))) == "."


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with open(os.fsencode(tmp_path) + b"/t/\xff\xfe", "wb"):
        pass
    assert os.listdir(os.fsencode(unpacked(written(tmp_path / "t"), tmp_path / "back"))) == [b"\xff\xfe"]


def test_sockets_are_left_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        previous = os.getcwd()
        os.chdir(tmp_path)
        try:
            listener.bind("s")
        finally:
            os.chdir(previous)
        assert members(written(tmp_path)) == {}


def test_a_file_larger_than_ustar_can_say(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate((8 << 30) + 1)

    class Enough(Exception):
        pass

    class First(io.BytesIO):
        def write(self, data: object) -> int:
            if self.tell() > 4096:
                raise Enough
            return super().write(data)  # type: ignore[arg-type]

    out = First()
    with pytest.raises(Enough):
        write_tar(tmp_path, out)
    assert b"size=8589934593\n" in out.getvalue()


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(5 << 20))

    class Shrinks:
        def write(self, data: object) -> None:
            os.truncate(tmp_path / "f", 10)

    with pytest.raises(StoreError, match="changed"):
        write_tar(tmp_path, Shrinks())


def test_attributes_of_the_image_travel_and_ours_do_not(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/f").write_text("x")
    os.setxattr(tmp_path / "t/f", "user.b", b"2\0\xff")
    os.setxattr(tmp_path / "t/f", "user.a", b"1")
    os.setxattr(tmp_path / "t/f", "user.kedge.owner", b"1:2")
    back = unpacked(written(tmp_path / "t"), tmp_path / "back")
    assert {name: os.getxattr(back / "f", name) for name in os.listxattr(back / "f") if "kedge" not in name} == {
        "user.a": b"1",
        "user.b": b"2\0\xff",
    }


def test_recorded_owners_are_written_where_there_is_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "policy", lambda: Policy.SINGLE)
    for name, record in (("f", b"1000:50"), ("null", b"0:0:c:1:3"), ("bad", b"-1:x"), ("dir", b"7:8")):
        (tmp_path / name).mkdir() if name == "dir" else (tmp_path / name).write_text("")
        os.setxattr(tmp_path / name, "user.kedge.owner", record)
    found = members(written(tmp_path))
    assert (found["f"].uid, found["f"].gid) == (1000, 50)
    assert found["null"].ischr()
    assert (found["null"].devmajor, found["null"].devminor) == (1, 3)
    assert found["bad"].uid == os.getuid()
    assert found["dir"].gid == 8
    monkeypatch.setattr(ownership, "policy", lambda: Policy.REAL)
    assert members(written(tmp_path))["f"].uid == os.getuid()


@needs_root
def test_whiteouts_and_opaque_directories_go_there_and_back(tmp_path: Path) -> None:
    root = tmp_path / "t"
    (root / "d").mkdir(parents=True)
    os.setxattr(root / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(root / "d", "trusted.overlay.origin", b"zzz")
    (root / "d/f").write_text("new")
    os.mknod(root / "gone", stat.S_IFCHR, 0)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(root / "d/f", 3_000_000, 5)
    assert list(members(written(root))) == ["d", "d/.wh..wh..opq", "d/f", ".wh.gone", "null"]
    os.removexattr(root / "d", "trusted.overlay.origin")
    assert facts(unpacked(written(root), tmp_path / "back")) == facts(root)


@needs_root
def test_capabilities_travel(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/ping").write_text("x")
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
    os.setxattr(tmp_path / "t/ping", "security.capability", capability)
    assert (
        os.getxattr(unpacked(written(tmp_path / "t"), tmp_path / "back") / "ping", "security.capability") == capability
    )


@needs_root
def test_escaped_overlay_attributes_are_the_images_own_again(tmp_path: Path) -> None:
    (tmp_path / "t/d").mkdir(parents=True)
    os.setxattr(tmp_path / "t/d", "trusted.overlay.overlay.opaque", b"y")
    assert members(written(tmp_path / "t"))["d"].pax_headers == {"SCHILY.xattr.trusted.overlay.opaque": "y"}


@needs_root
def test_umoci_unpacks_what_was_written(tree: Path, tmp_path: Path) -> None:
    if not shutil.which("umoci"):
        pytest.skip("umoci is not installed (apt-get install umoci)")
    layout = tmp_path / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layer = blob(written(tree), "layer.v1.tar")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {"schemaVersion": 2, "config": blob(json.dumps(config).encode(), "config.v1+json"), "layers": [layer]}
    reference = blob(json.dumps(manifest).encode(), "manifest.v1+json") | {
        "annotations": {"org.opencontainers.image.ref.name": "t"}
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [reference]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    subprocess.run(
        ["umoci", "unpack", "--image", f"{layout}:t", str(tmp_path / "bundle")], check=True, capture_output=True
    )
    assert facts(tmp_path / "bundle/rootfs") == facts(tree)
