"""A client's builds through the service beside BuildKit's: what a context and a result cost on their way.

    python3 -m bench.service [--times 3] [small steps files bytes]

Starts `kedge-buildkitd` and `buildkitd` (KEDGE_BENCH_BUILDKIT names the directory with it and `buildctl`), each on a
store of its own, and lets `buildctl` build with both in turns. Times are those of the client's whole commands, the
median; cpu is the daemon's and its children's. Ratios are to Kedge.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

FILES, BYTES, STEPS = 20_000, 200 << 20, 50
_SETTLE = 6  # seconds; as in peers
_TICKS = os.sysconf("SC_CLK_TCK")


class Took(NamedTuple):
    """Seconds by the clock, and of the daemon's processors."""

    wall: float
    cpu: float


class Daemon:
    """One of the two, running."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, buildctl: str) -> None:
        self.name, self._folder, self._buildctl = name, folder, buildctl
        self._address = f"unix://{folder}/sock"
        (folder / "buildkitd.toml").write_text("")
        words = [*command, "--addr", self._address, "--root", str(folder / "store"), "--config"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        with (folder / "said").open("w") as said:
            self._process = subprocess.Popen([*words, str(folder / "buildkitd.toml")], stderr=said, env=environment)
        while not (folder / "sock").exists():
            if self._process.poll() is not None:
                raise SystemExit(f"{name} did not start: {(folder / 'said').read_text()[-2000:]}")
            time.sleep(0.05)

    def build(self, context: Path, *more: str) -> Took:
        """Build a directory as a client does, and tell what it took."""
        command = [self._buildctl, "--addr", self._address, "build", "--frontend", "dockerfile.v0", "--progress",
                   "plain", "--local", f"context={context}", "--local", f"dockerfile={context}", *more]  # fmt: skip
        cpu, began = self._cpu(), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        took = Took(time.perf_counter() - began, self._cpu() - cpu)
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stderr[-2000:]}")
        return took

    def export(self, context: Path, kind: str) -> Took:
        """Build it again and have the result sent."""
        out = tempfile.mkdtemp(dir=self._folder)
        return self.build(context, "--output", f"type=local,dest={out}" if kind == "local" else f"{kind},dest={out}/x")

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICKS

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--times", type=int, default=3)
    options.add_argument("names", nargs="*", default=["small", "steps", "files", "bytes"])
    chosen = options.parse_args()
    peers = Path(os.environ.get("KEDGE_BENCH_BUILDKIT", "/nowhere"))
    if not (peers / "buildkitd").exists() or not shutil.which("busybox"):
        print("skipped: KEDGE_BENCH_BUILDKIT (buildkitd, buildctl) and busybox are needed")
        return 0
    with running(peers) as (daemons, folder):
        for name in chosen.names:
            WORK[name](daemons, make_context(folder, name), chosen.times)
    return 0


@contextmanager
def running(peers: Path) -> Iterator[tuple[list[Daemon], Path]]:
    buildctl = str(peers / "buildctl")
    commands = {
        "kedge": [sys.executable, "-m", "kedge.cli.buildkitd"],
        "buildkit": [str(peers / "buildkitd"), "--oci-worker=true", "--containerd-worker=false"],
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kedge-bench-")))
        daemons = []
        for name, command in commands.items():
            (folder / name).mkdir()
            daemons.append(Daemon(name, command, folder / name, buildctl))
            stack.callback(daemons[-1].stop)
        yield daemons, folder


def make_context(folder: Path, name: str) -> Path:
    context = folder / f"context-{name}"
    (context / "root/bin").mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), context / "root/bin/busybox")
    for applet in ("sh", "true", "echo"):
        (context / "root/bin" / applet).symlink_to("busybox")
    base, rest = (
        "FROM scratch AS base\nCOPY root/ /\n",
        "FROM base AS b\nRUN echo hi > /x\nFROM scratch\nCOPY --from=b /x /\n",
    )
    if name == "steps":
        rest = "FROM base\n" + "".join(f"RUN true {number}\n" for number in range(STEPS))
    elif name == "files":
        rest = "FROM scratch\nCOPY tree /tree\n"
        for number in range(FILES):
            path = context / f"tree/d{number % 200}/f{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"file {number}\n" * 20)
    elif name == "bytes":
        rest = "FROM scratch\nCOPY big /\n"
        (context / "big").write_bytes(os.urandom(BYTES))
    (context / "Dockerfile").write_text(base + rest)
    return context


def show(what: str, daemons: list[Daemon], times: int, work: Callable[[Daemon], Took]) -> None:
    """Let each do it so often, in turns, and print the medians."""
    took: dict[str, list[Took]] = {daemon.name: [] for daemon in daemons}
    for _ in range(times):
        for daemon in daemons:
            took[daemon.name].append(work(daemon))
    kedge, other = (
        Took(statistics.median(one.wall for one in all_), statistics.median(one.cpu for one in all_))
        for all_ in took.values()
    )
    ours = f"kedge {kedge.wall * 1000:7.0f} ms, cpu {kedge.cpu * 1000:6.0f}"
    theirs = f"buildkit {other.wall * 1000:7.0f} ms ({other.wall / kedge.wall:.1f}x), cpu {other.cpu * 1000:6.0f}"
    print(f"{what:32} {ours}   {theirs}   n={times}", flush=True)


def small(daemons: list[Daemon], context: Path, times: int) -> None:
    show("two stages, first", daemons, 1, lambda one: one.build(context))
    show("two stages, cached", daemons, times * 3, lambda one: one.build(context))


def steps(daemons: list[Daemon], context: Path, times: int) -> None:
    show(f"{STEPS} RUN true, first", daemons, 1, lambda one: one.build(context))
    show(f"{STEPS} RUN true, cached", daemons, times * 3, lambda one: one.build(context))


def files(daemons: list[Daemon], context: Path, times: int) -> None:
    time.sleep(_SETTLE)
    show(f"{FILES} files, first", daemons, 1, lambda one: one.build(context))
    show(f"{FILES} files, again", daemons, times, lambda one: one.build(context))
    for number in range(times):
        (context / "tree/d1/f1").write_text(f"changed {number}")
        show(f"{FILES} files, one changed", daemons, 1, lambda one: one.build(context))
    show(f"{FILES} files, to the client", daemons, times, lambda one: one.export(context, "local"))


def bytes_(daemons: list[Daemon], context: Path, times: int) -> None:
    show(f"{BYTES >> 20} MB, first", daemons, 1, lambda one: one.build(context))
    show(f"{BYTES >> 20} MB, again", daemons, times, lambda one: one.build(context))
    show(f"{BYTES >> 20} MB, an OCI archive", daemons, times, lambda one: one.export(context, "type=oci"))
    uncompressed = "type=oci,compression=uncompressed"
    show(f"{BYTES >> 20} MB, uncompressed", daemons, times, lambda one: one.export(context, uncompressed))


WORK = {"small": small, "steps": steps, "files": files, "bytes": bytes_}

if __name__ == "__main__":
    sys.exit(main())
