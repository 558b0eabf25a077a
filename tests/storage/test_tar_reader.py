"""The tar parser: what it reads, and what it refuses."""

import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kedge.model.errors import IntegrityError
from kedge.storage.tar_format import BLOCK, Entry, checksum_of, format_header, format_record, parse_number, parse_time
from kedge.storage.tar_reader import Limits, TarReader

END = bytes(1024)


def header(name: bytes = b"a", kind: bytes = b"0", size: int | bytes = 0, **fields: bytes) -> bytes:
    """A raw ustar header; `size` as bytes is taken as it stands."""
    block = bytearray(format_header(Entry(b"x", b"0")))
    block[0:100] = name[:100].ljust(100, b"\0")
    block[156:157] = kind
    block[124:136] = b"%011o\0" % size if isinstance(size, int) else size
    places = {
        "mode": (100, 8),
        "uid": (108, 8),
        "gid": (116, 8),
        "mtime": (136, 12),
        "link": (157, 100),
        "magic": (257, 8),
        "prefix": (345, 155),
        "tail": (500, 12),
        "map": (386, 96),
        "more": (482, 1),
        "real": (483, 12),
    }
    for field, value in fields.items():
        at, length = places[field]
        block[at : at + length] = value.ljust(length, b"\0")
    block[148:156] = b"%06o\0 " % checksum_of(bytes(block))
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    data = b"".join(format_record(key, value) for key, value in records)
    return header(b"pax", kind, len(data)) + padded(data)


def entries(data: bytes, limits: Limits | None = None) -> list[Entry]:
    return list(TarReader(io.BytesIO(data), limits or Limits()))


def contents(data: bytes) -> dict[bytes, bytes]:
    reader = TarReader(io.BytesIO(data), Limits())
    found = {}
    for entry in reader:
        with tempfile.TemporaryFile() as file:
            reader.write_data(file.fileno(), entry)
            file.seek(0)
            found[entry.name] = file.read()
    return found


# ---- what it reads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_pythons_tarfile_writes(format: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for index, name in enumerate(["plain", "d" * 90 + "/" + "n" * 90, "a/b/c"]):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid, info.mtime = 3, 0o4755, 1000 + index, 7, 1234567890
            archive.addfile(info, io.BytesIO(b"abc"))
    found = entries(out.getvalue())
    assert [entry.name.decode() for entry in found] == ["plain", "d" * 90 + "/" + "n" * 90, "a/b/c"]
    assert [(e.mode, e.uid, e.gid, e.size, e.mtime) for e in found][1] == (0o4755, 1001, 7, 3, 1234567890 * 10**9)
    assert set(contents(out.getvalue()).values()) == {b"abc"}


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"], ["--format=oldgnu"], ["--format=v7"]])
def test_reads_what_gnu_tar_writes(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ("long" * 20)).write_bytes(b"x" * 5000)
    (tmp_path / "link").symlink_to("d")
    subprocess.run(["tar", *options, "-cf", "../t.tar", "."], cwd=tmp_path, check=True)
    data = (tmp_path / ".." / "t.tar").read_bytes()
    assert contents(data)[b"./d/" + b"long" * 20] == b"x" * 5000
    assert {entry.name: entry.link for entry in entries(data)}[b"./link"] == b"d"


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "gnu"])
def test_reads_sparse_files_of_every_form(tmp_path: Path, version: str) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        for at in range(60):
            file.seek(at * 100_000)
            file.write(b"data%d" % at)
        file.truncate(7_000_000)
    options = ["--format=gnu"] if version == "gnu" else ["--format=pax", f"--sparse-version={version}"]
    subprocess.run(["tar", "-S", *options, "-cf", "t.tar", "sparse"], cwd=tmp_path, check=True)
    data = (tmp_path / "t.tar").read_bytes()
    assert len(data) < 1_000_000
    assert contents(data) == {b"sparse": (tmp_path / "sparse").read_bytes()}


def test_pax_records_replace_the_header_and_later_ones_win() -> None:
    data = pax((b"path", b"first"), (b"path", b"real"), (b"size", b"4"), (b"uid", b"4000000000"), (b"mtime", b"-1.5"))
    found = entries(data + header(b"ignored", size=0) + padded(b"four") + END)
    assert (found[0].name, found[0].size, found[0].uid, found[0].mtime) == (b"real", 4, 4000000000, -1_500_000_000)


def test_global_headers_hold_until_replaced() -> None:
    data = (
        pax((b"uid", b"5"), (b"gid", b"6"), kind=b"g")
        + header(b"a")
        + pax((b"uid", b""))
        + header(b"b", uid=b"7")
        + END
    )
    assert [(entry.uid, entry.gid) for entry in entries(data)] == [(5, 6), (7, 6)]


def test_long_names_chain_and_the_last_one_counts() -> None:
    def long(text: bytes) -> bytes:
        return header(b"././@LongLink", b"L", len(text) + 1) + padded(text + b"\0")

    assert entries(long(b"x" * 300) + long(b"y" * 200) + header(b"short") + END)[0].name == b"y" * 200


def test_numbers_in_base_256() -> None:
    assert parse_number(b"\x80" + bytes(9) + b"\x01\x02") == 258
    assert parse_number(b"\xff" * 12) == -1
    assert parse_number(b"  644 \0\0") == 0o644
    assert parse_number(bytes(8)) == 0


def test_times_keep_nanoseconds() -> None:
    assert parse_time(b"1.000000001") == 1_000_000_001
    assert parse_time(b"12.1234567899") == 12_123_456_789


def test_an_archive_may_end_without_its_mark() -> None:
    assert len(entries(header(b"a"))) == 1
    assert entries(b"") == []


def test_links_and_directories_have_no_data_whatever_their_size_says() -> None:
    data = header(b"l", b"1", 512, link=b"x") + header(b"d", b"5", 99) + header(b"last") + END
    assert [entry.name for entry in entries(data)] == [b"l", b"d", b"last"]


def test_names_are_bytes_of_any_kind() -> None:
    assert entries(header(b"caf\xe9\xff\n") + END)[0].name == b"caf\xe9\xff\n"


# ---- what it refuses -------------------------------------------------------------------------------------------------

BAD = {
    "negative size": header(size=b"\xff" * 12),
    "size beyond 64 bits": header(size=b"\x80" + b"\xff" * 11),
    "size that is no octal number": header(size=b"0o17_7     \0"),
    "size with a sign": header(size=b"+0000000012\0"),
    "octal digits beyond seven": header(size=b"00000000999\0"),
    "checksum": header()[:148] + b"0000000\0" + header()[156:],
    "negative pax size": pax((b"size", b"-1")) + header(),
    "pax size beyond 64 bits": pax((b"size", b"9" * 30)) + header(),
    "pax path with NUL": pax((b"path", b"a\0b")) + header(),
    "id beyond 32 bits": pax((b"uid", b"4294967296")) + header(),
    "id that means none": pax((b"uid", b"4294967295")) + header(),
    "pax record longer than the header": header(b"p", b"x", 12) + padded(b"99 path=abc\n") + header(),
    "pax record of length 0": header(b"p", b"x", 9) + padded(b"0 path=a\n") + header(),
    "pax record without equals": header(b"p", b"x", 8) + padded(b"8 patha\n") + header(),
    "pax record with a huge length": header(b"p", b"x", 40) + padded(b"9" * 40) + header(),
    "extended header without an entry": pax((b"path", b"a")) + END,
    "extended header too long": header(b"p", b"L", 1 << 30),
    "unknown type": header(kind=b"Z"),
    "cut off in a header": header()[:300],
    "cut off in data": header(size=600) + bytes(100),
    "lone zero block": header() + bytes(512) + header(b"b") + END,
    "sparse map out of order": header(
        kind=b"S",
        magic=b"ustar  \0",
        size=512,
        map=b"%011o\0%011o\0" % (600, 256) + b"%011o\0%011o\0" % (0, 256),
        real=b"%011o\0" % 1000,
    )
    + bytes(512),
    "sparse map beyond the file": header(
        kind=b"S", size=512, map=b"%011o\0%011o\0" % (9999, 512), real=b"%011o\0" % 1000
    )
    + bytes(512),
    "sparse map without end": header(kind=b"S", size=0, more=b"\1") + (bytes(504) + b"\1" + bytes(7)) * 5000,
    "sparse map that lies about its data": header(
        kind=b"S", size=0, map=b"%011o\0%011o\0" % (0, 512), real=b"%011o\0" % 1000
    ),
    "negative sparse offset": header(kind=b"S", size=512, map=b"\xff" * 12 + b"%011o\0" % 512, real=b"%011o\0" % 1000)
    + bytes(512),
    "pax sparse map of odd length": pax((b"GNU.sparse.map", b"0,1,2"), (b"GNU.sparse.size", b"9"))
    + header(size=1)
    + bytes(512),
    "pax 1.0 map with a huge count": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9"))
    + header(size=512)
    + padded(b"999999999\n0\n"),
    "pax 1.0 map that is no number": pax((b"GNU.sparse.major", b"1")) + header(size=512) + b"x" * 512,
}


@pytest.mark.parametrize("fault", BAD)
def test_refuses(fault: str) -> None:
    with pytest.raises(IntegrityError):
        entries(BAD[fault] if fault.startswith("cut off") else BAD[fault] + END)


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        (Limits(entries=100), header() * 1000),
        (Limits(entries=100), pax((b"uid", b"1"), kind=b"g") * 1000),
        (Limits(total=10_000), header() * 100),
        (Limits(entry=100), header(size=101) + bytes(512)),
        (Limits(total=10_000), header(kind=b"S", size=0, map=b"", real=b"%011o\0" % 10_001)),
        (Limits(path=200), pax((b"path", b"a" * 201)) + header()),
        (Limits(header=1000), pax((b"SCHILY.xattr.user.a", b"x" * 2000)) + header()),
    ],
    ids=["entries", "headers", "total", "entry", "claimed", "path", "header"],
)
def test_stops_at_a_limit(limits: Limits, data: bytes) -> None:
    with pytest.raises(IntegrityError):
        entries(data + END, limits)


class Bomb:
    """Endless zeros from nearly nothing."""

    consumed = 1000

    def __init__(self) -> None:
        self.given = 0

    def read(self, size: int) -> bytes:
        self.given += size
        return header(b"big", size=(1 << 33) - 1) + bytes(size - 512) if self.given == size else bytes(size)


def test_stops_a_bomb_while_streaming() -> None:
    bomb = Bomb()
    with pytest.raises(IntegrityError, match="times its size"):
        list(TarReader(bomb, Limits(ratio_from=1 << 24)))
    assert bomb.given < 1 << 25


def test_a_hole_takes_no_space(tmp_path: Path) -> None:
    data = header(b"zeros", size=64 << 20) + bytes(64 << 20) + END
    reader = TarReader(io.BytesIO(data), Limits())
    with (tmp_path / "f").open("wb") as file:
        reader.write_data(file.fileno(), next(iter(reader)))
    assert os.stat(tmp_path / "f").st_size == 64 << 20
    assert os.stat(tmp_path / "f").st_blocks * 512 < 4 << 20


# ---- fuzz ------------------------------------------------------------------------------------------------------------

_field = st.binary(max_size=14)
_records = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"path",
                b"linkpath",
                b"size",
                b"uid",
                b"mtime",
                b"GNU.sparse.major",
                b"GNU.sparse.map",
                b"GNU.sparse.offset",
                b"GNU.sparse.numbytes",
                b"GNU.sparse.realsize",
                b"SCHILY.xattr.user.a",
            ]
        ),
        st.one_of(st.binary(max_size=30), st.integers(-(2**70), 2**70).map(lambda n: b"%d" % n)),
    ),
    max_size=4,
)
_pieces = st.one_of(
    st.builds(
        lambda name, kind, size, fields: header(name, kind, size, **fields),
        st.binary(max_size=40),
        st.sampled_from([bytes([c]) for c in b"01234567SDVKLxg\0Z"]),
        st.one_of(st.integers(0, 2000), _field.map(lambda b: b.ljust(12, b"\0")[:12])),
        st.dictionaries(
            st.sampled_from(["mode", "uid", "mtime", "link", "magic", "prefix", "tail", "map", "more", "real"]),
            _field,
            max_size=3,
        ),
    ),
    _records.map(lambda records: pax(*records)),
    st.binary(max_size=700).map(padded),
    st.binary(max_size=40),
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(_pieces, max_size=8).map(b"".join))
def test_any_bytes_are_entries_or_an_integrity_error(data: bytes) -> None:
    reader = TarReader(io.BytesIO(data), Limits(entry=1 << 20))
    with tempfile.TemporaryFile() as file:
        try:
            for entry in reader:
                os.ftruncate(file.fileno(), 0)
                os.lseek(file.fileno(), 0, os.SEEK_SET)
                reader.write_data(file.fileno(), entry)
        except IntegrityError:
            pass


@settings(max_examples=100, deadline=None)
@given(
    st.binary(min_size=1, max_size=300).filter(lambda b: 0 not in b and b.strip(b"/")),
    st.integers(0, 2**32 - 2),
    st.integers(-(2**33), 2**36),
    st.dictionaries(
        st.binary(min_size=1, max_size=20).filter(lambda b: b"=" not in b and 0 not in b),
        st.binary(max_size=99),
        max_size=3,
    ),
)
def test_what_the_writer_formats_the_reader_reads(
    name: bytes, uid: int, seconds: int, xattrs: dict[bytes, bytes]
) -> None:
    entry = Entry(name, b"0", 0o4711, uid, uid, mtime=seconds * 10**9, xattrs=xattrs)
    assert entries(format_header(entry) + END) == [entry]
