"""The ELF parser, against what binutils say and against files that lie."""

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.checks.elf import Elf, read_elf
from kedge.model.errors import IntegrityError
from kedge.model.platform import Platform
from tests.checks.conftest import MAIN, Compile


def read(path: Path | bytes) -> Elf | None:
    data = path if isinstance(path, bytes) else path.read_bytes()
    return read_elf(lambda offset, size: data[offset : offset + size] if offset >= 0 else b"")


def test_a_dynamic_program_names_its_loader_and_libraries(compiled: Compile) -> None:
    elf = read(compiled(MAIN, "-Wl,--no-as-needed", "-lm", "-Wl,-rpath,$ORIGIN/../lib:/opt/lib"))
    assert elf is not None
    assert "ld-linux" in elf.interpreter or "ld64" in elf.interpreter or "ld-musl" in elf.interpreter
    assert any(name.startswith("libm.") for name in elf.needed)
    assert elf.rpath + elf.runpath == ("$ORIGIN/../lib", "/opt/lib")


def test_a_static_program_names_none(compiled: Compile) -> None:
    elf = read(compiled(MAIN, "-static"))
    assert elf is not None
    assert (elf.interpreter, elf.needed) == ("", ())


def test_a_library_has_its_soname(compiled: Compile) -> None:
    elf = read(compiled("int f(void) { return 1; }\n", "-shared", "-fPIC", "-Wl,-soname,libown.so.3"))
    assert elf is not None
    assert elf.soname == "libown.so.3"


def test_old_rpath_and_new_runpath_are_told_apart(compiled: Compile) -> None:
    old = read(compiled(MAIN, "-Wl,--disable-new-dtags,-rpath,/old"))
    new = read(compiled(MAIN, "-Wl,--enable-new-dtags,-rpath,/new"))
    assert old is not None
    assert new is not None
    assert (old.rpath, old.runpath, new.rpath, new.runpath) == (("/old",), (), (), ("/new",))


def test_readelf_sees_the_same_in_the_host_s_programs() -> None:
    if not shutil.which("readelf"):
        pytest.skip("readelf is not installed (apt-get install binutils)")
    count = 0
    for path in sorted(Path("/usr/bin").iterdir())[:400:8]:
        if not path.is_file() or not (elf := read(path)):
            continue
        shown = subprocess.run(["readelf", "-Wd", path], capture_output=True, text=True).stdout
        assert list(elf.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", shown), path
        count += 1
    assert count > 5


def test_what_is_no_elf_is_none() -> None:
    assert read(b"") is None
    assert read(b"#!/bin/sh\n") is None


@pytest.mark.parametrize("keep", [5, 20, 51])
def test_a_header_that_is_cut_off_is_malformed(compiled: Compile, keep: int) -> None:
    with pytest.raises(IntegrityError):
        read(compiled(MAIN).read_bytes()[:keep])


def test_platforms() -> None:
    arm64, amd64, i386 = Elf(183, 64, True), Elf(62, 64, True), Elf(3, 32, True)
    assert arm64.architecture == "arm64"
    assert not arm64.runs_on(Platform("linux", "amd64"))
    assert amd64.runs_on(Platform("linux", "amd64"))
    assert i386.runs_on(Platform("linux", "amd64"))
    assert not amd64.runs_on(Platform("linux", "386"))
    assert amd64.runs_on(Platform("linux", "something-new"))


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=30), st.integers(0, 20000))
def test_no_bytes_raise_anything_else(changes: list[tuple[int, int]], keep: int) -> None:
    data = bytearray(Path("/proc/self/exe").read_bytes()[:20000])
    for offset, value in changes:
        data[offset % len(data)] = value
    with contextlib.suppress(IntegrityError):
        read(b"\x7fELF" + bytes(data[4:keep]))
