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
from typing import Protocol


class Peer(Protocol):
    """A builder. `build` blocks and raises CalledProcessError when the build fails."""

    name: str
    version: str

    def build(self, context: Path, args: Mapping[str, str], *, cache: bool = True, archive: Path | None = None) -> None:
        """Build `context`/Dockerfile; into `archive` (an OCI archive) or nowhere but the builder's own store."""


def run(command: list[str | Path], **environment: str) -> None:
    subprocess.run(
        [str(word) for word in command],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


class Kedge:
    """This checkout."""

    def __init__(self, folder: Path) -> None:
        self._store = folder / "kedge"
        self.name = "kedge"
        self.version = output(sys.executable, "-m", "kedge", "version", "--short").removeprefix("kedge version ")

    def build(self, context: Path, args: Mapping[str, str], *, cache: bool = True, archive: Path | None = None) -> None:
        words: list[str | Path] = [sys.executable, "-m", "kedge", "--root", self._store, "build", "--progress", "quiet"]
        words += [word for name, value in args.items() for word in ("--build-arg", f"{name}={value}")]
        words += [] if cache else ["--no-cache"]
        words += [f"--output=type=oci,dest={archive}"] if archive else ["--tag", "bench"]
        run([*words, context])


class BuildKit:
    """A buildkitd of our own and its buildctl, found in the directory that KEDGE_BENCH_BUILDKIT names."""

    def __init__(self, folder: Path, programs: Path, address: str) -> None:
        self._programs, self._address = programs, address
        self.name = "buildkit"
        self.version = output(str(programs / "buildctl"), "--version").split()[-2:][0]

    def build(self, context: Path, args: Mapping[str, str], *, cache: bool = True, archive: Path | None = None) -> None:
        words: list[str | Path] = [self._programs / "buildctl", "--addr", self._address, "build", "--progress=quiet"]
        words += ["--frontend=dockerfile.v0", f"--local=context={context}", f"--local=dockerfile={context}"]
        words += [f"--opt=build-arg:{name}={value}" for name, value in args.items()]
        words += [] if cache else ["--no-cache"]
        words += [f"--output=type=oci,dest={archive}" if archive else "--output=type=image,name=bench"]
        run(words)


class Buildah:
    """The installed buildah, by chroot isolation and with layer caching."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = "buildah"
        self.version = output("buildah", "--version").split()[2]

    def build(self, context: Path, args: Mapping[str, str], *, cache: bool = True, archive: Path | None = None) -> None:
        words: list[str | Path] = ["buildah", "--root", self._folder / "buildah", "--runroot", self._folder / "run"]
        words += ["build", "--layers", "--isolation=chroot", "--tls-verify=false", "--jobs=16", "--quiet"]
        words += [f"--build-arg={name}={value}" for name, value in args.items()]
        words += [] if cache else ["--no-cache"]
        words += ["--tag", f"oci-archive:{archive}" if archive else "bench"]
        run([*words, context])


@contextmanager
def all_peers(folder: Path, registry: str) -> Iterator[list[Peer]]:
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
    with _buildkitd(folder, Path(programs), registry) as address:
        yield [*peers, BuildKit(folder, Path(programs), address)]


@contextmanager
def _buildkitd(folder: Path, programs: Path, registry: str) -> Iterator[str]:
    """A daemon of our own, that takes plain http from the registry on loopback."""
    settings = folder / "buildkitd.toml"
    settings.write_text(f'[registry."{registry}"]\nhttp = true\n')
    address = f"unix://{folder}/buildkitd.sock"
    log = open(folder / "buildkitd.log", "wb")  # noqa: SIM115
    daemon = subprocess.Popen(
        [programs / "buildkitd", "--addr", address, "--root", folder / "buildkit", "--config", settings],
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
        stdout=log,
        stderr=log,
    )
    try:
        for _ in range(200):
            if daemon.poll() is not None:
                raise RuntimeError(f"buildkitd ended at once: {(folder / 'buildkitd.log').read_text()[-2000:]}")
            if not subprocess.run(
                [programs / "buildctl", "--addr", address, "debug", "workers"], capture_output=True
            ).returncode:
                break
            time.sleep(0.1)
        yield address
    finally:
        daemon.terminate()
        daemon.wait(20)
        log.close()
