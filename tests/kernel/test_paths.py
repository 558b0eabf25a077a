"""Resolving inside a root: right answers for legal trees, no way out of hostile ones."""

import errno
import os
import threading
from contextlib import suppress

import pytest

from kedge.kernel import paths


@pytest.fixture
def root(tmp_path):
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (top / "etc" / "f").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    fd = os.open(top, os.O_PATH)
    yield top, fd
    os.close(fd)


@pytest.fixture(params=["openat2", "walk"])
def opener(request, monkeypatch):
    """The kernel's resolution, and ours for where the kernel's is missing."""
    if request.param == "walk":
        monkeypatch.setattr(paths, "open_in_root", paths._open_by_walk)
    return lambda *args: paths.open_in_root(*args)


def read(fd):
    with open(fd) as file:
        return file.read()


@pytest.mark.parametrize("path", ["etc/f", "/etc/f", "etc/../etc/./f", "../../etc/f", "//etc//f"])
def test_plain_paths(root, opener, path):
    assert read(opener(root[1], path, os.O_RDONLY)) == "inside"


@pytest.mark.parametrize("target", ["/etc/f", "../etc/f", "../../../../etc/f", "/../etc/f"])
def test_links_stay_inside(root, opener, target):
    os.symlink(target, root[0] / "etc" / "link")
    assert read(opener(root[1], "/etc/link", os.O_RDONLY)) == "inside"
    assert paths.resolve_in_root(root[1], "/etc/link") == "/etc/f"


@pytest.mark.parametrize("target", ["../../secret", "/secret", "../../../../../../../../../../secret"])
def test_links_to_the_outside_find_nothing(root, opener, target):
    os.symlink(target, root[0] / "link")
    with pytest.raises(FileNotFoundError):
        opener(root[1], "link", os.O_RDONLY)
    assert paths.resolve_in_root(root[1], "link") == "/secret"


def test_magic_links_are_refused(opener):
    top = os.open("/", os.O_PATH)
    for path in ("proc/self/exe", "/proc/self/root/etc", "proc/self/cwd", f"/proc/self/fd/{top}"):
        with pytest.raises(OSError) as caught:
            opener(top, path, os.O_PATH)
        assert caught.value.errno == errno.ELOOP
        with pytest.raises(OSError):
            paths.resolve_in_root(top, path)
    os.close(opener(top, "/proc/self/status", os.O_RDONLY))
    os.close(top)


def test_circles_end(root, opener):
    os.symlink("b", root[0] / "a")
    os.symlink("a", root[0] / "b")
    for act in (lambda: opener(root[1], "a", os.O_RDONLY), lambda: paths.resolve_in_root(root[1], "a")):
        with pytest.raises(OSError) as caught:
            act()
        assert caught.value.errno == errno.ELOOP


def test_the_last_link_is_kept_when_asked(root):
    os.symlink("etc/f", root[0] / "link")
    assert paths.resolve_in_root(root[1], "link", follow_last=False) == "/link"


def test_missing_parts_are_kept(root):
    os.symlink("/gone/far", root[0] / "dangling")
    assert paths.resolve_in_root(root[1], "dangling/x/../y") == "/gone/far/y"
    assert paths.resolve_in_root(root[1], "") == "/"


def test_below_a_file_is_no_directory(root, opener):
    for act in (lambda: opener(root[1], "etc/f/x", os.O_RDONLY), lambda: paths.resolve_in_root(root[1], "etc/f/x")):
        with pytest.raises(NotADirectoryError):
            act()


def test_directories_are_made_with_mode_and_named(root):
    os.symlink("/etc", root[0] / "link")
    old = os.umask(0o77)
    try:
        fd, made = paths.make_dirs_in_root(root[1], "/link/a/b", 0o751)
    finally:
        os.umask(old)
    os.close(fd)
    assert made == ["/etc/a", "/etc/a/b"]
    assert os.stat(root[0] / "etc/a/b").st_mode & 0o7777 == 0o751
    fd, made = paths.make_dirs_in_root(root[1], "/etc/a/b")
    os.close(fd)
    assert made == []


def test_directories_are_not_made_through_files_or_out_of_the_root(root, tmp_path):
    with pytest.raises(NotADirectoryError):
        paths.make_dirs_in_root(root[1], "etc/f/x")
    os.symlink("../../../../../../../../../../" + str(tmp_path), root[0] / "out")
    fd, _ = paths.make_dirs_in_root(root[1], "out/new")
    os.close(fd)
    assert not (tmp_path / "new").exists()


def test_a_racing_swap_never_leads_out(root, tmp_path):
    """CVE-2024-45310: a directory is exchanged for a link to the outside while paths below it are made."""
    outside = tmp_path / "outside"
    outside.mkdir()
    top = root[0]
    (top / "d").mkdir()
    os.symlink(outside, top / "evil")
    stop = threading.Event()

    def swap():
        from kedge.kernel.syscalls import RENAME_EXCHANGE, renameat2

        while not stop.is_set():
            renameat2(root[1], "d", root[1], "evil", RENAME_EXCHANGE)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(2000):
            try:
                fd, _ = paths.make_dirs_in_root(root[1], f"d/{number}/x")
                os.close(fd)
            except OSError:
                pass
    finally:
        stop.set()
        thread.join()
    assert os.listdir(outside) == []


def test_no_descriptor_is_leaked(root, opener):
    os.symlink("/etc/none/../f", root[0] / "odd")
    before = os.listdir("/proc/self/fd")
    for path in ("odd", "etc/f/x", "none", "/", "etc/.."):
        with suppress(OSError):
            os.close(opener(root[1], path, os.O_PATH))
        with suppress(OSError):
            paths.resolve_in_root(root[1], path)
    assert os.listdir("/proc/self/fd") == before
