"""The runner: `make bench`, or `make bench BENCH="steps cached --times 5"`."""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.peers import Peer, all_peers
from bench.workloads import WORKLOADS, Workload


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which workloads: {', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--times", type=int, default=3, help="how often each is measured (default: 3)")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {unknown[0]}: there are {', '.join(WORKLOADS)}")
    chosen = [WORKLOADS[name] for name in options.names or WORKLOADS]
    machine = os.uname()
    load = os.getloadavg()[0]
    print(f"{machine.sysname} {machine.release}, {os.cpu_count()} CPUs, load {load:.1f}, medians of {options.times}")
    serve = _bases()
    names = sorted({name for workload in chosen for name in workload.bases})
    with tempfile.TemporaryDirectory(prefix="kedge-bench-") as folder, serve.Served(names) as served:
        args = {"BASE": f"{served.address}/library/busybox:latest", "GO": f"{served.address}/library/golang:1.25"}
        with all_peers(Path(folder), served.address) as peers:
            print(f"beside each other: {', '.join(f'{peer.name} {peer.version}' for peer in peers)}\n")
            for workload in chosen:
                _measure(workload, peers, Path(folder), args, options.times)
    return 0


def _measure(workload: Workload, peers: list[Peer], folder: Path, args: dict[str, str], times: int) -> None:
    """Warm every peer up once, then let them take turns, so that a noisy moment hits all."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    broken: dict[str, str] = {}
    for turn in range(times + 1):
        for peer in peers:
            if peer.name in broken:
                continue
            try:
                for label, seconds in workload.measure(peer, folder / peer.name / "work", _needed(workload, args)):
                    if turn:
                        found[label][peer.name].append(seconds)
            except subprocess.CalledProcessError as error:
                broken[peer.name] = error.stderr.decode(errors="replace").strip().splitlines()[-1:][0]
    for label, by_peer in found.items():
        print(
            _line(
                label, {name: statistics.median(values) for name, values in by_peer.items()}, workload.goals.get(label)
            )
        )
    for name, why in broken.items():
        print(f"    {name} could not do it: {why[:150]}")


def _needed(workload: Workload, args: dict[str, str]) -> dict[str, str]:
    wanted = {"busybox:latest": "BASE", "golang:1.25": "GO"}
    return {wanted[name]: args[wanted[name]] for name in workload.bases}


def _line(label: str, medians: dict[str, float], goal: float | None) -> str:
    own = medians.get("kedge")
    parts = [f"{label:28}"]
    for name, seconds in medians.items():
        ratio = f" ({seconds / own:.1f}x)" if own and name != "kedge" else ""
        parts.append(f"{name} {_seconds(seconds)}{ratio}")
    if goal is not None and own is not None:
        parts.append(f"goal {_seconds(goal)}: {'met' if own < goal else 'MISSED'}")
    return "   ".join(parts)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _bases() -> Any:
    """examples/bases/serve.py, which is a script and no package."""
    path = Path(__file__).resolve().parents[1] / "examples" / "bases" / "serve.py"
    spec = importlib.util.spec_from_file_location("kedge_bases_serve", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
