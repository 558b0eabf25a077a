"""A box: a busybox root file system and steps in it, as root and as an ordinary user."""

import contextlib
import functools
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kedge.sandbox.process import MountPoint, Overlay, Process

BUSYBOX = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p)), "")
SOURCE = Path(__file__).resolve().parents[2] / "src"
HARNESS = Path(__file__).with_name("harness.py")
USER = int(os.environ.get("KEDGE_TEST_USER", "1000"))


@dataclass
class Result:
    code: int | None
    out: str
    err: str
    error: tuple[str, str] | None
    notes: list[str]
    seconds: float
    single_id: bool
    hint: str
    dumpable: bool


@dataclass
class Box:
    """`base` holds layers/root (a busybox system), upper and work."""

    base: Path
    command: list[str]
    as_user: bool
    lowers: list[str] = field(default_factory=list)
    process_sandbox: bool = True

    @property
    def layer(self) -> Path:
        return self.base / "layers" / "root"

    @property
    def upper(self) -> Path:
        return self.base / "draft" / "upper"

    def root(self, readonly: bool = False) -> MountPoint:
        lowers = (str(self.layer), *self.lowers)
        return MountPoint("/", Overlay(lowers, str(self.upper), str(self.base / "draft" / "work")), readonly=readonly)

    def sh(self, script: str, *mounts: MountPoint, **fields: Any) -> Result:
        return self.run(("/bin/sh", "-c", script), *mounts, **fields)

    def run(self, args: tuple[str, ...], *mounts: MountPoint, stdin: bytes | None = None, signal: int = 0,
            cancel_after: float = 0, root: MountPoint | None = None, open_files: tuple[int, int] | None = None,
            **fields: Any) -> Result:  # fmt: skip
        process = Process(args, **{"env": ("PATH=/bin",), **fields})
        step = (process, (root or self.root(), *mounts))
        return self.steps([step], stdin=stdin, signal=signal, cancel_after=cancel_after, open_files=open_files)

    def steps(self, steps: list[Any], timeout: float = 60, **more: Any) -> Result:
        request = {
            "state": str(self.base / "state"),
            "steps": steps,
            "stdin": None,
            "signal": 0,
            "cancel_after": 0,
            "beside": (),
            "kill_parent": False,
            "wall": True,
            "process_sandbox": self.process_sandbox,
            "open_files": None,
            **more,
        }
        self.give()
        done = subprocess.run(
            self.command,
            input=pickle.dumps(request),
            capture_output=True,
            timeout=timeout,
            env={"PYTHONPATH": str(SOURCE)},
        )
        assert done.returncode == 0, done.stderr.decode()
        answer = pickle.loads(done.stdout)
        out, err = (b"".join(d for s, d in answer["output"] if s == n).decode(errors="replace") for n in (1, 2))
        return Result(
            answer["code"],
            out,
            err,
            answer["error"],
            answer["notes"],
            answer["seconds"],
            answer["single_id"],
            answer["hint"],
            answer["dumpable"],
        )

    def give(self) -> None:
        """To an ordinary user, what the test has put there so far."""
        if self.as_user and os.geteuid() == 0:
            for top, directories, files in os.walk(self.base):
                for name in [top, *(os.path.join(top, n) for n in (*directories, *files))]:
                    os.chown(name, USER, USER, follow_symlinks=False)

    def written(self) -> list[str]:
        """What is in the upper directory."""
        return sorted(str(path.relative_to(self.upper)) for path in self.upper.rglob("*"))


@functools.cache
def user_command() -> list[str] | str:
    """How to run the harness as an ordinary user, or why it cannot be."""
    python = [sys.executable, "/usr/bin/python3"]
    prefix = (
        [] if os.geteuid() else ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all"]
    )
    probe = "import sys;sys.path.insert(0,sys.argv[1]);from kedge.kernel import identity as i;i.enter_user_namespace()"
    for interpreter in python:
        # Through `env`, so that the interpreter is looked up without root's rights.
        command = [*prefix, "env", interpreter]
        done = subprocess.run([*command, "-c", probe, str(SOURCE)], capture_output=True, text=True)
        if done.returncode == 0:
            return command
    return done.stderr.strip().splitlines()[-1]


def _make_box(as_user: bool) -> Iterator[Box]:
    if not BUSYBOX:
        pytest.skip("busybox-static is not installed")
    if not as_user and os.geteuid():
        pytest.skip("runs as root only; the same is tested as a user")
    command = user_command() if as_user else [sys.executable]
    if isinstance(command, str):
        pytest.skip(f"no ordinary user can enter a user namespace here: {command}")
    base = Path(tempfile.mkdtemp(prefix="kedge-box-"))
    base.chmod(0o755)
    box = Box(base, [*command, str(HARNESS)], as_user)
    for part in ("bin", "tmp", "root", "etc"):
        (box.layer / part).mkdir(parents=True)
    (box.layer / "tmp").chmod(0o1777)
    (box.layer / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    shutil.copy(BUSYBOX, box.layer / "bin" / "busybox")
    for applet in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            (box.layer / "bin" / applet).symlink_to("busybox")
    box.upper.mkdir(parents=True)
    (base / "draft" / "work").mkdir()
    yield box
    with contextlib.suppress(OSError):
        (base / "draft/work/work").chmod(0o700)  # overlayfs leaves it closed to its own owner
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(params=["root", "user"] if os.geteuid() == 0 else ["user"])
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    yield from _make_box(request.param == "user")


@pytest.fixture
def root_box() -> Iterator[Box]:
    yield from _make_box(False)


@pytest.fixture
def user_box() -> Iterator[Box]:
    yield from _make_box(True)
