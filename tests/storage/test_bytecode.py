"""Lowering a layer's times leaves Python's bytecode valid, and the same from build to build."""

import importlib.util
import io
import os
import py_compile
import tarfile
from pathlib import Path

import pytest

from kedge.storage.tar_write import TarOptions, write_tar

CLAMP = 315532801


def layer(root: Path, mtime: int, mode: py_compile.PycInvalidationMode) -> bytes:
    root.mkdir()
    source = root / "m.py"
    source.write_text("x = 1\n")
    os.utime(source, (mtime, mtime))
    py_compile.compile(str(source), dfile="/m.py", invalidation_mode=mode)
    out = io.BytesIO()
    write_tar(root, out, TarOptions(clamp=CLAMP))
    return out.getvalue()


def cached(tar: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        name = next(name for name in archive.getnames() if name.endswith(".pyc"))
        file = archive.extractfile(name)
        assert file
        return file.read()


def test_bytecode_remembers_the_time_its_source_has_in_the_layer(tmp_path: Path) -> None:
    tar = layer(tmp_path / "a", 1_900_000_000, py_compile.PycInvalidationMode.TIMESTAMP)
    assert int.from_bytes(cached(tar)[8:12], "little") == CLAMP
    assert cached(tar)[:4] == importlib.util.MAGIC_NUMBER


def test_two_builds_at_other_times_give_the_same_layer(tmp_path: Path) -> None:
    times = (1_900_000_000, 2_000_000_000)
    first, second = (layer(tmp_path / str(t), t, py_compile.PycInvalidationMode.TIMESTAMP) for t in times)
    assert first == second


@pytest.mark.parametrize("mode", [py_compile.PycInvalidationMode.CHECKED_HASH])
def test_bytecode_by_hash_is_left_alone(tmp_path: Path, mode: py_compile.PycInvalidationMode) -> None:
    tar = layer(tmp_path / "a", 1_900_000_000, mode)
    assert cached(tar) == next((tmp_path / "a/__pycache__").iterdir()).read_bytes()


def test_bytecode_whose_source_is_in_another_layer_is_left_alone(tmp_path: Path) -> None:
    layer(tmp_path / "a", 1_900_000_000, py_compile.PycInvalidationMode.TIMESTAMP)
    (tmp_path / "a/m.py").unlink()
    out = io.BytesIO()
    write_tar(tmp_path / "a", out, TarOptions(clamp=CLAMP))
    assert int.from_bytes(cached(out.getvalue())[8:12], "little") == 1_900_000_000
