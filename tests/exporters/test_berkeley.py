"""rpm's Berkeley databases are read as Berkeley's own tools write them, and nothing in a bad one does harm."""

import os
import random
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from kedge.exporters.sbom import berkeley
from kedge.exporters.sbom.files import Files
from kedge.exporters.sbom.records import read_system
from kedge.exporters.sbom.rpm import rpm

LONGEST = 64 << 20


def header(name: str, filler: int = 0, arch: str = "x86_64") -> bytes:
    """A package's header as rpm stores it: an index of tags, then their data."""
    tags = ((1000, name), (1001, "1.0"), (1002, "2.el7"), (1004, "s" * filler), (1014, "MIT"), (1022, arch))
    index, data = b"", b""
    for tag, text in tags:
        index += struct.pack(">IIII", tag, 6, len(data), 1)
        data += text.encode() + b"\0"
    return struct.pack(">II", len(tags), len(data)) + index + data


def database(path: Path, blobs: list[bytes], *settings: str) -> Path:
    """A hash file made by Berkeley DB's own tool; the first key holds the number of the last package, as rpm has it."""
    tool = shutil.which("db_load")
    if not tool:
        pytest.skip("db_load is not installed (apt-get install db-util)")
    rows = [(0, struct.pack("<I", len(blobs))), *enumerate(blobs, 1)]
    lines = [f" {struct.pack('<I', key).hex()}\n {value.hex()}" for key, value in rows]
    text = "\n".join(("VERSION=3", "format=bytevalue", "type=hash", *settings, "HEADER=END", *lines, "DATA=END", ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([tool, path], input=text.encode(), check=True)
    return path


def read(path: Path) -> list[bytes]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(berkeley.values(fd, LONGEST))
    finally:
        os.close(fd)


def packages(root: Path) -> list[str]:
    fd = os.open(root, os.O_RDONLY)
    try:
        files = Files(fd)
        return sorted(f"{one.name} {one.version}" for one in rpm(files, read_system(files)))
    finally:
        os.close(fd)


SIZES = [0, 100, 3000, 4000, 4096, 9000, 70_000, 300_000]


@pytest.mark.parametrize("settings", [(), ("db_pagesize=512",), ("db_pagesize=65536",), ("db_lorder=4321",),
                                      ("h_ffactor=2", "h_nelem=1000")], ids=str)  # fmt: skip
def test_what_berkeleys_tool_wrote_is_read(tmp_path: Path, settings: tuple[str, ...]) -> None:
    blobs = [header(f"package-{number}", SIZES[number % len(SIZES)]) for number in range(120)]
    path = database(tmp_path / "root/var/lib/rpm/Packages", blobs, *settings)
    assert sorted(read(path)) == sorted([*blobs, struct.pack("<I", len(blobs))])
    assert packages(tmp_path / "root") == sorted(f"package-{number} 1.0-2.el7" for number in range(120))


def test_rpm_reads_the_same(tmp_path: Path) -> None:
    if not shutil.which("rpm") or b"bdb_ro" not in subprocess.run(["rpm", "--showrc"], capture_output=True).stdout:
        pytest.skip("no rpm that reads Berkeley databases is installed (apt-get install rpm)")
    blobs = [header(f"package-{number}", SIZES[number % len(SIZES)]) for number in range(30)]
    folder = database(tmp_path / "root/var/lib/rpm/Packages", blobs).parent
    asked = [
        "rpm",
        "--dbpath",
        folder,
        "--define",
        "_db_backend bdb_ro",
        "-qa",
        "--qf",
        "%{NAME} %{VERSION}-%{RELEASE}\n",
    ]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert packages(tmp_path / "root") == sorted(told.splitlines())


def test_other_files_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data in (b"", b"x" * 5000, bytes(4096), struct.pack("<12xII", 0x061561, 9)):
        path.write_bytes(data)
        assert read(path) == []


# ---- hostile files ---------------------------------------------------------------------------------------------------

SIZE = 512


def forged(*pages: bytes, last: int | None = None) -> bytes:
    """A hash file of these pages, behind the one that describes it."""
    head = bytearray(SIZE)
    struct.pack_into("<III", head, 12, 0x061561, 9, SIZE)
    head[25] = 8
    struct.pack_into("<I", head, 32, len(pages) if last is None else last)
    return bytes(head) + b"".join(page.ljust(SIZE, b"\0") for page in pages)


def entries(*items: bytes) -> bytes:
    """A page of entries."""
    page = bytearray(SIZE)
    struct.pack_into("<HH", page, 20, len(items), 0)
    page[25] = 13
    end = SIZE
    for number, item in enumerate(items):
        end -= len(item)
        page[end : end + len(item)] = item
        struct.pack_into("<H", page, 26 + 2 * number, end)
    return bytes(page)


def overflow(following: int, data: bytes, claimed: int | None = None) -> bytes:
    page = bytearray(SIZE)
    struct.pack_into("<I", page, 16, following)
    struct.pack_into("<H", page, 22, len(data) if claimed is None else claimed)
    page[25] = 7
    page[26 : 26 + len(data)] = data
    return bytes(page)


def off_page(number: int, length: int) -> bytes:
    return b"\3\0\0\0" + struct.pack("<II", number, length)


KEY = b"\1key"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (forged(entries(KEY, b"\1value")), [b"value"]),
        (forged(entries(KEY, off_page(2, 8)), overflow(3, b"four"), overflow(0, b"more")), [b"fourmore"]),
        (forged(entries(KEY, off_page(2, 8)), overflow(2, b"loop")), [b"looploop"]),
        (forged(entries(KEY, off_page(2, 1 << 31)), overflow(2, b"loop")), []),
        (forged(entries(KEY, off_page(2, 8)), overflow(2, b"", 0)), []),
        (forged(entries(KEY, off_page(2, 8)), overflow(9, b"gone")), []),
        (forged(entries(KEY, off_page(1, 8))), []),
        (forged(entries(KEY, off_page(2, 600)), overflow(0, b"x" * 400, 65535)), []),
        (forged(entries(KEY, b"\3short")), []),
        (forged(entries(KEY, b"\4" + bytes(11))), []),
        (forged(entries(KEY, b"\1value"), last=0xFFFFFFFF), [b"value"]),
        (forged(struct.pack("<20xH", 65535).ljust(25, b"\0") + b"\r"), []),
        (forged(struct.pack("<20xH3xB2H", 2, 13, 500, 501)), []),
        (forged(struct.pack("<20xH3xB2H", 2, 13, 500, 3)), []),
        (forged(entries(KEY, b"\1value"))[:700], []),
    ],
)  # fmt: skip
def test_a_forged_file_is_read_no_further_than_it_is_sound(tmp_path: Path, data: bytes, found: list[bytes]) -> None:
    (tmp_path / "x").write_bytes(data)
    assert read(tmp_path / "x") == found


def test_many_entries_for_one_long_value_cost_no_more_than_the_file(tmp_path: Path) -> None:
    """200 pages of 30 entries that each claim the same chain: 100 kB, not 600 MB."""
    chain = [overflow(number + 1, b"x" * 480) for number in range(201, 401)]
    pages = [entries(*[part for _ in range(15) for part in (KEY, off_page(201, 480 * 200))]) for _ in range(200)]
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    (tmp_path / "var/lib/rpm/Packages").write_bytes(forged(*pages, *chain))
    assert sum(map(len, read(tmp_path / "var/lib/rpm/Packages"))) <= 2 * 401 * SIZE
    assert packages(tmp_path) == []


def test_any_damage_is_survived(tmp_path: Path) -> None:
    blobs = [header(f"package-{number}", SIZES[number % 5]) for number in range(40)]
    good = database(tmp_path / "good", blobs, "db_pagesize=1024").read_bytes()
    path = tmp_path / "root/var/lib/rpm/Packages"
    path.parent.mkdir(parents=True)
    dice = random.Random(7)
    end = time.monotonic() + 20
    for _ in range(300):
        data = bytearray(good[: dice.choice((len(good), dice.randrange(len(good))))])
        for _ in range(dice.randrange(1, 40)):
            if data:
                data[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(data)
        assert len(packages(tmp_path / "root")) <= 40
        if time.monotonic() > end:
            break
