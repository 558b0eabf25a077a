"""What is measured: contexts, and for each a few lines that build and time it.

Owns the workloads and the goals of issue 2. A workload yields (label, seconds) for one peer; the runner repeats and
compares.
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.peers import Peer

Measured = Iterator[tuple[str, float]]
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "hello-multi-stage"


@dataclass(frozen=True)
class Workload:
    """One workload. `goals` are upper limits in seconds for Kedge by label; `bases` are the images it needs."""

    name: str
    about: str
    measure: "Callable[[Peer, Path, Mapping[str, str]], Measured]"
    goals: Mapping[str, float]
    bases: tuple[str, ...] = ("busybox:latest",)


def timed(peer: Peer, context: Path, args: Mapping[str, str], **how: object) -> float:
    start = time.perf_counter()
    peer.build(context, args, **how)  # type: ignore[arg-type]
    return time.perf_counter() - start


def write(folder: Path, dockerfile: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    return folder


def stages(peer: Peer, folder: Path, args: Mapping[str, str]) -> Measured:
    """16 stages that do not need each other, and one that needs them all."""
    parts = ["ARG BASE"]
    parts += [f"FROM ${{BASE}} AS s{n}\nRUN sleep 1; echo {random.random()} > /s{n}" for n in range(16)]
    parts += ["FROM scratch", *(f"COPY --from=s{n} /s{n} /" for n in range(16))]
    context = write(folder / "stages", "\n".join(parts) + "\n")
    yield "16 stages of sleep 1", timed(peer, context, args)


def steps(peer: Peer, folder: Path, args: Mapping[str, str]) -> Measured:
    """50 steps that cost nothing of their own, in a row."""
    mark = random.random()
    lines = ["ARG BASE", "FROM ${BASE}", *(f"RUN true {mark} {n}" for n in range(50))]
    context = write(folder / "steps", "\n".join(lines) + "\n")
    yield "one of 50 RUN true", timed(peer, context, args) / 50


def cached(peer: Peer, folder: Path, args: Mapping[str, str]) -> Measured:
    """The example once more, with nothing left to do."""
    text = (EXAMPLE / "Dockerfile").read_text().replace("FROM golang:1.25", "ARG GO\nFROM ${GO}")
    context = write(folder / "cached", text)
    (context / "main.go").write_text((EXAMPLE / "main.go").read_text())
    peer.build(context, args)
    yield "example, all cached", timed(peer, context, args)


def files(peer: Peer, folder: Path, args: Mapping[str, str]) -> Measured:
    """A context of 5,000 files: the first time, again, and with one file changed."""
    context = write(folder / "files", "FROM scratch\nCOPY . /\n")
    if not (context / "d0").exists():
        for number in range(5000):
            path = context / f"d{number // 100}" / f"f{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(2000))
    (context / "mark").write_text(str(random.random()))
    yield "5,000 files, one changed", timed(peer, context, args)
    yield "5,000 files, unchanged", timed(peer, context, args)


def export(peer: Peer, folder: Path, args: Mapping[str, str]) -> Measured:
    """One layer of 256 MB, half of it random, into a compressed OCI archive."""
    context = write(folder / "export", "FROM scratch\nCOPY big /\n")
    with open(context / "big", "wb") as file:
        line = f"{random.random()} the quick brown fox jumps over the lazy dog\n".encode()
        for _ in range(128):
            file.write(os.urandom(1 << 20))
            file.write((line * (1 + (1 << 20) // len(line)))[: 1 << 20])
    yield "256 MB to an OCI archive", timed(peer, context, args, archive=folder / f"{peer.name}.tar")


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("stages", "stages side by side", stages, {"16 stages of sleep 1": 1.3}),
        Workload("steps", "what a step costs", steps, {"one of 50 RUN true": 0.025}),
        Workload("cached", "a rebuild with nothing to do", cached, {"example, all cached": 0.12}, ("golang:1.25",)),
        Workload("files", "a context of many files", files, {}, ()),
        Workload("export", "a big layer", export, {}, ()),
    )
}
