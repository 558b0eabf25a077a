"""Peak memory of everything that moves a large layer: build, archive, push, pull, unpack, save, load.

    python3 -m bench.memory [MEGABYTES]        2048 unless told; needs four times that on disk, and docker-registry

Each line is one `kedge` command in its own process: its largest resident set, and its time. The layer is random bytes,
so nothing is won by compressing it. The goal is 120 MB (issue 4).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import running_registry

GOAL = 120
_PIECE = 1 << 20


def main(megabytes: int) -> int:
    """Run all commands; the exit code tells whether the goal was kept."""
    with tempfile.TemporaryDirectory(prefix="kedge-memory-", dir=os.environ.get("TMPDIR")) as text:
        room = Path(text)
        context = room / "context"
        context.mkdir()
        (context / "Dockerfile").write_text("FROM scratch\nCOPY large /large\n")
        with (context / "large").open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(_PIECE))
        (room / "registry").mkdir()
        with running_registry(room / "registry") as registry:
            peaks = [measure(room, title, words) for title, words in commands(room, f"{registry.address}/large:1")]
    return 0 if max(peaks) <= GOAL else 1


def commands(room: Path, name: str) -> list[tuple[str, list[str]]]:
    """What is measured, in order: (title, words)."""
    build = ["build", "--progress", "plain", str(room / "context")]
    return [
        ("build into the store", [*build, "-t", name]),
        ("build, -o type=oci (gzip)", [*build, "-o", f"type=oci,dest={room}/x.tar"]),
        ("build, -o type=oci (zstd)", [*build, "-o", f"type=oci,compression=zstd,dest={room}/x.tar"]),
        ("build, -o type=oci (estargz)", [*build, "-o", f"type=oci,compression=estargz,dest={room}/x.tar"]),
        ("build, -o type=tar", [*build, "-o", f"type=tar,dest={room}/y.tar"]),
        ("push", ["push", "--progress", "plain", name]),
        ("save", ["save", "-o", f"{room}/s.tar", name]),
        ("pull into another store", ["--root", f"{room}/other", "pull", "--progress", "plain", name]),
        ("pull and unpack", ["--root", f"{room}/other", "export", "-o", f"{room}/e.tar", name]),
        ("load into another store", ["--root", f"{room}/third", "load", "-i", f"{room}/s.tar"]),
        ("copy registry to layout", ["copy", "--progress", "plain", f"docker://{name}", f"oci:{room}/layout:x"]),
    ]


def measure(room: Path, title: str, words: list[str]) -> int:
    """Run one command and print its line; megabytes."""
    environment = os.environ | {"KEDGE_ROOT": str(room / "store"), "KEDGE_CONFIG": os.devnull}
    started = time.monotonic()
    pid = subprocess.Popen(
        [sys.executable, "-m", "kedge", *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    errors = pid.stderr.read() if pid.stderr else b""
    _, status, usage = os.wait4(pid.pid, 0)
    pid.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss // 1024
    note = "" if pid.returncode == 0 else f"  FAILED: {errors[-200:].decode(errors='replace')}"
    print(f"{title:32} {peak:5} MB {time.monotonic() - started:7.1f} s{note}", flush=True)
    for name in ("y.tar", "e.tar"):
        (room / name).unlink(missing_ok=True)
    if title.startswith("load"):
        shutil.rmtree(room / "third", ignore_errors=True)
    return peak


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2048))
