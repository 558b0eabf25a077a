"""The verdict beside the truth: programs and scripts are started in the same tree by chroot(2), with glibc and musl."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kedge.checks.start import fault_of
from kedge.model.image import ImageConfig
from tests.checks.conftest import HOST, MAIN, Compile, Root, libraries_of_host

CHROOT = shutil.which("chroot", path="/usr/sbin:/sbin:/usr/bin:/bin") or "chroot"
LIBRARY = "int f(void) { return 0; }\n"
CALLS = "int f(void); int main(void) { return f(); }\n"
SHARED = ("-shared", "-fPIC", "-Wl,-soname,libown.so.1")


class Yard:
    """A tree in which the host's C library, or musl, is installed, and a compiler for it."""

    def __init__(self, root: Root, gcc: Callable[..., Path]) -> None:
        self.root, self.gcc = root, gcc

    def library(self, place: str) -> None:
        self.root.copy(self.gcc(LIBRARY, *SHARED, name="libown.so"), place)

    def program(self, place: str, *flags: str) -> None:
        library = self.gcc(LIBRARY, *SHARED, name="libown.so")
        self.root.copy(self.gcc(CALLS, str(library), *flags), place)

    def starts(self, *words: str, user: str = "0:0", **env: str) -> bool:
        """What really happens."""
        variables = {"PATH": "/usr/bin:/bin"} | env
        (self.root.path / "proc").mkdir(exist_ok=True)  # loaders find $ORIGIN by /proc/self/exe
        start = f'mount --bind /proc "$0/proc" && exec env -i "${{@:2}}" {CHROOT} --userspec={user} --groups= "$0" $1'
        assignments = [f"{key}={value}" for key, value in variables.items()]
        done = subprocess.run(
            ["unshare", "-m", "bash", "-c", start, self.root.path, " ".join(words), *assignments], capture_output=True
        )
        return done.returncode == 0

    def judged(self, *words: str, user: str = "0:0", **env: str) -> bool:
        """What Kedge says."""
        variables = tuple(f"{key}={value}" for key, value in ({"PATH": "/usr/bin:/bin"} | env).items())
        return fault_of(self.root.files, ImageConfig(HOST, cmd=words, env=variables, user=user)) is None


@pytest.fixture(params=["glibc", "musl"])
def yard(request: pytest.FixtureRequest, root: Root, compiled: Compile) -> Yard:
    if os.geteuid():
        pytest.skip("chroot needs root")
    if request.param == "glibc":
        for path in libraries_of_host(compiled(MAIN)):
            root.copy(path, path)
        made: Callable[..., Path] = compiled
    else:
        if not shutil.which("musl-gcc"):
            pytest.skip("musl-gcc is not installed (apt-get install musl-tools)")
        loader = next(iter(Path("/lib").glob("ld-musl-*.so.1")))
        root.copy(loader.resolve(), str(loader))

        def made(text: str, *flags: str, name: str = "program") -> Path:
            out = compiled(MAIN, name=name).parent / f"musl-{name}"
            (out.parent / "source.c").write_text(text)
            subprocess.run(["musl-gcc", "-o", out, out.parent / "source.c", *flags], check=True, capture_output=True)
            return out

    root.copy(compiled(MAIN, "-static"), "/bin/static")
    return Yard(root, made)


def own(yard: Yard) -> None:
    yard.program("/app")


def in_usr_lib(yard: Yard) -> None:
    own(yard)
    yard.library("/usr/lib/libown.so.1")


def in_usr_local_lib(yard: Yard) -> None:
    own(yard)
    yard.library("/usr/local/lib/libown.so.1")


def by_runpath(yard: Yard) -> None:
    yard.program("/app", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/lib")
    yard.library("/lib/libown.so.1")


def by_origin(yard: Yard) -> None:
    yard.program("/opt/bin/real", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib")
    yard.library("/opt/lib/libown.so.1")
    yard.root.link("/app", "/opt/bin/real")


def by_origin_in_braces(yard: Yard) -> None:
    yard.program("/app", "-Wl,--disable-new-dtags,-rpath,${ORIGIN}/own")
    yard.library("/own/libown.so.1")


def in_lib64(yard: Yard) -> None:
    own(yard)
    yard.library("/opt/lib64/libown.so.1")


def broken_library(yard: Yard) -> None:
    own(yard)
    yard.root.write("/usr/lib/libown.so.1", b"\x7fELF nonsense")


def by_link(yard: Yard) -> None:
    own(yard)
    yard.library("/usr/lib/libown.so.1.2.3")
    yard.root.link("/usr/lib/libown.so.1", "libown.so.1.2.3")


TREES = [
    own,
    in_usr_lib,
    in_usr_local_lib,
    by_runpath,
    by_origin,
    by_origin_in_braces,
    in_lib64,
    broken_library,
    by_link,
]


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.__name__)
def test_programs_start_when_the_verdict_says_so(yard: Yard, tree: Callable[[Yard], None]) -> None:
    tree(yard)
    assert yard.judged("/app") == yard.starts("/app")
    for place in ("/opt/lib64", "/usr/local/lib:/opt/lib64", "/nowhere"):
        assert yard.judged("/app", LD_LIBRARY_PATH=place) == yard.starts("/app", LD_LIBRARY_PATH=place), place


SCRIPTS = {
    "plain": b"#!/bin/static\n",
    "with an argument": b"#!/bin/static -x y\n",
    "blanks before": b"#! \t/bin/static\n",
    "windows": b"#!/bin/static\r\n",
    "missing": b"#!/bin/nothing\n",
    "no end": b"#!/bin/static",
    "empty": b"#!\n",
    "no magic": b"/bin/static\n",
    "relative": b"#!bin/static\n",
    "of a script": b"#!/other\n",
    "long": b"#!/bin/static " + b"x" * 400 + b"\n",
}


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_scripts_start_when_the_verdict_says_so(yard: Yard, text: bytes) -> None:
    yard.root.write("/run", text)
    yard.root.write("/other", b"#!/bin/static\n")
    yard.root.write("/bin/run2", text, mode=0o700)
    assert yard.judged("/run") == yard.starts("/run")
    assert yard.judged("run2") == yard.starts("run2")
    assert yard.judged("/bin/run2", user="1234:1234") == yard.starts("/bin/run2", user="1234:1234")
