"""Where libraries are found, as the loaders themselves find them."""

import struct
import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.checks.elf import Elf, read_elf
from kedge.checks.loader import Loader, read_cache
from tests.checks.conftest import MAIN, Compile, Root

LIBRARY = "int f(void) { return 1; }\n"
CALLS = "int f(void); int main(void) { return f(); }\n"


def elf_of(root: Root, path: str) -> Elf:
    with root.files.reading(path) as reader:
        assert reader
        elf = read_elf(reader)
    assert elf
    return elf


def missing(root: Root, path: str, *search: str) -> set[str]:
    return {one.name for one in Loader(root.files, search).missing(path, elf_of(root, path))}


def own_library(compiled: Compile, *flags: str) -> tuple[Path, Path]:
    """A library libown.so.1 and a program that needs it and nothing else (no C library)."""
    library = compiled(LIBRARY, "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libown.so.1", name="libown.so")
    program = compiled(CALLS.replace("int main", "int _start"), "-nostdlib", str(library), *flags)
    return library, program


def test_a_library_is_found_where_the_system_keeps_its_own(root: Root, compiled: Compile) -> None:
    library, program = own_library(compiled)
    root.copy(program, "/app")
    assert missing(root, "/app") == {"libown.so.1"}
    root.copy(library, "/usr/lib/libown.so.1")
    assert missing(root, "/app") == set()


def test_origin_is_the_program_s_directory(root: Root, compiled: Compile) -> None:
    library, program = own_library(compiled, "-Wl,-rpath,$ORIGIN/../lib")
    root.copy(program, "/opt/x/bin/app")
    root.copy(library, "/opt/x/lib/libown.so.1")
    assert missing(root, "/opt/x/bin/app") == set()
    root.copy(program, "/opt/y/app")
    assert missing(root, "/opt/y/app") == {"libown.so.1"}


def test_lib_is_tried_in_its_meanings(root: Root, compiled: Compile) -> None:
    library, program = own_library(compiled, "-Wl,-rpath,/opt/${LIB}")
    root.copy(program, "/app")
    root.copy(library, "/opt/lib64/libown.so.1")
    assert missing(root, "/app") == set()


def test_ld_library_path_counts(root: Root, compiled: Compile) -> None:
    library, program = own_library(compiled)
    root.copy(program, "/app")
    root.copy(library, "/somewhere/libown.so.1")
    assert missing(root, "/app") == {"libown.so.1"}
    assert missing(root, "/app", "/somewhere") == set()


def test_rpath_reaches_libraries_of_libraries_but_runpath_does_not(root: Root, compiled: Compile) -> None:
    inner = compiled(LIBRARY, "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libinner.so", name="libinner.so")
    outer = compiled("int f(void); int g(void) { return f(); }\n", "-shared", "-fPIC", "-nostdlib", str(inner),
                     "-Wl,-soname,libouter.so", name="libouter.so")  # fmt: skip
    text = "int g(void); int _start(void) { return g(); }\n"
    allow = f"-Wl,--allow-shlib-undefined,-rpath-link,{inner.parent}"
    old = compiled(text, "-nostdlib", str(outer), allow, "-Wl,--disable-new-dtags,-rpath,/own")
    new = compiled(text, "-nostdlib", str(outer), allow, "-Wl,--enable-new-dtags,-rpath,/own")
    for source, name in ((inner, "/own/libinner.so"), (outer, "/own/libouter.so"), (old, "/old"), (new, "/new")):
        root.copy(source, name)
    assert missing(root, "/old") == set()
    assert missing(root, "/new") == {"libinner.so"}


def test_a_library_for_another_machine_is_passed_over(root: Root, compiled: Compile) -> None:
    library, program = own_library(compiled)
    data = bytearray(library.read_bytes())
    data[18:20] = struct.pack("<H", 243)  # e_machine: RISC-V
    root.copy(program, "/app")
    root.write("/lib64/libown.so.1", bytes(data))
    assert missing(root, "/app") == {"libown.so.1"}
    root.copy(library, "/usr/lib/libown.so.1")
    assert missing(root, "/app") == set()


def test_a_circle_of_links_is_no_library(root: Root, compiled: Compile) -> None:
    _, program = own_library(compiled)
    root.copy(program, "/app")
    root.link("/usr/lib/libown.so.1", "libown.so.1")
    assert missing(root, "/app") == {"libown.so.1"}


def test_musl_s_loader_is_its_own_c_library_and_has_a_path_file(root: Root, compiled: Compile) -> None:
    library, program = own_library(compiled, "-Wl,--dynamic-linker,/lib/ld-musl-x86_64.so.1")
    root.copy(program, "/app")
    root.copy(library, "/usr/local/lib/libown.so.1")
    assert missing(root, "/app") == set()
    root.write("/etc/ld-musl-x86_64.path", "/only/here\n")
    assert missing(root, "/app") == {"libown.so.1"}
    root.copy(library, "/only/here/libown.so.1")
    assert missing(root, "/app") == set()
    dynamic = compiled(MAIN, "-Wl,--dynamic-linker,/lib/ld-musl-x86_64.so.1")
    root.copy(dynamic, "/libc")
    assert missing(root, "/libc") == set()  # libc.so.6 is a name that musl answers itself


def test_a_program_that_names_millions_of_places_costs_little(root: Root) -> None:
    elf = Elf(62, 64, True, "/lib64/ld.so", tuple(f"lib{n}.so" for n in range(4000)), rpath=("/a",) * 2000)
    assert Loader(root.files).missing("/app", elf) == []


def test_musl_in_the_place_of_glibc_is_musl(root: Root, compiled: Compile) -> None:
    root.copy(compiled(MAIN, "-Wl,--dynamic-linker,/lib/ld-linux-x86-64.so.2"), "/app")
    assert missing(root, "/app") == {"libc.so.6"}
    root.write("/lib/libgcompat.so.0", b"")
    root.link("/lib/ld-linux-x86-64.so.2", "libgcompat.so.0")
    assert missing(root, "/app") == set()


def test_ldconfig_s_cache_is_read_as_ldconfig_prints_it() -> None:
    cache = Path("/etc/ld.so.cache")
    if not cache.exists():
        return
    shown = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
    wanted = {(line.split()[0], line.split(" => ")[1]) for line in shown.splitlines() if " => " in line}
    found = {(name, path) for name, paths in read_cache(cache.read_bytes()).items() for path in paths}
    assert found == wanted


def test_a_library_that_only_the_cache_knows_is_found(root: Root, compiled: Compile) -> None:
    library, program = own_library(compiled)
    root.copy(program, "/app")
    root.copy(library, "/usr/local/lib/libown.so.1")
    assert missing(root, "/app") == {"libown.so.1"}
    root.write("/etc/ld.so.conf", "/usr/local/lib\n")
    done = subprocess.run(["/sbin/ldconfig", "-r", str(root.path)], capture_output=True)
    if done.returncode == 0:
        assert missing(root, "/app") == set()


@settings(max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=200))
def test_no_cache_raises_anything(data: bytes) -> None:
    read_cache(data)
    read_cache(b"glibc-ld.so.cache1.1" + data)
    read_cache(b"ld.so-1.7.0\0" + data)
