"""Content digests: what changes them, what does not, and what is not read twice."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kedge.kernel import identity
from kedge.model.cachekey import Selection
from kedge.model.digest import Digest
from kedge.model.errors import NotFound
from kedge.model.patterns import Patterns
from kedge.storage import checksum as module
from kedge.storage.checksum import checksum
from kedge.storage.tree import Tree


class Known:
    """What checksum needs of a StatCache, and how often it was asked in vain."""

    def __init__(self) -> None:
        self.digests: dict[tuple[int, ...], Digest] = {}

    def get(self, status: os.stat_result) -> Digest | None:
        return self.digests.get(module.signature(status))

    def put(self, status: os.stat_result, digest: Digest, taken_ns: int = 0) -> None:
        self.digests[module.signature(status)] = digest


def make(root: Path) -> None:
    (root / "d/sub").mkdir(parents=True)
    (root / "d/f").write_text("content")
    (root / "d/sub/g").write_text("more")
    (root / "d/l").symlink_to("f")
    (root / "big").write_bytes(b"x" * 500_000)


def of(root: Path, *selections: Selection, **options: object) -> Digest:
    fd = os.open(root, os.O_PATH)
    try:
        tree = Tree(fd, options.get("patterns"), bool(options.get("in_place")))  # type: ignore[arg-type]
        return checksum(tree, selections or (Selection("/"),), options.get("stats"))  # type: ignore[arg-type]
    finally:
        os.close(fd)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "a")
    return tmp_path / "a"


def test_equal_trees_have_equal_digests_whatever_their_times(root: Path, tmp_path: Path) -> None:
    make(tmp_path / "b")
    os.utime(tmp_path / "b/d/f", (5, 5))
    assert of(root) == of(tmp_path / "b")
    assert of(root).startswith("sha256:")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "d/f").write_text("cOntent"),
    "large content": lambda root: (root / "big").write_bytes(b"y" * 500_000),
    "name": lambda root: (root / "d/f").rename(root / "d/e"),
    "mode": lambda root: (root / "d/f").chmod(0o711),
    "mode of a directory": lambda root: (root / "d").chmod(0o711),
    "link": lambda root: ((root / "d/l").unlink(), (root / "d/l").symlink_to("g")),
    "kind": lambda root: ((root / "d/l").unlink(), (root / "d/l").write_text("f")),
    "new file": lambda root: (root / "d/new").touch(),
    "new directory": lambda root: (root / "d/sub/new").mkdir(),
    "gone": lambda root: (root / "d/sub/g").unlink(),
    "moved": lambda root: (root / "d/sub/g").rename(root / "d/g"),
    "attribute": lambda root: os.setxattr(root / "d/f", "user.note", b"hi"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_that_counts_changes_it(root: Path, change: str) -> None:
    before = of(root)
    CHANGES[change](root)
    assert of(root) != before


def test_owners_count_but_for_a_clients_files(root: Path) -> None:
    if not identity.current().privileged:
        pytest.skip("needs root: chown")
    before, client = of(root), of(root, in_place=True)
    os.chown(root / "d/f", 5, 5)
    assert of(root) != before
    assert of(root, in_place=True) == client


def test_only_what_is_selected_counts(root: Path) -> None:
    before = of(root, Selection("d", exclude=("sub",)))
    (root / "d/sub/g").write_text("other")
    (root / "unrelated").touch()
    assert of(root, Selection("d", exclude=("sub",))) == before
    (root / "d/f").write_text("other")
    assert of(root, Selection("d", exclude=("sub",))) != before


def test_a_file_counts_without_its_own_name(root: Path) -> None:
    (root / "copy").write_text("content")
    (root / "copy").chmod(stat.S_IMODE((root / "d/f").stat().st_mode))
    assert of(root, Selection("d/f")) == of(root, Selection("copy"))
    assert of(root, Selection("d/[f]", wildcard=True)) != of(root, Selection("cop[y]", wildcard=True))


def test_contents_only_leaves_the_directorys_own_metadata_out(root: Path) -> None:
    before = of(root, Selection("d", contents_only=True))
    (root / "d").chmod(0o700)
    assert of(root, Selection("d", contents_only=True)) == before


def test_links_are_followed_on_request(root: Path) -> None:
    assert of(root, Selection("d/l", follow=True)) == of(root, Selection("d/f"))
    assert of(root, Selection("d/l")) != of(root, Selection("d/f"))


def test_no_two_trees_read_alike(tmp_path: Path) -> None:
    for name, files in (("one", {"ab": "c", "d": ""}), ("two", {"a": "bc", "d": ""}), ("three", {"abc": "", "d": ""})):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    assert len({of(tmp_path / name) for name in ("one", "two", "three")}) == 3


def test_unchanged_files_are_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known()
    first = of(root, stats=known)
    read: list[str] = []
    real = os.open

    def opened(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if not flags & (os.O_PATH | os.O_DIRECTORY):
            read.append(path)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", opened)
    assert of(root, stats=known) == first
    assert read == []
    (root / "d/f").write_text("changed")
    assert of(root, stats=known) != first
    assert read == ["f"]


def test_a_fifo_is_not_opened(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert of(root) == of(root)


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(NotFound, match="/d/gone"):
        of(root, Selection("d/gone"))
    with pytest.raises(NotFound, match="gone"):
        of(root, Selection("gone*", wildcard=True))
    with pytest.raises(NotFound, match="/d/gone"):
        of(root, Selection("/", include=("d",), required=("/d/gone",)))
    assert of(root, Selection("gone*", wildcard=True, allow_empty=True))
    assert of(root, Selection("/", include=("d",), required=("/d/f",)))


def test_what_is_ignored_is_missing_and_the_pattern_named(root: Path) -> None:
    with pytest.raises(NotFound, match="/d/f") as caught:
        of(root, Selection("d/f"), patterns=Patterns(["d"]))
    assert "'d'" in caught.value.hint


def test_ignored_files_do_not_count(root: Path) -> None:
    before = of(root, patterns=Patterns(["d/sub", "*.tmp"]))
    (root / "d/sub/g").write_text("other")
    (root / "x.tmp").touch()
    assert of(root, patterns=Patterns(["d/sub", "*.tmp"])) == before


def test_many_large_files(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number:03}").write_bytes(bytes([number]) * 140_000)
    assert of(tmp_path) == of(tmp_path, stats=Known())
