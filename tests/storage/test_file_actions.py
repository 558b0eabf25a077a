"""mkfile, mkdir, rm and symlink of BuildKit's file op, inside a root."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.kernel import identity
from kedge.model import ops
from kedge.model.errors import Conflict, InvalidInput, KedgeError, NotFound
from kedge.storage.file_actions import make_dir, make_file, remove, symlink
from kedge.storage.ownership import Ids


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "root/d").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/keep").write_text("keep")
    (tmp_path / "root/out").symlink_to(tmp_path / "outside")
    return tmp_path / "root"


@pytest.fixture
def root(base: Path) -> Iterator[int]:
    fd = os.open(base, os.O_PATH)
    yield fd
    os.close(fd)
    assert os.listdir(base.parent / "outside") == ["keep"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_makes_a_file(base: Path, root: int) -> None:
    make_file(ops.MakeFile("/d/f", b"data", 0o640, timestamp=5 * 10**9), root)
    assert ((base / "d/f").read_bytes(), mode(base / "d/f"), (base / "d/f").stat().st_mtime) == (b"data", 0o640, 5)


def test_a_files_mode_survives_rewriting(base: Path, root: int) -> None:
    (base / "f").write_text("a longer text")
    (base / "f").chmod(0o711)
    (base / "l").symlink_to("/f")
    make_file(ops.MakeFile("l", b"new", 0o600), root)
    assert ((base / "f").read_bytes(), mode(base / "f")) == (b"new", 0o711)


@pytest.mark.parametrize(
    ("path", "error"), [("/no/f", NotFound), ("/d", InvalidInput), ("/out/x", NotFound), ("/", InvalidInput)]
)
def test_a_file_needs_its_parent_and_no_other_in_its_place(root: int, path: str, error: type[KedgeError]) -> None:
    with pytest.raises(error):
        make_file(ops.MakeFile(path, b"", 0o644), root)


def test_a_fifo_is_not_written_to(base: Path, root: int) -> None:
    os.mkfifo(base / "pipe")
    with pytest.raises(InvalidInput):
        make_file(ops.MakeFile("pipe", b"x", 0o644), root)


def test_makes_directories(base: Path, root: int) -> None:
    make_dir(ops.MakeDir("/a/b/c", 0o710, parents=True, timestamp=7 * 10**9), root)
    assert [(mode(base / name), (base / name).stat().st_mtime) for name in ("a", "a/b", "a/b/c")] == [(0o710, 7)] * 3
    make_dir(ops.MakeDir("/d", 0o700), root)
    assert mode(base / "d") == 0o755
    make_dir(ops.MakeDir("/d/e", 0o1777), root)
    assert mode(base / "d/e") == 0o777
    with pytest.raises(NotFound):
        make_dir(ops.MakeDir("/no/x", 0o755), root)
    make_dir(ops.MakeDir("/out/x", 0o755, parents=True), root)
    (base / "f").touch()
    with pytest.raises(InvalidInput):
        make_dir(ops.MakeDir("/f/x", 0o755, parents=True), root)


def test_removes_trees_of_any_depth_without_following_links(base: Path, root: int) -> None:
    fd = os.open(base / "d", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=fd)
        below = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.symlink("/outside", "l", dir_fd=fd)
    os.close(fd)
    (base / "d/out").symlink_to(base.parent / "outside")
    remove(ops.Remove("/d"), root)
    assert sorted(os.listdir(base)) == ["out"]
    remove(ops.Remove("out"), root)
    assert os.listdir(base) == []


def test_removes_by_wildcard(base: Path, root: int) -> None:
    for name in ("a1", "a2", "b"):
        (base / "d" / name).touch()
    remove(ops.Remove("/d/a*", wildcard=True), root)
    assert os.listdir(base / "d") == ["b"]
    remove(ops.Remove("/d/a*", wildcard=True), root)


def test_removing_nothing_is_an_error_unless_allowed(root: int) -> None:
    for path in ("gone", "gone/below", "out/keep"):
        with pytest.raises(NotFound):
            remove(ops.Remove(path), root)
        remove(ops.Remove(path, allow_not_found=True), root)
    with pytest.raises(InvalidInput):
        remove(ops.Remove("/"), root)


def test_makes_symlinks_with_their_target_verbatim(base: Path, root: int) -> None:
    symlink(ops.Symlink("../../../etc//x", "/d/l", timestamp=9 * 10**9), root)
    assert os.readlink(base / "d/l") == "../../../etc//x"
    assert (base / "d/l").lstat().st_mtime == 9
    with pytest.raises(Conflict):
        symlink(ops.Symlink("x", "/d/l"), root)
    with pytest.raises(NotFound):
        symlink(ops.Symlink("x", "/no/l"), root)


@pytest.mark.skipif(not identity.current().privileged, reason="needs root: owners")
def test_owners(base: Path, root: int) -> None:
    make_file(ops.MakeFile("f", b"", 0o4755), root, Ids(1, 2))
    make_dir(ops.MakeDir("x/y", 0o755, parents=True), root, Ids(1, 2))
    symlink(ops.Symlink("f", "l"), root, Ids(1, 2))
    assert {
        (path.lstat().st_uid, path.lstat().st_gid) for path in (base / "f", base / "x", base / "x/y", base / "l")
    } == {(1, 2)}
