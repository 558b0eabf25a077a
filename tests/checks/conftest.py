"""Trees made of files that a test names, and programs made by gcc."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kedge.checks.files import Files
from kedge.checks.start import Fault, fault_of
from kedge.model.image import ImageConfig
from kedge.model.platform import Platform, of_machine
from kedge.storage.tree import Tree

HOST = of_machine(os.uname().machine)


@dataclass
class Root:
    """A directory that stands for an image's merged tree."""

    path: Path
    fd: int

    def write(self, name: str, data: bytes | str = b"", mode: int = 0o755) -> Path:
        path = self.path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        path.chmod(mode)
        return path

    def link(self, name: str, target: str) -> None:
        path = self.path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def copy(self, source: Path | str, name: str) -> None:
        self.write(name, Path(source).read_bytes())

    @property
    def files(self) -> Files:
        return Files(Tree(self.fd))

    def fault(self, *cmd: str, platform: Platform = HOST, **config: object) -> Fault | None:
        """Why an image with this tree and CMD would not start."""
        return fault_of(self.files, ImageConfig(platform, cmd=cmd or None, **config))  # type: ignore[arg-type]

    def reason(self, *cmd: str, **config: object) -> str:
        fault = self.fault(*cmd, **config)  # type: ignore[arg-type]
        return fault.reason if fault else ""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    path = tmp_path / "root"
    path.mkdir()
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    yield Root(path, fd)
    os.close(fd)


Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """`compiled("main", "int main(){…}", "-static")`: the program's path."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed (apt-get install gcc libc6-dev)")
    folder = tmp_path_factory.mktemp("gcc")
    count = 0

    def make(text: str, *flags: str, name: str = "") -> Path:
        nonlocal count
        count += 1
        out = folder / str(count) / (name or "program")
        out.parent.mkdir()
        (out.parent / "source.c").write_text(text)
        words = ["gcc", "-o", str(out), str(out.parent / "source.c"), *flags]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"gcc cannot make this: {done.stderr[-300:]}")
        return out

    return make


MAIN = "int main(void) { return 0; }\n"


def libraries_of_host(program: Path | str) -> list[str]:
    """The files that the host's own loader would load, the loader included."""
    shown = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    words = [word for line in shown.splitlines() for word in line.split()]
    return [word for word in words if word.startswith("/")]
