"""COPY's rules, in trees of real files; what BuildKit's file op does decides."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import socket
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kedge.kernel import identity
from kedge.model import ops
from kedge.model.cachekey import Selection
from kedge.model.errors import IntegrityError, InvalidInput, KedgeError, NotFound, SourceError
from kedge.model.patterns import Patterns
from kedge.storage import ownership
from kedge.storage.checksum import Witness, checksum
from kedge.storage.copy import copy
from kedge.storage.ownership import Ids
from kedge.storage.tree import Tree

needs_root = pytest.mark.skipif(not identity.current().privileged, reason="needs root: owners, devices")
Files = dict[str, object]


def plant(root: Path, files: Files) -> None:
    """Make files: text, None for a directory, a Path for a symlink."""
    for name, what in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if what is None:
            path.mkdir(exist_ok=True)
        elif isinstance(what, Path):
            path.symlink_to(what)
        else:
            path.write_text(str(what))


class Place:
    """A source and a destination tree, and a file beside them that must not change."""

    def __init__(self, base: Path) -> None:
        self.source, self.dest, self.outside = base / "source", base / "dest", base / "outside"
        for path in (self.source, self.dest, self.outside):
            path.mkdir()
        (self.outside / "secret").write_text("secret")
        self.fds = [os.open(path, os.O_PATH) for path in (self.source, self.dest)]
        self.patterns: Patterns | None = None
        self.in_place = False

    @property
    def tree(self) -> Tree:
        return Tree(self.fds[0], self.patterns, self.in_place)

    def copy(
        self, src: str, dest: str, owner: Ids | None = None, witness: Witness | None = None, **options: object
    ) -> None:
        action = ops.Copy(src, dest, **{"create_dest_path": True, "follow_symlinks": True} | options)  # type: ignore[arg-type]
        copy(action, self.tree, self.fds[1], owner, witness=witness)

    def made(self) -> dict[str, str | None]:
        """Text of files, None for directories, `-> target` for symlinks."""
        found: dict[str, str | None] = {}
        for path in sorted(self.dest.rglob("*")):
            name = str(path.relative_to(self.dest))
            if path.is_symlink():
                found[name] = f"-> {os.readlink(path)}"
            else:
                found[name] = path.read_text() if path.is_file() else None
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for fd in made.fds:
        os.close(fd)
    assert [path.name for path in made.outside.iterdir()] == ["secret"]
    assert (made.outside / "secret").read_text() == "secret"


# ---- where things go -------------------------------------------------------------------------------------------------

TREE: Files = {"f": "file", "d/one": "1", "d/sub/two": "2", "empty": None, "link": Path("d"), "flink": Path("f")}
INSIDE = {"one": "1", "sub": None, "sub/two": "2"}


def below(name: str, files: dict[str, str | None]) -> dict[str, str | None]:
    return {name: None} | {f"{name}/{path}": text for path, text in files.items()}


@pytest.mark.parametrize(
    ("src", "dest", "options", "there", "made"),
    [
        ("f", "/new", {}, {}, {"new": "file"}),
        ("/f", "new/", {}, {}, {"new": None, "new/f": "file"}),
        ("f", "/a/b/new", {}, {}, {"a": None, "a/b": None, "a/b/new": "file"}),
        ("f", "/", {}, {}, {"f": "file"}),
        ("f", ".", {}, {}, {"f": "file"}),
        ("f", "/dir", {}, {"dir": None}, {"dir": None, "dir/f": "file"}),
        ("f", "/old", {}, {"old": "previous"}, {"old": "file"}),
        ("f", "/l", {}, {"l": Path("/dir"), "dir": None}, {"dir": None, "dir/f": "file", "l": "-> /dir"}),
        ("f", "/l", {}, {"l": Path("/old"), "old": "x"}, {"old": "file", "l": "-> /old"}),
        ("f", "/l", {}, {"l": Path("gone")}, {"gone": "file", "l": "-> gone"}),
        ("f", "/dir/", {}, {"dir/f": Path("/other"), "other": "keep"}, {"dir": None, "dir/f": "file", "other": "keep"}),
        ("d", "/new", {"contents_only": True}, {}, below("new", INSIDE)),
        ("d", "/new/", {"contents_only": True}, {}, below("new", INSIDE)),
        ("d", "/", {"contents_only": True}, {}, INSIDE),
        ("d", "/old", {"contents_only": True}, {"old/sub/x": "keep"}, below("old", INSIDE | {"sub/x": "keep"})),
        ("d", "/new", {}, {}, below("new", INSIDE)),
        ("d", "/old", {}, {"old": None}, {"old": None} | below("old/d", INSIDE)),
        (
            "d",
            "/l/x",
            {"contents_only": True},
            {"l": Path("r"), "r": None},
            {"l": "-> r", "r": None} | below("r/x", INSIDE),
        ),
        (
            "/",
            "/all",
            {"contents_only": True, "exclude": ("d", "*link")},
            {},
            below("all", {"f": "file", "empty": None}),
        ),
        ("link", "/new", {"contents_only": True}, {}, below("new", INSIDE)),
        ("link", "/new", {"follow_symlinks": False}, {}, {"new": "-> d"}),
        ("flink", "/new", {}, {}, {"new": "file"}),
        ("link/sub", "/new", {"contents_only": True}, {}, {"new": None, "new/two": "2"}),
        ("empty", "/x/y", {"contents_only": True}, {}, {"x": None, "x/y": None}),
        (
            "*",
            "/o/",
            {"wildcard": True, "contents_only": True},
            {},
            below("o", INSIDE | {"f": "file", "flink": "file"}),
        ),
        ("d/*", "/o/", {"wildcard": True}, {}, below("o", {"one": "1"} | below("sub", {"two": "2"}))),
        ("?/on[a-f]", "/o/", {"wildcard": True}, {}, below("o", {"one": "1"})),
        ("x*", "/o/", {"wildcard": True, "allow_empty_wildcard": True}, {}, {}),
        ("../../f", "/n", {}, {}, {"n": "file"}),
        ("f", "../../../n", {}, {}, {"n": "file"}),
    ],
)
def test_destination_rules(
    place: Place, src: str, dest: str, options: Files, there: Files, made: dict[str, str | None]
) -> None:
    plant(place.source, TREE)
    plant(place.dest, there)
    place.copy(src, dest, **options)
    assert place.made() == made


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        (("sub",), (), {"n", "n/sub", "n/sub/two", "n/sub/deep", "n/sub/deep/three"}),
        (("sub/deep/three",), (), {"n", "n/sub", "n/sub/deep", "n/sub/deep/three"}),
        (("*/*/three",), (), {"n", "n/sub", "n/sub/deep", "n/sub/deep/three"}),
        (("**/t*",), (), {"n", "n/sub", "n/sub/two", "n/sub/deep", "n/sub/deep/three"}),
        (("nothing",), (), {"n"}),
        ((), ("sub",), {"n", "n/one"}),
        ((), ("sub", "!sub/deep"), {"n", "n/one", "n/sub", "n/sub/deep", "n/sub/deep/three"}),
        (("sub",), ("**/two",), {"n", "n/sub", "n/sub/deep", "n/sub/deep/three"}),
        ((), ("*",), {"n"}),
    ],
)
def test_include_and_exclude(place: Place, include: tuple[str, ...], exclude: tuple[str, ...], names: set[str]) -> None:
    plant(place.source, {"d/one": "1", "d/sub/two": "2", "d/sub/deep/three": "3"})
    place.copy("d", "/n", contents_only=True, include=include, exclude=exclude)
    assert set(place.made()) == names


def test_parents_that_lead_to_an_included_file_keep_their_metadata(place: Place) -> None:
    plant(place.source, {"a/b/c": "x"})
    (place.source / "a/b").chmod(0o750)
    os.utime(place.source / "a/b", (7, 7))
    place.copy("/", "/", contents_only=True, include=("a/b/c",))
    status = (place.dest / "a/b").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o750, 7)


@pytest.mark.parametrize(
    ("src", "dest", "options", "there", "error"),
    [
        ("gone", "/x", {}, {}, NotFound),
        ("gone/f", "/x", {}, {}, NotFound),
        ("f/below", "/x", {}, {}, NotFound),
        ("loop", "/x", {}, {}, KedgeError),
        ("x*", "/x/", {"wildcard": True}, {}, NotFound),
        ("f", "/no/parent", {"create_dest_path": False}, {}, NotFound),
        ("f", "/old/x", {}, {"old": "a file"}, InvalidInput),
        ("d", "/dir", {}, {"dir/d": "a file"}, InvalidInput),
        ("d", "/t", {"contents_only": True}, {"t/sub": "a file"}, InvalidInput),
        ("d", "/t", {"contents_only": True}, {"t/one/x": "in a directory"}, InvalidInput),
        ("f", "/x", {"mode_text": "u=q"}, {}, InvalidInput),
        ("f", "/loop/x", {}, {"loop": Path("loop")}, KedgeError),
    ],
)
def test_errors(place: Place, src: str, dest: str, options: Files, there: Files, error: type[KedgeError]) -> None:
    plant(place.source, TREE | {"loop": Path("loop")})
    plant(place.dest, there)
    with pytest.raises(error):
        place.copy(src, dest, **options)


def test_replaces_the_other_kind_only_on_request(place: Place) -> None:
    plant(place.source, {"d/x": "file", "d/y/z": "in y", "d/s/f": "in s"})
    plant(place.dest, {"x/deep/er": "old", "y": "old", "s": Path("/keep"), "keep/k": "k"})
    place.copy("d", "/", contents_only=True, always_replace=True)
    assert place.made() == {
        "x": "file",
        "y": None,
        "y/z": "in y",
        "s": None,
        "s/f": "in s",
        "keep": None,
        "keep/k": "k",
    }


# ---- containment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["{outside}", "../outside", "../../../../../../../../{outside}"])
def test_symlinks_in_either_tree_end_at_its_root(place: Place, target: str) -> None:
    target = target.format(outside=place.outside)
    plant(place.source, {"f": "evil", "out": Path(target)})
    plant(place.dest, {"l": Path(target)})
    with pytest.raises(NotFound):
        place.copy("out/secret", "/stolen")
    with pytest.raises(NotFound):
        place.copy("out", "/stolen", contents_only=True)
    place.copy("f", "/l/secret")
    place.copy("f", "/l/")
    assert "stolen" not in place.made()


def test_a_symlink_in_the_destination_is_replaced_not_written_through(place: Place) -> None:
    plant(place.source, {"d/f": "new"})
    plant(place.dest, {"f": Path(place.outside / "secret")})
    place.copy("d", "/", contents_only=True)
    assert place.made() == {"f": "new"}


def test_fifos_and_sockets_are_made_not_read(place: Place) -> None:
    os.mkfifo(place.source / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        previous = os.getcwd()
        os.chdir(place.source)
        listener.bind("socket")
        os.chdir(previous)
        place.copy("/", "/", contents_only=True)
    assert stat.S_ISFIFO((place.dest / "pipe").lstat().st_mode)
    assert stat.S_ISSOCK((place.dest / "socket").lstat().st_mode)


# ---- metadata and content --------------------------------------------------------------------------------------------


def test_metadata_travels(place: Place) -> None:
    plant(place.source, {"d/f": "x", "d/l": Path("f")})
    (place.source / "d/f").chmod(0o4750)
    (place.source / "d").chmod(0o2711)
    os.setxattr(place.source / "d/f", "user.note", b"hi")
    for name in ("d/f", "d/l", "d"):
        os.utime(place.source / name, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    place.copy("d", "/n")
    assert stat.S_IMODE((place.dest / "n/f").stat().st_mode) == 0o4750
    assert stat.S_IMODE((place.dest / "n").stat().st_mode) == 0o2711
    assert os.getxattr(place.dest / "n/f", "user.note") == b"hi"
    assert {path.lstat().st_mtime_ns for path in (place.dest / "n/f", place.dest / "n/l", place.dest / "n")} == {
        1_234_567_890_123_456_789
    }


def test_an_existing_directory_keeps_its_mode_at_the_top_and_takes_the_sources_below(place: Place) -> None:
    plant(place.source, {"d/sub/f": "x"})
    plant(place.dest, {"n/sub/g": "y"})
    for path, mode in ((place.source / "d", 0o700), (place.source / "d/sub", 0o710), (place.dest / "n", 0o755)):
        path.chmod(mode)
    place.copy("d", "/n", contents_only=True)
    assert [stat.S_IMODE((place.dest / name).stat().st_mode) for name in ("n", "n/sub")] == [0o755, 0o710]


def test_an_octal_mode_goes_to_all_and_to_parents_made(place: Place) -> None:
    plant(place.source, {"d/f": "x"})
    place.copy("d", "/a/n", mode=0o704)
    assert [stat.S_IMODE((place.dest / name).stat().st_mode) for name in ("a", "a/n", "a/n/f")] == [0o704] * 3


@pytest.mark.parametrize(
    ("text", "file", "directory"),
    [
        ("u=rwX,go=rX", 0o644, 0o755),
        ("a+x", 0o755, 0o751),
        ("go-rwx", 0o600, 0o700),
        ("+t,u+s", 0o5644, 0o5750),
        ("o=u", 0o646, 0o757),
        ("g=u-w,o=", 0o650 & ~0o10, 0o750),
        ("0640", 0o640, 0o640),
        ("a=", 0, 0),
        ("o+t", 0o644, 0o750),
        ("u-x,a+X", 0o644, 0o751),
    ],
)
def test_symbolic_modes(place: Place, text: str, file: int, directory: int) -> None:
    plant(place.source, {"d/f": "x"})
    (place.source / "d/f").chmod(0o644)
    (place.source / "d").chmod(0o750)
    place.copy("d", "/n", mode_text=text)
    assert oct(stat.S_IMODE((place.dest / "n").lstat().st_mode)) == oct(directory)
    (place.dest / "n").chmod(0o700)
    assert oct(stat.S_IMODE((place.dest / "n/f").lstat().st_mode)) == oct(file)


def test_one_time_for_all_that_is_written(place: Place) -> None:
    plant(place.source, {"d/f": "x", "d/l": Path("f")})
    place.copy("d", "/a/b/n", timestamp=5 * 10**9)
    assert {path.lstat().st_mtime for path in place.dest.rglob("*")} == {5}


def test_hard_links_within_one_copy_stay(place: Place) -> None:
    plant(place.source, {"d/a": "x"})
    (place.source / "d/b").hardlink_to(place.source / "d/a")
    place.copy("d", "/n")
    assert (place.dest / "n/a").stat().st_ino == (place.dest / "n/b").stat().st_ino


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
def test_content_of_any_size(place: Place, size: int) -> None:
    data = os.urandom(size)
    (place.source / "f").write_bytes(data)
    place.copy("f", "/n")
    assert (place.dest / "n").read_bytes() == data


def test_holes_stay_holes(place: Place) -> None:
    with (place.source / "f").open("wb") as file:
        file.write(b"start")
        file.seek(50 << 20)
        file.write(b"middle")
        file.truncate(100 << 20)
    place.copy("f", "/n")
    assert (place.dest / "n").stat().st_blocks * 512 < 1 << 20
    assert (place.dest / "n").read_bytes() == (place.source / "f").read_bytes()


def test_names_of_any_bytes(place: Place) -> None:
    (place.source / "d").mkdir()
    with open(os.fsencode(place.source) + b"/d/\xff\xfe\n", "wb"):
        pass
    plant(place.source, {"d/A": "1", "d/a": "2", "d/*": "3"})
    place.copy("d", "/n")
    assert sorted(os.listdir(os.fsencode(place.dest / "n"))) == [b"*", b"A", b"a", b"\xff\xfe\n"]


@needs_root
def test_owners(place: Place) -> None:
    plant(place.source, {"d/f": "x", "d/l": Path("f")})
    for name in ("d", "d/f", "d/l"):
        os.chown(place.source / name, 1000, 2000, follow_symlinks=False)
    place.copy("d", "/kept")
    place.copy("d", "/a/given", Ids(5, 6))
    place.in_place = True
    place.copy("d", "/client")
    owners = {
        str(path.relative_to(place.dest)): (path.lstat().st_uid, path.lstat().st_gid) for path in place.dest.rglob("*")
    }
    assert {owners[name] for name in ("kept", "kept/f", "kept/l")} == {(1000, 2000)}
    assert {owners[name] for name in ("a", "a/given", "a/given/f", "a/given/l")} == {(5, 6)}
    assert {owners[name] for name in ("client", "client/f", "client/l")} == {(0, 0)}


def test_a_single_id_records_who_should_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "policy", lambda: ownership.Policy.SINGLE)
    plant(place.source, {"d/f": "x"})
    place.copy("d", "/a/n", Ids(1000, 50))
    for name in ("a", "a/n", "a/n/f"):
        assert os.getxattr(place.dest / name, "user.kedge.owner") == b"1000:50"
        assert (place.dest / name).stat().st_uid == os.geteuid()
    again = Tree(place.fds[1])
    copy(ops.Copy("/a/n", "/kept", create_dest_path=True), again, place.fds[1])
    assert os.getxattr(place.dest / "kept/f", "user.kedge.owner") == b"1000:50"


@needs_root
def test_nothing_that_overlayfs_obeys_is_copied(place: Place) -> None:
    plant(place.source, {"d/f": "x"})
    os.setxattr(place.source / "d", "trusted.overlay.opaque", b"y")
    place.copy("d", "/n")
    assert os.listxattr(place.dest / "n") == []
    os.mknod(place.source / "w", 0o20644, 0)
    with pytest.raises(InvalidInput):
        place.copy("w", "/n")


@needs_root
def test_devices_and_capabilities(place: Place) -> None:
    os.mknod(place.source / "null", 0o20640, os.makedev(1, 3))
    (place.source / "ping").write_text("x")
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
    os.setxattr(place.source / "ping", "security.capability", capability)
    place.copy("/", "/", contents_only=True)
    assert (place.dest / "null").lstat().st_rdev == os.makedev(1, 3)
    assert os.getxattr(place.dest / "ping", "security.capability") == capability


# ---- a client's directory --------------------------------------------------------------------------------------------


def test_what_the_ignore_file_excludes_is_not_there(place: Place) -> None:
    plant(place.source, {"keep": "k", "node_modules/x": "x", "out/a": "a", "out/b": "b", "l": Path("node_modules/x")})
    place.patterns = Patterns(["node_modules", "out", "!out/a"])
    place.copy("/", "/", contents_only=True)
    assert place.made() == {"keep": "k", "out": None, "out/a": "a", "l": "-> node_modules/x"}
    for hidden in ("node_modules", "node_modules/x", "out/b", "l", "node_module[s]"):
        with pytest.raises(NotFound):
            place.copy(hidden, "/n/", wildcard=True)


def test_an_excluded_path_is_explained_by_its_pattern(place: Place) -> None:
    plant(place.source, {"secrets/key": "x"})
    place.patterns = Patterns(["*.md", "secrets"])
    with pytest.raises(NotFound, match="secrets/key") as caught:
        place.copy("secrets/key", "/n")
    assert "'secrets'" in caught.value.hint


def test_a_file_that_changed_since_its_checksum_is_an_error(place: Place) -> None:
    plant(place.source, {"d/f": "one", "d/g": "same"})
    witness = Witness()
    checksum(place.tree, (Selection("d"),), None, witness)
    place.copy("d", "/fine", witness=witness)
    (place.source / "d/f").write_text("two!")
    with pytest.raises(SourceError, match="/d/f"):
        place.copy("d", "/n", witness=witness)


def test_a_file_written_to_while_it_is_copied_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(place.source, {"f": "x" * 1000})
    real = os.read

    def read(fd: int, size: int) -> bytes:
        (place.source / "f").write_text("y" * 1000)
        return real(fd, size)

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(SourceError, match="changed"):
        place.copy("f", "/n")


# ---- archives --------------------------------------------------------------------------------------------------------


def tar(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid = len(text), os.getuid(), os.getgid()
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("name", COMPRESS)
def test_add_unpacks_archives_by_their_content(place: Place, name: str) -> None:
    (place.source / "looks-like-text").write_bytes(COMPRESS[name](tar(a="1", b="2")))
    place.copy("looks-like-text", "/x/y", unpack=True)
    assert place.made() == {"x": None, "x/y": None, "x/y/a": "1", "x/y/b": "2"}


@pytest.mark.parametrize(
    "data", [b"", b"no archive", gzip.compress(b"no tar", mtime=0), bytes(10240), tar(a="1")[:300]]
)
def test_add_copies_what_is_no_archive(place: Place, data: bytes) -> None:
    (place.source / "x.tar.gz").write_bytes(data)
    place.copy("x.tar.gz", "/d/", unpack=True)
    assert (place.dest / "d/x.tar.gz").read_bytes() == data


def test_add_unpacks_through_a_symlinked_destination_inside_the_root(place: Place) -> None:
    plant(place.dest, {"l": Path(place.outside)})
    (place.source / "a.tar").write_bytes(tar(secret="evil"))
    place.copy("a.tar", "/l", unpack=True)
    assert (place.dest / str(place.outside)[1:] / "secret").read_text() == "evil"


def test_a_cut_off_archive_is_an_error(place: Place) -> None:
    (place.source / "a.tar").write_bytes(tar(a="x" * 5000)[:2000])
    with pytest.raises(IntegrityError):
        place.copy("a.tar", "/", unpack=True)


# ---- races -----------------------------------------------------------------------------------------------------------


def test_a_source_swapped_for_a_symlink_meanwhile_gives_nothing_away(place: Place) -> None:
    plant(place.source, {"d/secret": "mine"})
    pid = os.fork()
    if pid == 0:
        while True:
            with contextlib.suppress(OSError):
                os.rename(place.source / "d", place.source / "x")
                os.symlink(place.outside, place.source / "d")
                os.unlink(place.source / "d")
                os.rename(place.source / "x", place.source / "d")
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            with contextlib.suppress(KedgeError):
                place.copy("d", "/n", contents_only=True)
            if (place.dest / "n").is_symlink():  # it was one just then, and was copied as one
                (place.dest / "n").unlink()
            if (place.dest / "n/secret").exists():
                assert (place.dest / "n/secret").read_text() == "mine"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        for path in (place.source / "d", place.source / "x"):
            if path.is_symlink():
                path.unlink()


def test_a_mode_is_not_for_what_add_unpacks(place: Place) -> None:
    with tarfile.open(place.source / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("f"), io.BytesIO())
    place.copy("a.tar", "/d", unpack=True, mode=0o700)
    assert stat.S_IMODE((place.dest / "d").stat().st_mode) == 0o755
    assert stat.S_IMODE((place.dest / "d" / "f").stat().st_mode) == 0o644
