"""Another machine's programs for tests: a static busybox for arm64 out of Debian's archive, fetched once for a machine.

Also a user namespace of its own for the command line, since there binfmt_misc's entries are nobody else's.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ARCHITECTURE = {"x86_64": "arm64", "aarch64": "amd64"}.get(os.uname().machine, "arm64")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kedge" / "foreign"

# Maps every id to itself, then becomes kedge. The parent writes the maps: only it may map more than one id.
ENTER = """
import os, sys
from kedge.kernel import syscalls
ready, go = os.pipe(), os.pipe()
parent = os.getpid()
child = os.fork()
if child == 0:
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{parent}/{name}", "w") as file:
            file.write("0 0 65536")
    os.write(go[1], b"x")
    os._exit(0)
syscalls.unshare(0x10000000 | 0x20000)
os.write(ready[1], b"x")
os.read(go[0], 1)
os.waitpid(child, 0)
os.execv(sys.executable, [sys.executable, "-m", "kedge", *sys.argv[1:]])
"""


def busybox(architecture: str = ARCHITECTURE) -> bytes:
    """Debian's static busybox for another architecture; skips where it cannot be had."""
    kept = _CACHE / f"busybox-{architecture}"
    if not kept.exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            pytest.skip("a foreign busybox comes from Debian's archive: this machine has no apt-get")
        _CACHE.mkdir(parents=True, exist_ok=True)
        room = _CACHE / f"room-{os.getpid()}"
        try:
            _fetch(room, architecture)
            os.replace(room / "root" / "bin" / "busybox", kept)
        except (subprocess.CalledProcessError, OSError) as error:
            pytest.skip(f"busybox-static for {architecture} cannot be downloaded: {error}")
        finally:
            shutil.rmtree(room, ignore_errors=True)
    return kept.read_bytes()


def _fetch(room: Path, architecture: str) -> None:
    for folder in ("lists/partial", "cache/archives/partial", "state"):
        (room / folder).mkdir(parents=True)
    (room / "state" / "status").touch()
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures::": architecture,
        "APT::Sandbox::User": "root",
        "Dir::State": f"{room}/state",
        "Dir::State::lists": f"{room}/lists",
        "Dir::State::status": f"{room}/state/status",
        "Dir::Cache": f"{room}/cache",
    }
    apt = ["apt-get", "-qq", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    for words in (["update"], ["download", f"busybox-static:{architecture}"]):
        subprocess.run([*apt, *words], cwd=room, check=True, capture_output=True, timeout=120)
    (package,) = room.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(room / "root")], check=True, capture_output=True)


def namespace_command() -> list[str]:
    """The words before kedge's own that put it into a user namespace in which it may register an emulator."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if os.geteuid() != 0:
        pytest.skip("needs root, to map many ids into a user namespace")
    if release < (6, 7):
        pytest.skip("binfmt_misc has entries per user namespace since Linux 6.7")
    return [sys.executable, "-c", ENTER]
