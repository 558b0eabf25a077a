"""The builders that can be measured, each with a store of its own that is thrown away.

Owns how each is called. Every call is a whole command, start-up included, as a user waits for it.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from bench.usage import Usage, run

# ext4 without a journal looks long for an inode that was not freed just now, whoever freed the others
_SETTLE = 6
Compression = Literal["gzip", "zstd"]


class Unable(Exception):
    """What a peer does not do."""


class Peer(Protocol):
    """A builder. Calls block and raise CalledProcessError when the command fails, Unable when there is none."""

    name: str
    version: str

    def build(self, context: Path, args: Mapping[str, str]) -> Usage:
        """Build `context`/Dockerfile into the builder's own store."""

    def export(self, context: Path, args: Mapping[str, str], archive: Path, compression: Compression) -> Usage:
        """The same into an OCI archive with layers compressed anew."""

    def push(self, context: Path, args: Mapping[str, str], name: str) -> Usage:
        """The same and give it to a registry."""

    def save(self, context: Path, args: Mapping[str, str], archive: Path) -> Usage:
        """What was built of the context before, as an archive for `docker load`."""

    def load(self, archive: Path) -> Usage:
        """Read such an archive into the builder's store."""

    def start(self, image: str) -> Usage:
        """Run `true` in a new container of an image, and remove it."""

    def forget(self) -> None:
        """Have an empty store. Takes no part in any measurement."""


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


class Kedge:
    """This checkout."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        self.name = "kedge"
        self.version = output(sys.executable, "-m", "kedge", "version", "--short").removeprefix("kedge version ")

    def _words(self, *words: str | Path) -> list[str | Path]:
        return [sys.executable, "-m", "kedge", "--root", self._folder / f"kedge{self._number}", *words]

    def _build(self, context: Path, args: Mapping[str, str], *more: str) -> Usage:
        given = [word for name, value in args.items() for word in ("--build-arg", f"{name}={value}")]
        return run(self._words("build", "--progress", "quiet", *given, *more, context))

    def build(self, context: Path, args: Mapping[str, str]) -> Usage:
        return self._build(context, args, "--tag", "bench")

    def export(self, context: Path, args: Mapping[str, str], archive: Path, compression: Compression) -> Usage:
        return self._build(context, args, f"--output=type=oci,dest={archive},compression={compression}")

    def push(self, context: Path, args: Mapping[str, str], name: str) -> Usage:
        return self._build(context, args, "--tag", name, "--push")

    def save(self, context: Path, args: Mapping[str, str], archive: Path) -> Usage:
        return run(self._words("save", "--output", archive, "bench"))

    def load(self, archive: Path) -> Usage:
        return run(self._words("load", "--quiet", "--input", archive))

    def start(self, image: str) -> Usage:
        return run(self._words("run", "--rm", image, "true"))

    def forget(self) -> None:
        self._number += 1  # removing much at once would disturb what is measured next


class BuildKit:
    """A buildkitd of our own and its buildctl, found in the directory that KEDGE_BENCH_BUILDKIT names."""

    def __init__(self, programs: Path, address: str, daemon: int) -> None:
        self._buildctl: list[str | Path] = [programs / "buildctl", "--addr", address]
        self._daemon = daemon
        self.name = "buildkit"
        words = output(str(programs / "buildctl"), "--version").split()
        self.version = words[2] if len(words) > 2 and "unknown" not in words[2] else "(built from source)"

    def _build(self, context: Path, args: Mapping[str, str], result: str) -> Usage:
        words = [*self._buildctl, "build", "--progress=plain", "--frontend=dockerfile.v0", f"--local=context={context}"]
        words += [f"--local=dockerfile={context}", f"--output={result}"]
        words += [f"--opt=build-arg:{name}={value}" for name, value in args.items()]
        return run(words, self._daemon)

    def build(self, context: Path, args: Mapping[str, str]) -> Usage:
        return self._build(context, args, "type=image,name=bench")

    def export(self, context: Path, args: Mapping[str, str], archive: Path, compression: Compression) -> Usage:
        return self._build(
            context, args, f"type=oci,dest={archive},compression={compression},force-compression=true,name=bench"
        )

    def push(self, context: Path, args: Mapping[str, str], name: str) -> Usage:
        return self._build(context, args, f"type=image,name={name},push=true")

    def save(self, context: Path, args: Mapping[str, str], archive: Path) -> Usage:
        return self._build(context, args, f"type=docker,dest={archive},name=bench")

    def load(self, archive: Path) -> Usage:
        raise Unable

    def start(self, image: str) -> Usage:
        raise Unable

    def forget(self) -> None:
        run([*self._buildctl, "prune", "--all"])
        time.sleep(_SETTLE)


class Buildah:
    """The installed buildah, by chroot isolation and with layer caching; podman runs."""

    def __init__(self, folder: Path) -> None:
        self._storage: list[str | Path] = ["--root", folder / "buildah", "--runroot", folder / "run"]
        self.name = "buildah"
        self.version = output("buildah", "--version").split()[2]

    def _build(self, context: Path, args: Mapping[str, str], *more: str) -> Usage:
        words = ["buildah", *self._storage, "build", "--layers", "--isolation=chroot", "--tls-verify=false"]
        words += ["--jobs=16", "--quiet", *(f"--build-arg={name}={value}" for name, value in args.items())]
        return run([*words, *more, context])

    def build(self, context: Path, args: Mapping[str, str]) -> Usage:
        return self._build(context, args, "--tag", "bench")

    def export(self, context: Path, args: Mapping[str, str], archive: Path, compression: Compression) -> Usage:
        built = self._build(context, args, "--tag", "bench")
        words = ["buildah", *self._storage, "push", "--quiet", f"--compression-format={compression}"]
        return _sum(built, run([*words, "bench", f"oci-archive:{archive}"]))

    def push(self, context: Path, args: Mapping[str, str], name: str) -> Usage:
        built = self._build(context, args, "--tag", name)
        return _sum(built, run(["buildah", *self._storage, "push", "--quiet", "--tls-verify=false", name]))

    def save(self, context: Path, args: Mapping[str, str], archive: Path) -> Usage:
        return run(["buildah", *self._storage, "push", "--quiet", "bench", f"docker-archive:{archive}"])

    def load(self, archive: Path) -> Usage:
        return run(["buildah", *self._storage, "pull", "--quiet", f"docker-archive:{archive}"])

    def start(self, image: str) -> Usage:
        if not shutil.which("podman"):
            raise Unable
        words = ["podman", *self._storage, "run", "--rm", "--network=host", "--cgroups=disabled", "--ulimit=host"]
        return run([*words, image, "true"])

    def forget(self) -> None:
        run(["buildah", *self._storage, "rmi", "--all", "--force"])
        time.sleep(_SETTLE)


def _sum(first: Usage, second: Usage) -> Usage:
    memory = max(first.memory, second.memory)
    return Usage(first.wall + second.wall, first.processor + second.processor, memory)


@contextmanager
def all_peers(folder: Path) -> Iterator[list[Peer]]:
    """Kedge and every peer that is found here; says why one is left out."""
    peers: list[Peer] = [Kedge(folder)]
    if shutil.which("buildah"):
        peers.append(Buildah(folder))
    else:
        print("buildah is not installed (apt-get install buildah): left out")
    programs = os.environ.get("KEDGE_BENCH_BUILDKIT", "")
    if not programs:
        print("KEDGE_BENCH_BUILDKIT names no directory with buildkitd and buildctl: BuildKit is left out")
        yield peers
        return
    with _buildkitd(folder, Path(programs)) as (address, daemon):
        yield [*peers, BuildKit(Path(programs), address, daemon)]


@contextmanager
def _buildkitd(folder: Path, programs: Path) -> Iterator[tuple[str, int]]:
    """A daemon of our own, which takes plain http from registries on loopback as every client does."""
    address = f"unix://{folder}/buildkitd.sock"
    words: list[str | Path] = [programs / "buildkitd", "--addr", address, "--root", folder / "buildkit"]
    with open(folder / "buildkitd.log", "wb") as log:
        daemon = subprocess.Popen(
            [*words, "--oci-worker=true", "--containerd-worker=false"],
            env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
        )
        try:
            _wait(daemon, [str(programs / "buildctl"), "--addr", address, "debug", "workers"], folder)
            yield address, daemon.pid
        finally:
            daemon.terminate()
            daemon.wait(20)


def _wait(daemon: "subprocess.Popen[bytes]", question: list[str], folder: Path) -> None:
    for _ in range(200):
        if daemon.poll() is not None:
            raise RuntimeError(f"buildkitd ended at once: {(folder / 'buildkitd.log').read_text()[-2000:]}")
        if not subprocess.run(question, capture_output=True).returncode:
            return
        time.sleep(0.1)
    raise RuntimeError("buildkitd does not answer")
