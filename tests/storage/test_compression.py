"""Decompression: every format, in bounded memory, nothing cut off unnoticed, no foreign program."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import random
import stat
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.model.errors import IntegrityError
from kedge.storage.compression import Format, decompressed, detect

DATA = random.Random(1).randbytes(300_000) + bytes(3_000_000) + b"end"


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


COMPRESS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd}


class Trickle(io.RawIOBase):
    """Gives one to three bytes at a time, as a network may."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(min(size, 3))


@pytest.mark.parametrize("name", COMPRESS)
def test_detects_and_reads(name: str) -> None:
    compressed = COMPRESS[name](DATA)
    stream = decompressed(io.BytesIO(compressed))
    assert stream.format == name
    assert stream.read() == DATA
    assert stream.consumed == len(compressed)


def test_anything_else_is_plain() -> None:
    for data in (b"", b"x", b"\x1f\x8b", b"PK\3\4...", DATA):
        stream = decompressed(io.BytesIO(data))
        assert (stream.format, stream.read()) == ("uncompressed", data)


@pytest.mark.parametrize("name", COMPRESS)
def test_members_one_after_the_other_are_one_stream(name: str) -> None:
    compress = COMPRESS[name]
    assert decompressed(io.BytesIO(compress(b"one") + compress(b"") + compress(DATA))).read() == b"one" + DATA


@pytest.mark.parametrize("name", COMPRESS)
def test_reads_what_comes_in_small_pieces(name: str) -> None:
    compress = COMPRESS[name]
    assert decompressed(Trickle(compress(b"one" * 500) + compress(b"two"))).read() == b"one" * 500 + b"two"


@pytest.mark.parametrize("name", COMPRESS)
@pytest.mark.parametrize("cut", [1, 2, 5, 9, 1000])
def test_a_cut_off_stream_is_an_error(name: str, cut: int) -> None:
    with pytest.raises(IntegrityError):
        decompressed(io.BytesIO(COMPRESS[name](DATA)[:-cut])).read()


@pytest.mark.parametrize("name", COMPRESS)
def test_a_changed_byte_is_an_error(name: str) -> None:
    compressed = bytearray(COMPRESS[name](DATA))
    compressed[len(compressed) // 2] ^= 0x10
    with pytest.raises(IntegrityError):
        decompressed(io.BytesIO(bytes(compressed))).read()


@pytest.mark.parametrize("name", COMPRESS)
def test_foreign_bytes_behind_the_stream_are_an_error(name: str) -> None:
    with pytest.raises(IntegrityError):
        decompressed(io.BytesIO(COMPRESS[name](b"data") + b"something else")).read()


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_zeros_may_pad_the_end(name: str) -> None:
    assert decompressed(io.BytesIO(COMPRESS[name](b"data") + bytes(5000))).read() == b"data"


def test_zstd_frames_that_are_to_be_skipped_are() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (5000).to_bytes(4, "little") + bytes(5000)
    assert detect(skippable) == "zstd"
    assert decompressed(io.BytesIO(skippable + zstd(DATA) + skippable)).read() == DATA


def test_zstd_windows_are_bounded() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    compressed = compressor.compress(os.urandom(1000)) + compressor.flush()
    with pytest.raises(IntegrityError):
        decompressed(io.BytesIO(compressed)).read()


def test_xz_dictionaries_are_bounded() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    try:
        compressed = lzma.compress(b"x", filters=filters)
    except MemoryError:
        pytest.skip("not enough memory to make such a stream")
    with pytest.raises(IntegrityError):
        decompressed(io.BytesIO(compressed)).read()


@pytest.mark.parametrize("name", COMPRESS)
def test_a_bomb_comes_out_in_pieces(name: str) -> None:
    stream = decompressed(io.BytesIO(COMPRESS[name](bytes(100 << 20))))
    total = 0
    while piece := stream.read(1 << 20):
        assert len(piece) <= 1 << 20
        total += len(piece)
    assert total == 100 << 20
    assert stream.consumed < 1 << 20


def test_programs_named_like_decompressors_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2026-41567."""
    for program in ("xz", "unxz", "gzip", "unpigz", "pigz", "bzip2", "zstd", "tar"):
        trojan = tmp_path / program
        trojan.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        trojan.chmod(trojan.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    for compress in COMPRESS.values():
        assert decompressed(io.BytesIO(compress(b"data"))).read() == b"data"
    assert not (tmp_path / "ran").exists()


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["gzip", "bzip2", "xz", "zstd"]),
    st.binary(max_size=300),
    st.booleans(),
    st.integers(0, 400),
    st.binary(max_size=3),
)
def test_any_bytes_are_data_or_an_integrity_error(name: Format, data: bytes, valid: bool, at: int, new: bytes) -> None:
    raw = COMPRESS[name](data) if valid else data
    with contextlib.suppress(IntegrityError):
        decompressed(io.BytesIO(raw[:at] + new + raw[at + len(new) :]), format=name).read()
