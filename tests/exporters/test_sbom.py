"""What package managers wrote is found, whatever else is in the tree; the document is sound by another's checker."""

import json
import os
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kedge.exporters.sbom.package import Package
from kedge.exporters.sbom.scan import Inventory, scan
from kedge.exporters.sbom.spdx import document

CREATED = "1980-01-01T00:00:01Z"
DPKG = """\
Package: bash
Status: install ok installed
Maintainer: A Maintainer <someone@example.test>
Architecture: amd64
Source: bash-source (5.2)
Version: 5.2.15-2+b2
Description: a shell
 with more lines: none of which counts
 Package: no

Package: removed
Status: deinstall ok config-files
Version: 1
"""
APK = """\
C:Q1/se1PjO94hYXbfpNR1/61hVORIc=
P:musl
V:1.2.5-r0
A:x86_64
L:MIT
o:musl
F:lib
R:ld-musl-x86_64.so.1

P:busybox-binsh
V:1.36.1-r29
A:x86_64
L:GPL-2.0-only
o:busybox
"""


@contextmanager
def opened(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def inventory(root: Path) -> Inventory:
    with opened(root) as fd:
        return scan(fd)


def urls(root: Path) -> list[str]:
    return [package.url for package in inventory(root).packages]


def write(root: Path, name: str, data: str | bytes, mode: int = 0o644) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)
    return path


def test_debian_packages(tmp_path: Path) -> None:
    write(tmp_path, "etc/os-release", 'ID=debian\nVERSION_ID="12"\n')
    write(tmp_path, "var/lib/dpkg/status", DPKG)
    write(tmp_path, "var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12.4\nArchitecture: all\n")
    write(tmp_path, "var/lib/dpkg/status.d/base.md5sums", "Package: not-one\nVersion: 1\n")
    found = inventory(tmp_path).packages
    assert [package.url for package in found] == [
        "pkg:deb/debian/base-files@12.4?arch=all&distro=debian-12",
        "pkg:deb/debian/bash@5.2.15-2+b2?arch=amd64&distro=debian-12",
    ]
    assert found[1].source == "bash-source"


def test_alpine_packages(tmp_path: Path) -> None:
    write(tmp_path, "etc/os-release", "ID=alpine\nVERSION_ID=3.20.1\n")
    write(tmp_path, "lib/apk/db/installed", APK)
    assert urls(tmp_path) == [
        "pkg:apk/alpine/busybox-binsh@1.36.1-r29?arch=x86_64&distro=alpine-3.20.1",
        "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20.1",
    ]


def test_python_distributions(tmp_path: Path) -> None:
    site = "usr/lib/python3/dist-packages"
    write(tmp_path, f"{site}/Foo_Bar-1.0.dist-info/METADATA", "Name: Foo_Bar\nVersion: 1.0\nLicense: MIT\n\nName: x\n")
    write(tmp_path, f"{site}/old.egg-info/PKG-INFO", "Name: old\nVersion: 2\n")
    write(tmp_path, f"{site}/flat-3.egg-info", "Name: flat\nVersion: 3\n")
    assert urls(tmp_path) == ["pkg:pypi/flat@3", "pkg:pypi/foo-bar@1.0", "pkg:pypi/old@2"]


def test_node_modules_and_locks(tmp_path: Path) -> None:
    write(tmp_path, "app/node_modules/left/package.json", '{"name":"left","version":"1.0.0","license":"ISC"}')
    write(tmp_path, "app/node_modules/@scope/right/package.json", '{"name":"@scope/right","version":"2.0.0"}')
    write(tmp_path, "app/node_modules/left/lib/package.json", '{"name":"inner","version":"9"}')
    lock = {
        "lockfileVersion": 3,
        "packages": {
            "": {"name": "app", "version": "1"},
            "node_modules/left": {"version": "1.0.0"},
            "node_modules/bundled": {"version": "4.0.0"},
            "node_modules/tester": {"version": "5.0.0", "dev": True},
        },
    }
    write(tmp_path, "app/package-lock.json", json.dumps(lock))
    old = {"dependencies": {"a": {"version": "1", "dependencies": {"b": {"version": "2"}}}}}
    write(tmp_path, "old/npm-shrinkwrap.json", json.dumps(old))
    assert urls(tmp_path) == [
        "pkg:npm/a@1",
        "pkg:npm/b@2",
        "pkg:npm/bundled@4.0.0",
        "pkg:npm/left@1.0.0",
        "pkg:npm/%40scope/right@2.0.0",
    ]


def test_what_a_go_program_was_linked_with(tmp_path: Path) -> None:
    program = next((p for p in map(shutil.which, ("docker-registry", "skopeo", "docker", "umoci")) if p), None)
    if program is None:
        pytest.skip("no program written in Go is installed")
    (tmp_path / "bin").mkdir()
    shutil.copy(program, tmp_path / "bin" / "program")
    found = inventory(tmp_path).packages
    kinds = {package.name: package.version for package in found}
    assert "stdlib" in kinds
    go = shutil.which("go")
    if go:
        listed = subprocess.run([go, "version", "-m", program], capture_output=True, text=True, check=True).stdout
        words = [line.split() for line in listed.splitlines()]
        assert {w[1].rpartition("/")[2] for w in words if w[0] in ("dep", "mod")} - {""} >= kinds.keys() - {"stdlib"}
        assert kinds["stdlib"] in listed


@pytest.fixture(scope="module")
def a_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An rpm made by rpmbuild."""
    if not shutil.which("rpmbuild") or not shutil.which("rpm"):
        pytest.skip("rpm is not installed (apt-get install rpm)")
    folder = tmp_path_factory.mktemp("rpm")
    head = "Name: hello\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: x\nLicense: MIT\nBuildArch: noarch\n"
    spec = head + "%description\nx\n%files\n"
    (folder / "hello.spec").write_text(spec)
    words = ["rpmbuild", "-bb", "--define", f"_topdir {folder}", str(folder / "hello.spec")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"rpmbuild: {done.stderr[-300:]}")
    return next(folder.glob("RPMS/noarch/*.rpm"))


@pytest.fixture(scope="module")
def header(a_package: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """rpm's own database with that package, and the header in it."""
    folder = tmp_path_factory.mktemp("database")
    rpm = ["rpm", "--dbpath", str(folder), "--define", "_db_backend sqlite"]
    done = subprocess.run([*rpm, "-i", "--justdb", "--nodeps", str(a_package)], capture_output=True, check=False)
    if done.returncode or not (folder / "rpmdb.sqlite").exists():
        pytest.skip(f"this rpm does not write sqlite: {done.stderr[-200:]!r}")
    with sqlite3.connect(folder / "rpmdb.sqlite") as database:
        (blob,) = database.execute("SELECT blob FROM Packages").fetchone()
    return folder / "rpmdb.sqlite", blob


@pytest.mark.parametrize("form", ["sqlite", "ndb"])
def test_rpms_databases(tmp_path: Path, header: tuple[Path, bytes], form: str) -> None:
    write(tmp_path, "etc/os-release", "ID=fedora\nVERSION_ID=40\n")
    path, blob = header
    if form == "sqlite":
        write(tmp_path, "usr/lib/sysimage/rpm/rpmdb.sqlite", path.read_bytes())
    else:  # Debian's rpm cannot write it: one page of slots, the third of which names the blob in the second page
        slots = b"RpmP" + struct.pack("<IIII", 0, 1, 1, 2) + bytes(12)
        slots += b"Slot" + struct.pack("<III", 1, 256, (len(blob) + 43) // 16)
        page = slots.ljust(4096, b"\0")
        write(tmp_path, "var/lib/rpm/Packages.db", page + b"BlbS" + struct.pack("<III", 1, 1, len(blob)) + blob)
    (found,) = inventory(tmp_path).packages
    assert (found.name, found.version, found.license) == ("hello", "1.2-3", "MIT")
    assert found.url.startswith("pkg:rpm/fedora/hello@1.2-3?arch=noarch&distro=fedora-40&epoch=4&upstream=hello-1.2-3")


# ---- hostile trees ---------------------------------------------------------------------------------------------------


def test_links_out_of_the_tree_and_special_files_are_not_read(tmp_path: Path) -> None:
    outside = write(tmp_path, "outside", "Package: stolen\nVersion: 1\n\n")
    root = tmp_path / "root"
    (root / "var/lib/dpkg/status.d").mkdir(parents=True)
    (root / "var/lib/dpkg/status").symlink_to(outside)
    (root / "var/lib/dpkg/status.d/up").symlink_to("../../../../../outside")
    os.mkfifo(root / "var/lib/dpkg/status.d/pipe")
    (root / "app/node_modules").mkdir(parents=True)
    (root / "app/node_modules/loop").symlink_to("..")
    os.mkfifo(root / "app/package-lock.json")
    assert urls(root) == []


def test_nonsense_in_every_record_is_survived(tmp_path: Path) -> None:
    write(
        tmp_path,
        "var/lib/dpkg/status",
        b"\xff\xfe:::\n\n\x00Package: \x00\nVersion\n" + b"Package: p\nVersion: 1\n" + b"A" * 100_000,
    )
    write(tmp_path, "lib/apk/db/installed", b"P:\xff\nV:\n\nP\n\n\n:")
    write(tmp_path, "var/lib/rpm/rpmdb.sqlite", b"SQLite format 3\0" + os.urandom(4096))
    write(tmp_path, "var/lib/rpm/Packages.db", b"RpmP" + struct.pack("<III", 0, 0, 0xFFFFFFFF) + os.urandom(8192))
    write(tmp_path, "a/node_modules/x/package.json", b"[" * 100_000)
    write(tmp_path, "a/node_modules/y/package.json", '{"name":{"a":1},"version":["x"]}')
    write(tmp_path, "a/node_modules/z/package.json", '{"name":"z\\u0000","version":"1"}')
    write(tmp_path, "a/package-lock.json", '{"packages":{"node_modules/q":[1]},"dependencies":7}')
    write(tmp_path, "b.dist-info/METADATA", b"\xff\xffName: \xff\nVersion:\n")
    for number, head in enumerate((b"\x7fELF\x02\x01\x01" + bytes(9), b"\x7fELF\x01\x02" + bytes(10))):
        write(tmp_path, f"bin/elf{number}", head + os.urandom(48) + os.urandom(9000), 0o755)
    write(tmp_path, os.fsdecode(b"bin/\xff\xfe"), b"x" * 5000, 0o755)
    found = inventory(tmp_path).packages
    assert [package.name for package in found] == ["p"]
    json.dumps(document(Inventory(inventory(tmp_path).system, found), "x", "y", CREATED, "kedge-0")).encode()


def test_a_database_with_views_and_triggers_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "var/lib/rpm/rpmdb.sqlite"
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n, zeroblob(100) FROM c"
        database.execute(f"CREATE VIEW Packages(hnum, blob) AS {endless}")
    assert urls(tmp_path) == []


def test_a_header_that_claims_more_than_it_has_is_none() -> None:
    from kedge.exporters.sbom.rpm import _header

    assert _header(struct.pack(">II", 0xFFFFFFFF, 1)) == {}
    assert _header(struct.pack(">II", 1, 4) + struct.pack(">IIII", 1000, 6, 2**31, 1) + b"abcd") == {}
    assert _header(struct.pack(">II", 1, 4) + struct.pack(">IIII", 1000, 6, 0, 1) + b"abcd") == {1000: ""}
    assert _header(struct.pack(">II", 1, 4) + struct.pack(">IIII", 1000, 6, 0, 1) + b"abc\0") == {1000: "abc"}


# ---- the document ----------------------------------------------------------------------------------------------------


def test_the_document_is_sound_by_the_spdx_tools(tmp_path: Path) -> None:
    parser = pytest.importorskip("spdx_tools.spdx.parser.parse_anything", reason="spdx-tools is not installed")
    validator = pytest.importorskip("spdx_tools.spdx.validation.document_validator")
    write(tmp_path, "var/lib/dpkg/status", DPKG)
    write(tmp_path, "lib/apk/db/installed", APK)
    write(tmp_path, "a.dist-info/METADATA", "Name: a\nVersion: 1\nLicense: Whatever (v2)\n")
    path = tmp_path / "x.spdx.json"
    path.write_text(
        json.dumps(document(inventory(tmp_path), "docker.io/library/x:1", "sha256:ab", CREATED, "kedge-0.1.0"))
    )
    parsed = parser.parse_file(str(path))
    assert [message.validation_message for message in validator.validate_full_spdx_document(parsed)] == []
    assert len(parsed.packages) == 5


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ("MIT", "MIT"),
        ("MIT AND (GPL-2.0-only OR ISC)", "MIT AND (GPL-2.0-only OR ISC)"),
        ("GPL", "NOASSERTION"),
        ("MIT OR", "NOASSERTION"),
        ("MIT MIT", "NOASSERTION"),
        ("MIT; see LICENSE", "NOASSERTION"),
    ],
)
def test_only_known_licences_are_declared(text: str, declared: str) -> None:
    from kedge.exporters.sbom.records import System

    package = Package("pypi", "a", "1", "x", license=text)
    made = document(Inventory(System(), (package,)), "x", "y", CREATED, "kedge-0")["packages"][1]
    assert made["licenseDeclared"] == declared


def test_the_same_tree_gives_the_same_document(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for file in ("b", "a") if name == "one" else ("a", "b"):
            write(tmp_path / name, f"{file}.dist-info/METADATA", f"Name: {file}\nVersion: 1\n")
    one, two = (document(inventory(tmp_path / name), "x", "y", CREATED, "t") for name in ("one", "two"))
    assert one == two
