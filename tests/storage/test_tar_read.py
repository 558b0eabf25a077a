"""Unpacking: hostile archives are contained, legal but odd ones kept verbatim (USERS §5.3)."""

import contextlib
import io
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.kernel import identity
from kedge.model.errors import IntegrityError, StoreError
from kedge.storage import ownership
from kedge.storage.ownership import Ids, Policy
from kedge.storage.tar_format import Entry, format_header
from kedge.storage.tar_read import Unpacked, unpack
from kedge.storage.tar_reader import Limits

END = bytes(1024)
needs_root = pytest.mark.skipif(not identity.current().privileged, reason="needs root: real owners, devices, trusted.*")


def file(name: str | bytes, data: bytes = b"", mode: int = 0o644, **more: object) -> bytes:
    return entry(name, b"0", mode=mode, size=len(data), **more) + data + bytes(-len(data) % 512)


def entry(name: str | bytes, kind: bytes, **more: object) -> bytes:
    fields = {"mtime": 1_000_000_000_000_000_000, "mode": 0o755, "uid": os.getuid(), "gid": os.getgid()} | more
    return format_header(Entry(os.fsencode(name), kind, **fields))  # type: ignore[arg-type]


def directory(name: str, **more: object) -> bytes:
    return entry(name + "/", b"5", **more)


def symlink(name: str, target: str | bytes, **more: object) -> bytes:
    return entry(name, b"2", link=os.fsencode(target), **more)


def hard_link(name: str, target: str) -> bytes:
    return entry(name, b"1", link=os.fsencode(target))


def whiteout(name: str) -> bytes:
    return file(name)


class Place:
    """A root to unpack into, beside things that must not be touched."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self.root.mkdir()
        self.outside = base / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("secret")
        (self.outside / "secret").chmod(0o600)
        os.utime(self.outside / "secret", (5, 5))
        self.before = self.snapshot()
        self.fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)

    def snapshot(self) -> list[object]:
        found: list[object] = []
        for path in sorted([self.outside, *self.outside.rglob("*")]):
            status = path.lstat()
            found.append((path, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns, status.st_size))
        return [*found, (self.outside / "secret").read_text()]

    def unpack(
        self, *parts: bytes, layer: bool = True, limits: Limits | None = None, owner: Ids | None = None
    ) -> Unpacked:
        return unpack(io.BytesIO(b"".join(parts) + END), self.fd, layer=layer, limits=limits, owner=owner)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))

    def opaque(self, name: str) -> bool:
        try:
            return os.getxattr(self.root / name, ownership.overlay_prefix() + "opaque") == b"y"
        except OSError:
            return False

    def is_whiteout(self, name: str) -> bool:
        status = (self.root / name).lstat()
        return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    os.close(made.fd)
    assert made.snapshot() == made.before, "something outside of the root was touched"


# ---- hostile: contained ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [True, False])
@pytest.mark.parametrize("name", ["../../../../x", "/../x", "a/../../x", "/x", "//x", "./../x", "../outside/../x"])
def test_names_end_at_the_root(place: Place, name: str, layer: bool) -> None:
    place.unpack(file(name, b"evil"), layer=layer)
    assert (place.root / "x").read_bytes() == b"evil"


@pytest.mark.parametrize("layer", [True, False])
def test_entries_through_a_symlink_stay_inside(place: Place, layer: bool) -> None:
    place.unpack(symlink("link", str(place.outside)), file("link/secret", b"evil"), layer=layer)
    assert (place.root / str(place.outside)[1:] / "secret").read_bytes() == b"evil"


@pytest.mark.parametrize("layer", [True, False])
def test_entries_through_a_dotted_symlink_stay_inside(place: Place, layer: bool) -> None:
    place.unpack(
        symlink("up", "../../../../.."),
        file("up/x", b"evil"),
        symlink("up2", "../outside"),
        file("up2/secret"),
        layer=layer,
    )
    assert (place.root / "x").read_bytes() == b"evil"
    assert (place.root / "outside" / "secret").exists()


@pytest.mark.parametrize("kind", ["file", "symlink", "hard link", "device", "whiteout"])
def test_a_symlink_at_the_entrys_own_name_is_replaced_not_followed(place: Place, kind: str) -> None:
    secret = str(place.outside / "secret")
    second = {
        "file": file("link", b"evil", 0o4777),
        "symlink": symlink("link", "other"),
        "hard link": file("f") + hard_link("link", "f"),
        "device": entry("link", b"6", mode=0o777),
        "whiteout": whiteout(".wh.link"),
    }[kind]
    place.unpack(symlink("link", secret), second)


@pytest.mark.parametrize("target", ["../outside/secret", "/outside/secret", "up/outside/secret"])
def test_hard_links_name_only_files_of_the_root(place: Place, target: str) -> None:
    with pytest.raises(IntegrityError):
        place.unpack(symlink("up", ".."), hard_link("evil", target))


def test_a_hard_link_to_a_symlink_does_not_change_what_it_points_to(place: Place) -> None:
    """CVE-2021-32760."""
    secret = str(place.outside / "secret")
    place.unpack(symlink("a", secret), entry("b", b"1", link=b"a", mode=0o4777, mtime=0, uid=0), file("b", b"evil"))
    assert os.readlink(place.root / "a") == secret
    assert (place.root / "b").read_bytes() == b"evil"


def test_a_hard_link_to_a_host_file_by_its_real_path_is_refused(place: Place) -> None:
    with pytest.raises(IntegrityError):
        place.unpack(hard_link("evil", str(place.outside / "secret")))


def test_the_metadata_of_a_symlink_is_its_own(place: Place) -> None:
    place.unpack(symlink("a", str(place.outside / "secret"), mode=0o4777, mtime=7 * 10**9))
    assert (place.root / "a").lstat().st_mtime == 7


@pytest.mark.parametrize("name", [b".", b"/", b"./.", b"./", b"//", b"a/..", b"..", b""])
@pytest.mark.parametrize("kind", [b"0", b"1", b"2", b"3", b"6"])
@pytest.mark.parametrize("layer", [True, False])
def test_the_root_itself_is_nothing_but_a_directory(place: Place, name: bytes, kind: bytes, layer: bool) -> None:
    """CVE-2021-29136."""
    with pytest.raises(IntegrityError):
        place.unpack(entry(name, kind, link=b"/etc"), layer=layer)
    assert place.root.is_dir()


def test_a_directory_swapped_for_a_symlink_within_the_archive_is_seen(place: Place) -> None:
    out = str(place.outside)
    place.unpack(
        directory("d"), file("d/one"), symlink("d", out), file("d/secret", b"evil"), directory("d"), file("d/two")
    )
    assert sorted(os.listdir(place.root / "d")) == ["two"]
    assert (place.root / out[1:] / "secret").read_bytes() == b"evil"


def test_symlink_loops_are_an_error(place: Place) -> None:
    with pytest.raises(IntegrityError):
        place.unpack(symlink("a", "b"), symlink("b", "a"), file("a/x"))


def test_magic_links_are_not_followed(place: Place) -> None:
    fd = os.open(place.outside, os.O_RDONLY)
    try:
        with contextlib.suppress(IntegrityError):
            place.unpack(symlink("l", f"/proc/self/fd/{fd}"), file("l/secret", b"evil"))
    finally:
        os.close(fd)


def test_another_process_swapping_directories_gains_nothing(place: Place) -> None:
    """CVE-2025-47290: someone renames a symlink over the directory being filled."""
    script = """
        while :; do
            ln -sfn "$1" l
            mv -T l d || { mv -T d x; mv -T l d; }
            rm -rf x l d
        done 2>/dev/null"""
    racer = subprocess.Popen(["sh", "-c", script, "sh", str(place.outside)], cwd=place.root, stderr=subprocess.DEVNULL)
    try:
        for _ in range(60):
            with contextlib.suppress(IntegrityError, StoreError):
                place.unpack(*[directory("d") + file(f"d/{name}", b"evil") for name in ("secret", "b", "c")])
    finally:
        racer.kill()
        racer.wait()


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh...", ".wh.d/x", "d/.wh.e/f/g"])
def test_whiteouts_of_nothing_or_of_the_parent_are_refused(place: Place, name: str) -> None:
    with pytest.raises(IntegrityError):
        place.unpack(directory("d"), file("d/keep"), whiteout(name))
    assert (place.root / "d" / "keep").exists()


@pytest.mark.parametrize("name", [".wh..wh.plnk/12.34", ".wh..wh.aufs", "d/.wh..wh.orph/x"])
def test_bookkeeping_of_aufs_is_left_out(place: Place, name: str) -> None:
    place.unpack(directory("d"), file(name))
    assert place.names() == ["d"]


def test_whiteouts_through_a_symlink_stay_inside(place: Place) -> None:
    place.unpack(symlink("l", str(place.outside)), whiteout("l/.wh.secret"), whiteout("l/.wh..wh..opq"))
    assert place.is_whiteout(str(place.outside)[1:] + "/secret")


@pytest.mark.parametrize("key", ["opaque", "redirect", "metacopy", "whiteout", "origin"])
def test_overlayfs_attributes_of_an_archive_are_escaped(place: Place, key: str) -> None:
    prefix = ownership.overlay_prefix()
    place.unpack(entry("d/", b"5", xattrs={(prefix + key).encode(): b"/etc"}))
    assert prefix + key not in os.listxattr(place.root / "d")
    assert os.getxattr(place.root / "d", f"{prefix}overlay.{key}") == b"/etc"


def test_add_into_a_bare_layer_makes_nothing_that_overlayfs_obeys(place: Place) -> None:
    prefix = ownership.overlay_prefix()
    place.unpack(entry("d/", b"5", xattrs={(prefix + "opaque").encode(): b"y"}), layer=False)
    assert prefix + "opaque" not in os.listxattr(place.root / "d")
    with pytest.raises(IntegrityError):
        place.unpack(entry("w", b"3"), layer=False)
    assert place.names() == ["d"]


def test_our_own_records_cannot_be_forged(place: Place) -> None:
    place.unpack(file("f", xattrs={b"user.kedge.owner": b"0:0:c:1:5"}))
    assert os.listxattr(place.root / "f") == []


@pytest.mark.parametrize("name", ["x" * 256, "d/" * 2048 + "x", "a" * 5000, "/".join(["d"] * 1100)])
def test_names_that_no_one_could_use_are_refused(place: Place, name: str) -> None:
    with pytest.raises(IntegrityError):
        place.unpack(file(name))


def test_deep_directories_are_refused(place: Place) -> None:
    with pytest.raises(IntegrityError):
        place.unpack(directory("d/" * 10_000))


def test_the_number_of_entries_is_bounded(place: Place) -> None:
    with pytest.raises(IntegrityError, match="more than 10 entries"):
        place.unpack(*[file(f"f{n}") for n in range(20)], limits=Limits(entries=10))


def test_names_with_a_nul_in_a_record_are_refused(place: Place) -> None:
    with pytest.raises(IntegrityError):
        place.unpack(file("x" * 200).replace(b"x" * 200, b"x" * 100 + b"\0" + b"x" * 99))


def test_a_device_number_out_of_range_is_refused(place: Place) -> None:
    with pytest.raises(IntegrityError):
        place.unpack(entry("d", b"3", major=0o77777, minor=0o7777777))


def test_a_file_in_the_way_of_a_directory_is_an_error(place: Place) -> None:
    with pytest.raises(IntegrityError):
        place.unpack(file("a"), file("a/b"))


def test_progress_may_stop_it(place: Place) -> None:
    class Stop(Exception):
        pass

    def progress(_: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        unpack(io.BytesIO(file("f", bytes(9 << 20)) + file("g")), place.fd, layer=True, progress=progress)


# ---- odd but legal: kept verbatim ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../../../../../../jvm/cacerts", "dash", ".", "..", "//a//b", "/", "x" * 4000, "a\nb", b"\xff\xfe"],
)
def test_symlink_targets_stay_as_they_are(place: Place, target: str | bytes) -> None:
    """Fixes for CVE-2026-28406 broke `sh -> dash` and targets with more `..` than their depth."""
    place.unpack(directory("bin"), symlink("bin/sh", target))
    assert os.readlink(os.fsencode(place.root) + b"/bin/sh") == os.fsencode(target)


@pytest.mark.parametrize(
    "target", ["/usr/bin/perl", "usr/bin/perl", "./usr/bin/perl", "../usr/bin/perl", "usr//bin/../bin/perl"]
)
def test_hard_link_targets_are_taken_from_the_root(place: Place, target: str) -> None:
    """go-archive 0.3.0 rejected absolute ones."""
    place.unpack(file("usr/bin/perl", b"perl"), hard_link("usr/bin/perl5", target))
    assert (place.root / "usr/bin/perl5").stat().st_ino == (place.root / "usr/bin/perl").stat().st_ino


def test_a_hard_link_through_a_symlinked_directory(place: Place) -> None:
    place.unpack(directory("usr/bin"), symlink("bin", "usr/bin"), file("usr/bin/a", b"x"), hard_link("bin/b", "bin/a"))
    assert (place.root / "usr/bin/b").stat().st_nlink == 2


def test_a_hard_link_to_itself_leaves_the_file(place: Place) -> None:
    place.unpack(file("a", b"data"), hard_link("a", "a"), hard_link("./a", "/a"))
    assert (place.root / "a").read_bytes() == b"data"


def test_a_file_replaces_a_directory_and_back(place: Place) -> None:
    place.unpack(
        directory("a"),
        file("a/b/c"),
        file("a", b"file"),
        file("b"),
        directory("b"),
        file("b/x"),
        file("c"),
        symlink("c", "b"),
    )
    assert place.names() == ["a", "b", "b/x", "c"]
    assert (place.root / "a").read_bytes() == b"file"


def test_children_may_come_before_their_directory(place: Place) -> None:
    done = place.unpack(file("a/b/f"), directory("a/b", mode=0o700), directory("a", mode=0o711, mtime=3 * 10**9))
    assert stat.S_IMODE((place.root / "a").stat().st_mode) == 0o711
    assert (place.root / "a").stat().st_mtime == 3
    assert done.implied == ()


def test_directories_without_an_entry_are_told_and_have_no_clocks_time(place: Place) -> None:
    done = place.unpack(file("a/b/f"), directory("a/c"), file("d/e/g"), file("d", b"a file now"))
    assert done.implied == ("/a", "/a/b")
    assert [(place.root / name).stat().st_mtime for name in ("a", "a/b")] == [0, 0]


def test_directory_times_survive_their_children(place: Place) -> None:
    place.unpack(directory("a", mtime=3 * 10**9), file("a/f"), directory("a/b", mtime=4 * 10**9), file("a/b/g"))
    assert [(place.root / name).stat().st_mtime for name in ("a", "a/b", "a/f")] == [3, 4, 1_000_000_000]


def test_names_of_any_bytes(place: Place) -> None:
    place.unpack(file(b"\xff\xfe caf\xe9\n"), file("Straße"), file("A"), file("a"), file(".wh"), file("x.wh.y"))
    assert len(os.listdir(place.root)) == 6


def test_a_read_only_directory_can_be_filled(place: Place) -> None:
    place.unpack(directory("ro", mode=0o555), file("ro/f", b"x"))
    assert stat.S_IMODE((place.root / "ro").stat().st_mode) == 0o555
    assert (place.root / "ro/f").read_bytes() == b"x"


def test_times_beyond_the_file_systems_range_do_no_harm(place: Place) -> None:
    place.unpack(file("f", mtime=-(1 << 62)), file("g", mtime=10**9 * 10**11))


def test_the_stream_is_read_to_its_end(place: Place) -> None:
    stream = io.BytesIO(file("f") + END + b"trailing" * 5000)
    unpack(stream, place.fd, layer=True)
    assert stream.read() == b""


# ---- layers ----------------------------------------------------------------------------------------------------------


def test_whiteouts_take_overlayfs_form(place: Place) -> None:
    place.unpack(directory("d"), whiteout("d/.wh.gone"), whiteout(".wh.top"))
    assert place.is_whiteout("d/gone")
    assert place.is_whiteout("top")


def test_opaque_directories_keep_what_the_layer_itself_brings(place: Place) -> None:
    place.unpack(directory("d"), file("d/before"), whiteout("d/.wh..wh..opq"), file("d/after"))
    assert place.opaque("d")
    assert place.names() == ["d", "d/after", "d/before"]


def test_an_opaque_root_is_reported(place: Place) -> None:
    assert place.unpack(whiteout(".wh..wh..opq"), file("f")).opaque_root
    assert place.names() == ["f"]


def test_a_whiteout_hides_only_the_layers_below(place: Place) -> None:
    place.unpack(file("f", b"new"), whiteout(".wh.f"), directory("d"), file("d/new"), whiteout(".wh.d"))
    assert (place.root / "f").read_bytes() == b"new"
    assert (place.root / "d/new").exists()
    assert place.opaque("d")


def test_what_comes_after_its_whiteout_replaces_all_below(place: Place) -> None:
    place.unpack(
        whiteout(".wh.f"), file("f", b"new"), whiteout(".wh.d"), directory("d"), whiteout(".wh.e"), file("e/sub/new")
    )
    assert (place.root / "f").read_bytes() == b"new"
    assert place.opaque("d")
    assert place.opaque("e")
    assert (place.root / "e/sub/new").exists()


def test_an_archive_for_add_has_no_whiteouts(place: Place) -> None:
    place.unpack(file(".wh.f", b"x"), file(".wh..wh..opq"), layer=False)
    assert place.names() == [".wh..wh..opq", ".wh.f"]


def test_an_archives_owner_is_replaced_on_request(place: Place) -> None:
    place.unpack(directory("d", uid=5), file("d/f", uid=5), owner=Ids(os.getuid(), os.getgid()), layer=False)
    assert (place.root / "d/f").stat().st_uid == os.getuid()


# ---- metadata --------------------------------------------------------------------------------------------------------

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"  # cap_net_bind_service


@needs_root
def test_owner_set_id_bits_attributes_and_time_all_survive(place: Place) -> None:
    place.unpack(
        file(
            "ping",
            b"x" * 100,
            0o6755,
            uid=1000,
            gid=2000,
            xattrs={b"security.capability": CAPABILITY, b"user.note": b"hi"},
        ),
        symlink("link", "ping", uid=3, gid=4),
        directory("tmp", mode=0o1777, uid=5),
    )
    status = (place.root / "ping").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (0o6755, 1000, 2000, 10**9)
    assert os.getxattr(place.root / "ping", "security.capability")[:20] == CAPABILITY
    assert os.getxattr(place.root / "ping", "user.note") == b"hi"
    assert (place.root / "link").lstat().st_gid == 4
    assert stat.S_IMODE((place.root / "tmp").stat().st_mode) == 0o1777


@needs_root
def test_devices_and_fifos(place: Place) -> None:
    place.unpack(
        entry("null", b"3", major=1, minor=3, mode=0o666),
        entry("disk", b"4", major=7, minor=0, mode=0o660, uid=9),
        entry("pipe", b"6"),
    )
    null = (place.root / "null").lstat()
    assert (null.st_rdev, null.st_mode) == (os.makedev(1, 3), stat.S_IFCHR | 0o666)
    assert (place.root / "disk").lstat().st_uid == 9
    assert stat.S_ISFIFO((place.root / "pipe").lstat().st_mode)


@needs_root
def test_a_directory_that_passes_its_group_on_does_not(place: Place) -> None:
    place.unpack(directory("d", mode=0o2755, gid=50), file("d/f", gid=0), directory("d/e", gid=0, mode=0o755))
    assert (place.root / "d/f").stat().st_gid == 0
    assert stat.S_IMODE((place.root / "d/e").stat().st_mode) == 0o755


@pytest.mark.namespace  # a single id is uid 0, too
def test_a_single_id_records_owners_and_devices(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "policy", lambda: Policy.SINGLE)

    def no_device(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mknod", no_device)
    place.unpack(
        file("f", uid=1000, gid=50),
        entry("null", b"3", major=1, minor=3, mode=0o666, uid=0, gid=0),
        file("mine", uid=0, gid=0),
    )
    assert os.getxattr(place.root / "f", "user.kedge.owner") == b"1000:50"
    assert os.getxattr(place.root / "null", "user.kedge.owner") == b"0:0:c:1:3"
    assert (place.root / "null").stat().st_size == 0
    assert os.listxattr(place.root / "mine") == []


def test_a_full_disk_is_the_stores_error(tmp_path: Path) -> None:
    if not identity.current().privileged:
        pytest.skip("needs root: mounts a small tmpfs")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    fd = os.open(small, os.O_RDONLY)
    try:
        with pytest.raises(StoreError) as caught:
            unpack(io.BytesIO(file("big", os.urandom(3 << 20))), fd, layer=True)
        assert "prune" in caught.value.hint
    finally:
        os.close(fd)
        subprocess.run(["umount", str(small)], check=True)


# ---- fuzz ------------------------------------------------------------------------------------------------------------

_part = st.sampled_from(["a", "b", "..", ".", "", "l", ".wh.a", ".wh.b", ".wh..wh..opq", "/", "..."])
_path = st.lists(_part, min_size=1, max_size=4).map("/".join)
_entries = st.one_of(
    st.builds(file, _path, st.sampled_from([b"", b"evil"])),
    st.builds(directory, _path),
    st.builds(symlink, _path, st.sampled_from(["a", "..", "/", "../outside", "l", "/b/..", "../../../../tmp"])),
    st.builds(hard_link, _path, _path),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_entries, max_size=10), st.booleans())
def test_no_order_of_entries_leads_out(parts: list[bytes], layer: bool) -> None:
    with tempfile.TemporaryDirectory() as base:
        place = Place(Path(base))
        try:
            with contextlib.suppress(IntegrityError):
                place.unpack(*parts, layer=layer)
            assert place.snapshot() == place.before
            assert sorted(os.listdir(base)) == ["outside", "root"]
        finally:
            os.close(place.fd)
