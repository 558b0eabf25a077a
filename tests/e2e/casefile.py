"""A case: a folder of tests/cases with what is built, how, and what must come out.

    Dockerfile      with http://server for the loopback server and @BASE@ for the base image's digest
    context/        the build context; copied, with modes 644/755 and one time, before it is built
    case.json       optional: {"flags": words of `kedge build`, "context": another way to give the context,
                    "make": files that a checkout of this repository cannot hold, "world": True …}
    expected.json   what the image has that its base has not (see `facts.Facts.without`), or {"error": text}

"needs" in case.json is "ids" for what a single id cannot make, and "root" for what no ordinary user can. "differs" says
what BuildKit makes otherwise and why: a key of expected.json, `tree/PATH`, or `all`, when only one of the two refuses.
The same list is in docs/reference/dockerfile.md.
"""

import io
import json
import os
import shlex
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tests.e2e.facts import Facts, read_layout, read_layout_once
from tests.e2e.world import THEN, World, compressed, tar_of

CASES = Path(__file__).resolve().parents[1] / "cases"
NAMES = sorted(path.name for path in CASES.iterdir())


@dataclass(frozen=True)
class Case:
    """A case whose files are ready in `room`."""

    name: str
    room: Path
    flags: tuple[str, ...]
    way: str  # how the context is given: directory, tar, tar.gz …, dockerfile (on standard input), or a URL
    settings: dict[str, Any]

    @property
    def context(self) -> Path:
        return self.room / "context"

    @property
    def is_url(self) -> bool:
        return "://" in self.way

    @property
    def dockerfile(self) -> Path:
        return self.room / "Dockerfile"

    @property
    def expected(self) -> dict[str, Any]:
        return expected(self.name)

    @property
    def words(self) -> list[str]:
        """The command line of `kedge build`, without the output."""
        if self.way == "dockerfile":
            return [*self.flags, "-"]
        if self.is_url:
            return [*self.flags, self.way]
        if self.way.startswith("tar"):
            return [*self.flags, "-"]
        chosen = any(word in ("-f", "--file") for word in self.flags)
        return [*([] if chosen else ["-f", str(self.dockerfile)]), *self.flags, str(self.context)]

    @property
    def stdin(self) -> BinaryIO:
        if self.way == "dockerfile" or "-" in self.flags:
            return io.BytesIO(self.dockerfile.read_bytes())
        if self.way.startswith("tar"):
            return io.BytesIO(compressed(tar_of(self._members()), self.way.partition(".")[2]))
        return io.BytesIO()

    def _members(self) -> dict[str, Any]:
        members: dict[str, Any] = {"Dockerfile": self.dockerfile.read_text()}
        for path in sorted(self.context.rglob("*")):
            name = str(path.relative_to(self.context))
            if path.is_symlink():
                members[name] = {"link": os.readlink(path)}
            elif path.is_dir():
                members[name] = {"dir": True}
            else:
                members[name] = {"text": path.read_text(), "mode": f"{path.stat().st_mode & 0o7777:o}"}
        return members


def expected(name: str) -> dict[str, Any]:
    """What a case's expected.json says."""
    result: dict[str, Any] = json.loads((CASES / name / "expected.json").read_text())
    return result


def prepare(name: str, world: World, room: Path) -> Case:
    """Lay the case's files out in `room`."""
    folder = CASES / name
    (room / "context").mkdir()
    if (folder / "context").exists():
        shutil.copytree(folder / "context", room / "context", symlinks=True, dirs_exist_ok=True)
    for path in sorted(room.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
    settings = json.loads((folder / "case.json").read_text()) if (folder / "case.json").exists() else {}
    for path, spec in settings.get("make", {}).items():
        make(room / path, spec)
    for path in sorted(room.rglob("*"), reverse=True):
        os.utime(path, (THEN, THEN), follow_symlinks=False)
    if (folder / "Dockerfile").exists():
        (room / "Dockerfile").write_text(world.fill((folder / "Dockerfile").read_text()))
    words = settings.get("flags", [])
    words = shlex.split(words) if isinstance(words, str) else words
    flags = tuple(world.fill(word).replace("@CASE@", str(room)) for word in words)
    return Case(name, room, flags, world.fill(settings.get("context", "directory")), settings)


def make(path: Path, spec: Any) -> None:
    """A file that git does not keep: by mode, as a link, a FIFO, an archive, with extended attributes."""
    if isinstance(spec, str):
        spec = {"text": spec}
    path.parent.mkdir(parents=True, exist_ok=True)
    if "link" in spec:
        path.symlink_to(spec["link"])
    elif "hardlink" in spec:
        path.hardlink_to(path.parent / spec["hardlink"])
    elif "fifo" in spec:
        os.mkfifo(path)
    elif "dir" in spec:
        path.mkdir(exist_ok=True)
    elif "archive" in spec:
        path.write_bytes(compressed(tar_of(spec["archive"]), spec.get("compression", "")))
    elif "text" in spec:
        path.write_text(spec["text"])
    for key, value in spec.get("xattr", {}).items():
        os.setxattr(path, key, bytes.fromhex(value[2:]) if value.startswith("0x") else value.encode())
    if "mode" in spec:
        path.chmod(int(spec["mode"], 8))


def made(case: Case, world: World, layout: Path) -> dict[str, Any]:
    """What an OCI layout holds of this case's expectations: the image without the base it was built on."""
    name = case.settings.get("base", "base")
    base = Facts() if name == "scratch" else base_facts(world, name)
    out = read_layout(layout).without(base)
    result: dict[str, Any] = json.loads(world.plain(json.dumps(out)))
    return result


def base_facts(world: World, name: str) -> Facts:
    folder = world.room / "base-layouts" / name
    if not folder.exists():
        world.images[name].write_layout(folder)
    return read_layout_once(folder)


def dump(expected: dict[str, Any]) -> str:
    """expected.json's text: a line for each fact."""
    return json.dumps(expected, indent=1, ensure_ascii=False) + "\n"
