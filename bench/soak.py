"""Many clients building at once through the service: does anything fail, and does anything grow?

    python3 -m bench.soak [--clients 8] [--minutes 3]

Starts `kedge serve` on a store of its own and lets `buildctl` (KEDGE_BUILDCTL, or on PATH) build as many different
Dockerfiles as it can. After each minute it prints builds, failures, and the service's resident memory, open files and
threads. Ends with 1 when a build failed, or the service ended: then it prints how, and the last that the service said.
"""

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

KEDGE = (sys.executable, "-m", "kedge")
LAST = 1 << 16  # bytes of what the service said that are printed if it ends
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
    service = Service([*kedge, "serve", "--buildkit", f"unix://{socket}"], folder / "said")
    try:
        while not socket.exists():
            if service.poll() is not None:
                return service.tell_end()
            time.sleep(0.05)
        return watch(service, Clients(folder, buildctl, socket), clients, minutes)
    finally:
        service.end()


class Ended(Exception):
    """The service is no more."""


class Service(subprocess.Popen[bytes]):
    """The process that is watched. What it says on standard error goes to the file `said`, its threads' stacks too if
    it dies of a signal of its own making.
    """

    def __init__(self, command: list[str], said: Path) -> None:
        self._said = said
        with said.open("wb") as stderr:
            super().__init__(command, stderr=stderr, env=os.environ | {"PYTHONFAULTHANDLER": "1"})

    def told(self) -> str:
        """Resident memory, open files and threads. Raises Ended."""
        try:
            lines = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
            files = len(os.listdir(f"/proc/{self.pid}/fd"))
            memory = int(lines["VmRSS"].split()[0]) // 1024
        except (OSError, KeyError):  # a dead one has no memory
            raise Ended(self._verdict()) from None
        return f"{memory} MB, {files} files, {lines['Threads'].strip()} threads"

    def _verdict(self) -> str:
        code = self.wait()
        return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def tell_end(self) -> int:
        """Print how it ended, and its last words; 1, for the caller's own exit status."""
        print(f"the service ended: {self._verdict()}; it said last:", flush=True)
        print(self._said.read_bytes()[-LAST:].decode(errors="replace"), flush=True)
        return 1

    def end(self) -> None:
        """End it, if it has not yet. Idempotent."""
        self.terminate()
        self.wait(30)


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


def watch(service: Service, work: Clients, clients: int, minutes: int) -> int:
    threads = [threading.Thread(target=work.loop) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        for minute in range(1, minutes + 1):
            with suppress(subprocess.TimeoutExpired):
                service.wait(60)
                return service.tell_end()
            told = service.told()
            print(f"minute {minute}: {work.built} builds, {len(work.failures)} failed, {told}", flush=True)
    except Ended:
        return service.tell_end()
    finally:
        work.stop.set()
        for thread in threads:
            thread.join()
    for failure in work.failures[:3]:
        print(failure)
    return 1 if work.failures else 0


if __name__ == "__main__":
    sys.exit(main())
