"""Cache mounts as packs: the same files come back, a change changes little, and a hostile index stays inside."""

import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.model.digest import sha256
from kedge.model.errors import IntegrityError, KedgeError
from kedge.storage.mount_packs import LEAST, MOST, MountIndex, MountPacker, PackedFile, unpack_mount


def packed(directory):
    packer = MountPacker(directory)
    packs = list(packer.packs())
    packer.index.packs = [sha256(pack) for pack in packs]
    return packer.index, packs


def restored(index, packs, target):
    target.mkdir()
    unpack_mount(MountIndex.from_bytes(index.to_bytes()), packs.__getitem__, target)
    return target


def facts(root):
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (oct(status.st_mode), int(status.st_mtime), content)
    return found


@pytest.fixture
def mount(tmp_path):
    root = tmp_path / "mount"
    (root / "d/e").mkdir(parents=True)
    for number in range(200):
        (root / f"d/f{number}").write_bytes(os.urandom(20_000))
    (root / "large").write_bytes(os.urandom(2 * MOST + 5))
    (root / "empty").write_bytes(b"")
    (root / "d/link").symlink_to("../large")
    (root / "d/toe").symlink_to("e")
    os.link(root / "d/f1", root / "hard")
    (root / "d/e").chmod(0o700)
    os.utime(root / "empty", (1_000_000_000, 1_000_000_000))
    return root


def test_the_same_files_come_back(mount, tmp_path):
    index, packs = packed(mount)
    assert all(len(pack) <= MOST for pack in packs)
    back = restored(index, packs, tmp_path / "back")
    assert facts(back) == facts(mount)
    assert (back / "hard").stat().st_ino == (back / "d/f1").stat().st_ino


def test_packing_twice_gives_the_same_packs(mount):
    assert packed(mount)[0].to_bytes() == packed(mount)[0].to_bytes()


def test_a_new_file_changes_its_own_pack_only(mount):
    before = set(packed(mount)[0].packs)
    (mount / "d/f100a").write_text("new")
    after = packed(mount)[0].packs
    new = [digest for digest in after if digest not in before]
    assert len(new) == 1
    assert len(after) > 4


def test_many_small_files_share_packs(tmp_path):
    root = tmp_path / "mount"
    root.mkdir()
    for number in range(500):
        (root / f"f{number}").write_bytes(b"x" * 5000)
    assert len(packed(root)[1]) <= 500 * 5000 // LEAST + 1


@pytest.mark.parametrize("path", ["../out", "/out", "d/../../out", "d/link/out", "..", "a\0b"])
def test_a_hostile_path_does_not_leave_the_directory(tmp_path, path):
    index = MountIndex(packs=[sha256(b"x")])
    index.files = [
        PackedFile("d", "d", 0o755, 0, 0, 0),
        PackedFile("d/link", "l", 0o777, 0, 0, 0, str(tmp_path)),
        PackedFile(path, "f", 0o644, 0, 0, 0, "", [(0, 0, 1)]),
    ]
    (tmp_path / "in").mkdir()
    with contextlib.suppress(KedgeError):
        unpack_mount(MountIndex.from_bytes(index.to_bytes()), lambda number: b"x", tmp_path / "in")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in"]


def test_a_pack_that_is_too_short_is_an_error(tmp_path):
    index = MountIndex([PackedFile("f", "f", 0o644, 0, 0, 0, "", [(0, 5, 10)])], [sha256(b"x")])
    with pytest.raises(IntegrityError):
        restored(index, [b"short"], tmp_path / "back")


@pytest.mark.parametrize("entry", [["f", "x", 0, 0, 0, 0, "", []], ["f", "f", 0, 0, 0, 0, "", [[1, 0, 1]]], ["f"], 7])
def test_an_index_that_cannot_be_followed_is_refused(entry):
    with pytest.raises(IntegrityError):
        MountIndex.from_bytes(json.dumps({"packs": [sha256(b"")], "files": [entry]}).encode())


def test_an_index_without_a_bottom_is_refused():
    with pytest.raises(IntegrityError):
        MountIndex.from_bytes(b"[" * 100_000)


@given(st.binary(max_size=100))
def test_any_bytes_are_an_index_or_refused(data):
    with contextlib.suppress(IntegrityError):
        MountIndex.from_bytes(data)


@pytest.mark.parametrize(("name", "number"), [("\ud800", 0), ("f", 10**30), ("f", -(10**30))])
def test_what_no_archive_can_hold_is_refused(tmp_path, name, number):
    index = MountIndex([PackedFile(name, "f", 0o644, number, number, number * 10**9)])
    try:
        restored(index, [], tmp_path / "back")
    except KedgeError:
        return
    assert name == "f"
