"""Many clients building at once through the service: does anything fail, and does anything grow?

    python3 -m bench.soak [--clients 8] [--minutes 3]

Starts `kedge serve` on a store of its own and lets `buildctl` (KEDGE_BUILDCTL, or on PATH) build as many different
Dockerfiles as it can. After each minute it prints builds, failures, and the service's resident memory, open files and
threads. Ends with 1 when a build failed.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

KEDGE = (sys.executable, "-m", "kedge")
DOCKERFILE = """FROM busybox AS one
ARG N
COPY file /file
RUN echo "$N" > /n && cat /file >> /n
FROM busybox AS two
ARG N
RUN echo "two $N" > /m
FROM scratch
COPY --from=one /n /
COPY --from=two /m /
"""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--clients", type=int, default=8)
    options.add_argument("--minutes", type=int, default=3)
    chosen = options.parse_args()
    buildctl = os.environ.get("KEDGE_BUILDCTL") or shutil.which("buildctl")
    if not buildctl or not shutil.which("busybox"):
        print("skipped: buildctl (KEDGE_BUILDCTL) and busybox are needed")
        return 0
    with tempfile.TemporaryDirectory(prefix="kedge-soak-") as folder:
        return soak(Path(folder), buildctl, chosen.clients, chosen.minutes)


def soak(folder: Path, buildctl: str, clients: int, minutes: int) -> int:
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "file").write_text("something\n")
    kedge = (*KEDGE, "--root", str(folder / "store"))
    import_busybox(folder, kedge)
    socket = folder / "bk.sock"
    server = subprocess.Popen([*kedge, "serve", "--buildkit", f"unix://{socket}"], stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.05)
        return watch(server.pid, Clients(folder, buildctl, socket), clients, minutes)
    finally:
        server.terminate()
        server.wait(30)


def import_busybox(folder: Path, kedge: tuple[str, ...]) -> None:
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
    for name in ("sh", "cat"):
        (root / "bin" / name).symlink_to("busybox")
    subprocess.run(["tar", "-C", root, "-cf", folder / "root.tar", "."], check=True)
    subprocess.run([*kedge, "import", folder / "root.tar", "busybox"], check=True, stdout=subprocess.DEVNULL)


class Clients:
    """The clients' loops, and what came of their builds."""

    def __init__(self, folder: Path, buildctl: str, socket: Path) -> None:
        self.folder, self.buildctl, self.socket = folder, buildctl, socket
        self.numbers = itertools.count()
        self.built = 0
        self.failures: list[str] = []
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def loop(self) -> None:
        while not self.stop.is_set():
            done = subprocess.run(self._command(next(self.numbers)), capture_output=True, text=True)
            with self._lock:
                self.built += 1
                if done.returncode:
                    self.failures.append(done.stderr[-400:])

    def _command(self, number: int) -> list[str]:
        shared = number // 2  # two clients at a time want the same steps
        return [self.buildctl, "--addr", f"unix://{self.socket}", "build", "--frontend", "dockerfile.v0", "--local",
                f"context={self.folder}", "--local", f"dockerfile={self.folder}", "--opt", f"build-arg:N={shared}",
                "--progress", "plain"]  # fmt: skip


def watch(pid: int, work: Clients, clients: int, minutes: int) -> int:
    threads = [threading.Thread(target=work.loop) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        for minute in range(1, minutes + 1):
            time.sleep(60)
            print(f"minute {minute}: {work.built} builds, {len(work.failures)} failed, {told(pid)}", flush=True)
    finally:
        work.stop.set()
        for thread in threads:
            thread.join()
    for failure in work.failures[:3]:
        print(failure)
    return 1 if work.failures else 0


def told(pid: int) -> str:
    """Resident memory, open files and threads of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return f"{int(lines['VmRSS'].split()[0]) // 1024} MB, {files} files, {lines['Threads'].strip()} threads"


if __name__ == "__main__":
    sys.exit(main())
