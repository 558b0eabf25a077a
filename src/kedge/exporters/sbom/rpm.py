"""rpm's database: the sqlite form (rpm 4.16 and later), the ndb form (SUSE), and Berkeley's of older systems.

Owns what is not Berkeley's own of these containers (`berkeley`), and the header blobs in them (rpm's
docs/manual/format_header.md: an index of 16-byte entries before a data segment). Counts are checked before they are
used, and a database is believed no more bytes of blobs than its file could hold.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from kedge.exporters.sbom import berkeley
from kedge.exporters.sbom.files import Files, text_of
from kedge.exporters.sbom.package import Package, believable
from kedge.exporters.sbom.records import System

_FOLDERS: Final = ("var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm")
_LARGEST: Final = 1 << 30  # bytes of a database
_LARGEST_HEADER: Final = 64 << 20
_MOST_ENTRIES: Final = 1 << 16  # tags of one header
_MOST_PACKAGES: Final = 100_000
_NAME, _VERSION, _RELEASE, _EPOCH, _VENDOR, _LICENSE, _ARCH, _SOURCE = 1000, 1001, 1002, 1003, 1011, 1014, 1022, 1044
_INT32, _STRING, _I18N = 4, 6, 9
_STEPS: Final = 50_000_000  # of sqlite's virtual machine, for all packages


def rpm(files: Files, system: System) -> Iterator[Package]:
    """What rpm has installed."""
    seen = set[tuple[int, int]]()
    for folder in _FOLDERS:
        for name, read in (("rpmdb.sqlite", _sqlite), ("Packages.db", _ndb), ("Packages", _berkeley)):
            path = f"{folder}/{name}"
            fd = files.open(path)
            if fd is None:
                continue
            try:
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) in seen or status.st_size > _LARGEST:
                    continue  # one folder is often a link to the other
                seen.add((status.st_dev, status.st_ino))
                for blob in _within(read(fd), 2 * status.st_size):
                    if package := _package(blob, path, system):
                        yield package
            finally:
                os.close(fd)


def _within(blobs: Iterator[bytes], most: int) -> Iterator[bytes]:
    """The blobs until they come to more bytes than `most`, or are more than anybody has packages."""
    for _, blob in zip(range(_MOST_PACKAGES), blobs, strict=False):
        most -= len(blob)
        if most < 0:
            return
        yield blob


def _berkeley(fd: int) -> Iterator[bytes]:
    """The blobs of the hash file; beside them it holds the number of the last package, which is too short for one."""
    yield from berkeley.values(fd, _LARGEST_HEADER)


def _sqlite(fd: int) -> Iterator[bytes]:
    """The blobs of the table Packages. Opened read-only and as hostile: no schema of its own may do anything."""
    import sqlite3

    try:
        with closing(sqlite3.connect(f"file:/proc/self/fd/{fd}?mode=ro&immutable=1", uri=True)) as database:
            database.execute("PRAGMA trusted_schema=OFF")
            database.execute("PRAGMA cell_size_check=ON")
            steps = iter(range(_STEPS // 10_000))
            database.set_progress_handler(lambda: next(steps, None) is None, 10_000)
            kind = database.execute("SELECT type FROM sqlite_master WHERE name = 'Packages'").fetchone()
            if kind != ("table",):
                return
            query = "SELECT blob FROM Packages WHERE typeof(blob) = 'blob' AND length(blob) <= ? LIMIT ?"
            for (blob,) in database.execute(query, (_LARGEST_HEADER, _MOST_PACKAGES)):
                yield blob
    except (sqlite3.Error, OverflowError):
        return


def _ndb(fd: int) -> Iterator[bytes]:
    """The blobs of an ndb file (rpm's lib/backend/ndb/rpmpkg.c): pages of slots, then blobs in blocks of 16 bytes."""
    head = os.pread(fd, 32, 0)
    if len(head) < 32 or head[:4] != b"RpmP":
        return
    (pages,) = struct.unpack_from("<I", head, 12)
    for page in range(min(pages, 1024)):
        slots = os.pread(fd, 4096, page * 4096)
        for at in range(32 if page == 0 else 0, len(slots) - 15, 16):
            magic, index, block, count = struct.unpack_from("<4sIII", slots, at)
            if magic == b"Slot" and block and index:
                blob_head = os.pread(fd, 16, block * 16)
                if len(blob_head) == 16 and blob_head[:4] == b"BlbS":
                    size = struct.unpack_from("<I", blob_head, 12)[0]
                    if 0 < size <= min(count * 16, _LARGEST_HEADER):
                        yield os.pread(fd, size, block * 16 + 16)


# ---- headers ---------------------------------------------------------------------------------------------------------


def _package(blob: bytes, path: str, system: System) -> Package | None:
    fields = _header(blob)
    name, version = believable(fields.get(_NAME)), believable(fields.get(_VERSION))
    if not name or not version or name == "gpg-pubkey":
        return None
    release, epoch = believable(fields.get(_RELEASE)), fields.get(_EPOCH, "")
    qualifiers = {
        "arch": believable(fields.get(_ARCH)),
        "distro": system.distro,
        "epoch": epoch if epoch != "0" else "",
        "upstream": believable(fields.get(_SOURCE)),
    }
    return Package(
        "rpm",
        name,
        f"{version}-{release}" if release else version,
        path,
        system.id or "rpm",
        tuple(sorted(qualifiers.items())),
        license=believable(fields.get(_LICENSE)),
        supplier=believable(fields.get(_VENDOR)),
    )


def _header(blob: bytes) -> dict[int, str]:
    """The wanted tags of a header, as text; empty for what is none."""
    if len(blob) < 8:
        return {}
    entries, size = struct.unpack_from(">II", blob)
    start = 8 + 16 * entries
    if entries > _MOST_ENTRIES or start + size > len(blob):
        return {}
    found: dict[int, str] = {}
    for at in range(8, start, 16):
        tag, kind, offset, count = struct.unpack_from(">IIII", blob, at)
        if tag in _WANTED and count >= 1 and offset < size:
            if kind in (_STRING, _I18N):
                end = blob.find(b"\0", start + offset, start + size)
                found[tag] = text_of(blob[start + offset : end]) if end >= 0 else ""
            elif kind == _INT32 and offset + 4 <= size:
                found[tag] = str(struct.unpack_from(">I", blob, start + offset)[0])
    return found


_WANTED: Final = frozenset((_NAME, _VERSION, _RELEASE, _EPOCH, _VENDOR, _LICENSE, _ARCH, _SOURCE))
