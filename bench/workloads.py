"""What is measured: contexts, and for each a few lines that build and time it.

Owns the workloads and the goals of issue 2. A workload yields (label, usage) for one peer; the runner repeats and
compares.
"""

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import Compression, Peer
from bench.usage import Usage

Measured = Iterator[tuple[str, Usage]]
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "hello-multi-stage"
GO, BUSYBOX, DEBIAN = "golang:1.25", "busybox:latest", "debian:bookworm-slim"
MANY = 20_000


@dataclass(frozen=True)
class Place:
    """Where a peer's measuring happens: a folder of its own, and names of images at the registry (`SLOW` and one of
    these: over the slow line); `REGISTRY` is its address.
    """

    folder: Path
    images: Mapping[str, str]


@dataclass(frozen=True)
class Workload:
    """One workload. `goals` are upper limits in seconds for Kedge by label; `bases` are the images it needs."""

    name: str
    about: str
    measure: "Callable[[Peer, Place], Measured]"
    bases: tuple[str, ...] = ()
    goals: Mapping[str, float] = field(default_factory=dict)


def write(folder: Path, dockerfile: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    return folder


def stages(peer: Peer, place: Place) -> Measured:
    """16 stages that do not need each other, and one that needs them all."""
    parts = ["ARG BASE"]
    parts += [f"FROM ${{BASE}} AS s{n}\nRUN sleep 1; echo {random.random()} > /s{n}" for n in range(16)]
    parts += ["FROM scratch", *(f"COPY --from=s{n} /s{n} /" for n in range(16))]
    context = write(place.folder / "stages", "\n".join(parts) + "\n")
    yield "16 stages of sleep 1", peer.build(context, {"BASE": place.images[BUSYBOX]})


def steps(peer: Peer, place: Place) -> Measured:
    """50 steps that cost nothing of their own, in a row."""
    mark = random.random()
    lines = ["ARG BASE", "FROM ${BASE}", *(f"RUN true {mark} {n}" for n in range(50))]
    context = write(place.folder / "steps", "\n".join(lines) + "\n")
    yield "one of 50 RUN true", peer.build(context, {"BASE": place.images[BUSYBOX]}).divided(50)


def cached(peer: Peer, place: Place) -> Measured:
    """The example once more, with nothing left to do. Without its first line, for which BuildKit asks Docker Hub."""
    text = (EXAMPLE / "Dockerfile").read_text().partition("\n")[2].replace(f"FROM {GO}", "ARG GO\nFROM ${GO}")
    context = write(place.folder / "cached", text)
    (context / "main.go").write_text((EXAMPLE / "main.go").read_text())
    args = {"GO": place.images[GO]}
    if not (context / "built").exists():
        peer.build(context, args)
        (context / "built").touch()
    yield "example, all cached", peer.build(context, args)


def files(peer: Peer, place: Place) -> Measured:
    """A context of 20,000 files: the first time, again, and with one file changed."""
    context = write(place.folder / "files", "FROM scratch\nCOPY . /\n")
    if not (context / "d0").exists():
        for number in range(MANY):
            path = context / f"d{number // 100}" / f"f{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(2000))
    mark = context / "mark"
    mark.write_text(str(random.random()))
    peer.forget()
    time.sleep(0.1)
    yield "20,000 files, first", peer.build(context, {})
    yield "20,000 files, unchanged", peer.build(context, {})
    mark.write_text(str(random.random()))
    time.sleep(0.1)
    yield "20,000 files, one changed", peer.build(context, {})


def pull(peer: Peer, place: Place) -> Measured:
    """A base of 200 MB in 12,600 files that is not here yet, and one step on it."""
    context = write(place.folder / "pull", "ARG BASE\nFROM ${BASE}\nRUN true\n")
    peer.forget()
    yield "200 MB base, loopback", peer.build(context, {"BASE": place.images[GO]})
    peer.forget()
    yield "200 MB base, 25 MB/s", peer.build(context, {"BASE": place.images[f"SLOW {GO}"]})


def _big(place: Place) -> Path:
    """A context whose one file holds 500 MB of programs and texts, different each time."""
    context = write(place.folder / "big", "FROM scratch\nCOPY big /\n")
    big = context / "big"
    if not big.exists():
        from bench.bases import tar_of

        with open(big, "wb") as file:
            subprocess.run(["cat", *map(tar_of, (GO, DEBIAN, GO))], check=True, stdout=file)
    with open(big, "r+b") as file:
        file.write(str(random.random()).encode())
    return context


def export(peer: Peer, place: Place) -> Measured:
    """One layer of 500 MB, copied, compressed and written."""
    kinds: tuple[Compression, ...] = ("gzip", "zstd")
    for kind in kinds:
        archive = place.folder / "archive.tar"
        yield f"500 MB, OCI archive, {kind}", peer.export(_big(place), {}, archive, kind)
        print(f"    {peer.name} {kind}: {archive.stat().st_size / 1e6:.0f} MB")
        archive.unlink()


def push(peer: Peer, place: Place) -> Measured:
    """One layer of 500 MB, copied, compressed and sent to a registry on loopback."""
    yield "500 MB, pushed", peer.push(_big(place), {}, f"{place.images['REGISTRY']}/bench/{peer.name}:big")


def tree(peer: Peer, place: Place) -> Measured:
    """The 12,600 files of a base copied into a stage of their own, to another place each time; exported; pushed."""
    args = {"BASE": place.images[GO]}

    def changed() -> Path:
        text = f"ARG BASE\nFROM ${{BASE}} AS base\nFROM scratch\nCOPY --from=base / /{random.random()}/\n"
        return write(place.folder / "tree", text)

    yield "12,600 files, COPY --from", peer.build(changed(), args)
    kinds: tuple[Compression, ...] = ("gzip", "zstd")
    for kind in kinds:
        archive = place.folder / "archive.tar"
        yield f"12,600 files, archive, {kind}", peer.export(changed(), args, archive, kind)
        archive.unlink()
    name = f"{place.images['REGISTRY']}/bench/{peer.name}:tree"
    yield "12,600 files, pushed", peer.push(changed(), args, name)


def save(peer: Peer, place: Place) -> Measured:
    """A built image of 200 MB as an archive for Docker."""
    yield "200 MB, saved", _saved(peer, place, place.folder / "saved.tar")


def load(peer: Peer, place: Place) -> Measured:
    """Such an archive, read into an empty store."""
    archive = place.folder / "saved.tar"
    _saved(peer, place, archive)
    peer.forget()
    yield "200 MB, loaded", peer.load(archive)


def _saved(peer: Peer, place: Place, archive: Path) -> Usage:
    args = {"BASE": place.images[GO]}
    context = write(place.folder / "save", f"ARG BASE\nFROM ${{BASE}}\nRUN echo {random.random()} > /mark\n")
    peer.build(context, args)
    archive.unlink(missing_ok=True)
    return peer.save(context, args, archive)


def start(peer: Peer, place: Place) -> Measured:
    """A container that does nothing."""
    image = place.images[BUSYBOX]
    peer.start(image)
    yield "run --rm busybox true", peer.start(image)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("stages", "stages side by side", stages, (BUSYBOX,), {"16 stages of sleep 1": 1.3}),
        Workload("steps", "what a step costs", steps, (BUSYBOX,), {"one of 50 RUN true": 0.025}),
        Workload("cached", "a rebuild with nothing to do", cached, (GO,), {"example, all cached": 0.12}),
        Workload("files", "a context of many files", files),
        Workload("pull", "a base that is not here", pull, (GO,)),
        Workload("export", "a big layer into an archive", export, (GO, DEBIAN)),
        Workload("push", "a big layer to a registry", push, (GO, DEBIAN)),
        Workload("tree", "many small files between stages and out", tree, (GO,)),
        Workload("save", "an image as a file", save, (GO,)),
        Workload("load", "a file as an image", load, (GO,)),
        Workload("run", "the start of a container", start, (BUSYBOX,)),
    )
}
