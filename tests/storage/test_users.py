"""Users by the image's own files, whatever stands in their place."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.kernel import identity
from kedge.model import ops
from kedge.model.errors import InvalidInput, KedgeError, NotFound
from kedge.storage.ownership import Ids
from kedge.storage.users import User, resolve_owner, resolve_user

PASSWD = """# comment
root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/home/app:/bin/sh

1234:x:77:77::/odd:
bad:x:abc:1::/:
huge:x:4294967296:0::/:
minus:x:-1:0::/:
app:x:5:5::/second:
nohome:x:9:9
"""
GROUP = "root:x:0:\nstaff:x:50:app,other\nwheel:x:10:other,app\nstaff:x:51:\nbad:x:x:app\n"


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path / "etc"


@pytest.fixture
def root(etc: Path) -> Iterator[int]:
    fd = os.open(etc.parent, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (), "/root", "root")),
        ("app", User(1000, 1001, (50, 10), "/home/app", "app")),
        ("1000", User(1000, 1001, (50, 10), "/home/app", "app")),
        ("app:wheel", User(1000, 10, (), "/home/app", "app")),
        ("app:7", User(1000, 7, (), "/home/app", "app")),
        ("1234", User(1234, 0)),
        ("4000:staff", User(4000, 50)),
        ("0:0", User(0, 0, (), "/root", "root")),
        ("2147483647", User(2147483647, 0)),
        ("nohome", User(9, 9, (), "/", "nohome")),
        ("app:", User(1000, 1001, (50, 10), "/home/app", "app")),
        (":wheel", User(0, 10, (), "/root", "root")),
    ],
)
def test_resolves(root: int, text: str, user: User) -> None:
    assert resolve_user(root, text) == user


@pytest.mark.parametrize(
    "text",
    ["4294967295", "2147483648", "2147483648:0", "-1", "+0", "0x0", "0X1f", " 0", "0 ", "00x", "1:-1", "1:+0",
     "1:4294967296", "9" * 100, "9" * 5000, "a b",
     "a\nb", "٣", "nobody", "bad", "huge", "minus", "app:nogroup", "app:bad"],
)  # fmt: skip
def test_refuses_and_never_falls_back_to_root(root: int, text: str) -> None:
    """CVE-2024-40635."""
    with pytest.raises(InvalidInput):
        resolve_user(root, text)


def test_names_need_the_files_and_numbers_do_not() -> None:
    assert resolve_user(None, "12:13") == User(12, 13)
    with pytest.raises(NotFound):
        resolve_user(None, "app")


def test_chown_takes_the_same_number_for_the_group(root: int) -> None:
    assert resolve_owner(root, ops.Owner(55)) == Ids(55, 55)
    assert resolve_owner(root, ops.Owner("app")) == Ids(1000, 1001)
    assert resolve_owner(root, ops.Owner("app", "staff")) == Ids(1000, 50)
    assert resolve_owner(root, ops.Owner(None, 9)) == Ids(0, 9)
    with pytest.raises(NotFound):
        resolve_owner(root, ops.Owner("nobody"))
    with pytest.raises(InvalidInput):
        resolve_owner(root, ops.Owner(1 << 32))


def _link(target: str) -> object:
    return lambda path: path.symlink_to(target)


STRANGE = {
    "fifo": lambda path: os.mkfifo(path),
    "directory": lambda path: path.mkdir(),
    "loop": _link("passwd"),
    "proc": _link("/proc/self/fd/0"),
    "host": _link("../../../../../../../../etc/hostname"),
    "missing": lambda path: None,
    "line": lambda path: path.write_bytes(b"x" * (2 << 20)),
    "large": lambda path: (path.touch(), os.truncate(path, 1 << 30)),
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_honest_passwd_file_neither_hangs_nor_leads_out(etc: Path, root: int, kind: str) -> None:
    """CVE-2024-9676, GHSA-72x6-4j93-7w86."""
    (etc / "passwd").unlink()
    STRANGE[kind](etc / "passwd")  # type: ignore[operator]
    with pytest.raises(KedgeError):
        resolve_user(root, "app")
    if kind not in ("line", "large"):
        assert resolve_user(root, "1000") == User(1000, 0)


def test_a_device_is_not_opened(etc: Path, root: int) -> None:
    if not identity.current().privileged:
        pytest.skip("needs root: makes a device")
    (etc / "passwd").unlink()
    os.mknod(etc / "passwd", 0o20644, os.makedev(1, 5))
    with pytest.raises(KedgeError):
        resolve_user(root, "app")


def test_too_many_groups_are_refused(etc: Path, root: int) -> None:
    (etc / "group").write_text("".join(f"g{n}:x:{n}:app\n" for n in range(70_000)))
    with pytest.raises(InvalidInput):
        resolve_user(root, "app")


def test_a_link_stays_inside_the_image(etc: Path, root: int) -> None:
    (etc / "passwd").rename(etc.parent / "real")
    (etc / "passwd").symlink_to("/real")
    assert resolve_user(root, "app").uid == 1000
