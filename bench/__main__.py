"""The runner: `make bench`, or `make bench BENCH="steps cached --times 5"`."""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from bench.bases import served
from bench.line import slow_line
from bench.peers import Peer, Unable, all_peers
from bench.usage import Usage
from bench.workloads import GO, WORKLOADS, Place, Workload

_LINE = 25e6  # bytes a second of the slow line: 200 Mbit/s


def main() -> int:
    # Users' interpreters write bytecode; without it every start of Kedge would compile it all.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that registry, daemon and stores go with us
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which workloads: {', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--times", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--without", action="append", default=[], metavar="PEER", help="leave a peer out")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {unknown[0]}: there are {', '.join(WORKLOADS)}")
    chosen = [WORKLOADS[name] for name in options.names or WORKLOADS]
    machine = os.uname()
    load = os.getloadavg()[0]
    print(f"{machine.sysname} {machine.release}, {os.cpu_count()} CPUs, load {load:.1f}, medians of {options.times}")
    names = sorted({name for workload in chosen for name in workload.bases})
    with (
        tempfile.TemporaryDirectory(prefix="kedge-bench-", ignore_cleanup_errors=True) as folder,
        served(names) as registry,
        slow_line(registry.address, _LINE) as slow,
        all_peers(Path(folder)) as found,
    ):
        peers = [peer for peer in found if peer.name not in options.without]
        images = {name: f"{registry.address}/library/{name}" for name in names}
        images |= {f"SLOW {GO}": f"{slow}/library/{GO}", "REGISTRY": registry.address}
        print(f"beside each other: {', '.join(f'{peer.name} {peer.version}' for peer in peers)}")
        print("each with wall time, processor time and peak memory; (ratios to kedge: above 1, kedge is better)\n")
        for workload in chosen:
            _measure(workload, peers, Path(folder), images, options.times)
    return 0


def _measure(workload: Workload, peers: list[Peer], folder: Path, images: dict[str, str], times: int) -> None:
    """Warm every peer up once, then let them take turns, so that a noisy moment hits all."""
    found: dict[str, dict[str, list[Usage]]] = defaultdict(lambda: defaultdict(list))
    out: dict[str, str] = {}
    for turn in range(times + 1):
        for peer in peers:
            if peer.name in out:
                continue
            try:
                for label, usage in workload.measure(peer, Place(folder / "work" / peer.name, images)):
                    if turn:
                        found[label][peer.name].append(usage)
            except Unable:
                out[peer.name] = ""
            except subprocess.CalledProcessError as error:
                out[peer.name] = error.stderr.decode(errors="replace").strip().splitlines()[-1:][0]
    for label, by_peer in found.items():
        _show(label, {name: _median(values) for name, values in by_peer.items()}, workload.goals.get(label))
    for name, why in out.items():
        if why:
            print(f"    {name} could not do it: {why[:150]}")


def _median(values: list[Usage]) -> Usage:
    return Usage(
        statistics.median(value.wall for value in values),
        statistics.median(value.processor for value in values),
        max(value.memory for value in values),
    )


def _show(label: str, medians: dict[str, Usage], goal: float | None) -> None:
    own = medians.get("kedge")
    for name, usage in medians.items():
        columns = [f"{label:28} {name:9}"]
        for value, mine, shown in (
            (usage.wall, own.wall if own else 0, _seconds(usage.wall)),
            (usage.processor, own.processor if own else 0, f"cpu {_seconds(usage.processor)}"),
            (usage.memory, own.memory if own else 0, f"{usage.memory:.0f} MB"),
        ):
            ratio = f" ({value / mine:.1f}x)" if mine and name != "kedge" else ""
            columns.append(f"{shown + ratio:20}")
        if goal is not None and name == "kedge":
            columns.append(f"goal {_seconds(goal)}: {'met' if usage.wall < goal else 'MISSED'}")
        print(" ".join(columns).rstrip(), flush=True)
        label = ""


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
