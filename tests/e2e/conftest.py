"""What end-to-end tests stand on: base images in a real registry, and Kedge's command line with a store of its own.

The bases are the stand-ins of examples/bases, served by docker-registry on loopback under Docker Hub's names; they
are made once for a machine and kept in the cache directory.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import LiveRegistry
from tests.e2e.world import World, open_world

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ("--progress", "plain")


def _recipes() -> ModuleType:
    """examples/bases/serve.py, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("kedge_bases_serve", ROOT / "examples" / "bases" / "serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Kedge:
    """The command line with a store of its own. `config` holds the mirror that stands for Docker Hub."""

    store: Path
    config: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = (sys.executable, "-m", "kedge")

    def __call__(
        self, *words: str | Path, cwd: Path | None = None, check: bool = True, stdin: bytes = b"", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run `kedge WORDS`; fails the test when it ends with another code than 0, unless `check` is False."""
        done = subprocess.run(
            [*self.command, *map(str, words)],
            cwd=cwd,
            input=stdin,
            env=os.environ | {"KEDGE_ROOT": str(self.store), "KEDGE_CONFIG": str(self.config)} | environment,
            capture_output=True,
            check=False,
            timeout=240,
        )
        result = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        if check and done.returncode:
            pytest.fail(
                f"kedge {' '.join(map(str, words))}: exit code {done.returncode}\n{result.stdout}{result.stderr}"
            )
        return result

    def build(self, context: Path, *words: str | Path, check: bool = True, **environment: str) -> str:
        """`kedge build` with plain progress; returns what it showed."""
        return self("build", *PLAIN, *words, context, check=check, **environment).stderr


def steps(output: str) -> dict[str, str]:
    """The steps of plain output: name -> how each ended (`DONE`, `CACHED`, `ERROR`, `CANCELED`)."""
    names: dict[str, str] = {}
    ends: dict[str, str] = {}
    for line in output.splitlines():
        number, _, rest = line.partition(" ")
        if number.startswith("#") and number[1:].isdigit():
            names.setdefault(number, rest)
            word = rest.split()[0].rstrip(":") if rest else ""
            if word in ("DONE", "CACHED", "ERROR", "CANCELED"):
                ends[names[number]] = word
    return ends


@pytest.fixture(scope="session")
def bases() -> Iterator[Any]:
    """A registry on loopback that holds busybox and golang:1.25."""
    serve = _recipes()
    try:
        with serve.Served(["busybox:latest", "golang:1.25"]) as served:
            yield served
    except serve.make.CannotMake as error:
        pytest.skip(f"base images cannot be made here: {error}")


@pytest.fixture(scope="session")
def debian(bases: Any) -> str:
    """The name of a Debian base; skipped where mmdebstrap cannot make it."""
    serve = _recipes()
    try:
        with serve.make.locked(bases.root / "pushing.lock"):
            serve.push(bases.address, "debian:bookworm-slim")
    except serve.make.CannotMake as error:
        pytest.skip(f"a Debian base cannot be made here: {error}")
    return "debian:bookworm-slim"


@pytest.fixture(scope="session")
def mirror(bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file in which the registry of `bases` stands for Docker Hub."""
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(f'[registry."docker.io"]\nmirrors = ["http://{bases.address}"]\n')
    return path


@pytest.fixture
def kedge(mirror: Path, tmp_path: Path) -> Kedge:
    """The command line with an empty store."""
    return Kedge(tmp_path / "store", mirror)


@pytest.fixture(scope="session")
def shared(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Kedge:
    """The command line with a store that tests of one worker share: for those that do not care what else is in it."""
    return Kedge(tmp_path_factory.mktemp("shared") / "store", mirror)


@pytest.fixture(scope="session")
def world(live_registry: LiveRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """What the cases of tests/cases share; `config.toml` in its room makes its registry stand for Docker Hub."""
    with open_world(tmp_path_factory.mktemp("world"), live_registry.address) as world:
        settings = f'[registry."docker.io"]\nmirrors = ["http://{world.registry}"]\n'
        (world.room / "config.toml").write_text(settings)
        yield world


def write_tree(folder: Path, files: Mapping[str, str]) -> Path:
    """Make files with their directories; returns `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
