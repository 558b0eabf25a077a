"""What all cases share: base images in a registry, an HTTP server with files, archives and git, an SSH key.

Everything is made of fixed bytes, times and owners, so that names derived from content (checksums, commits) can stand
in the cases. Only the server's port and the base's digest differ from run to run; see `World.fill`.
"""

import bz2
import gzip
import hashlib
import http.server
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

THEN = 1_000_000_000  # the time of every file that cases are made of
SERVER = "http://server"  # how cases write the address of the loopback server
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
USERS = "root:x:0:0:root:/root:/bin/sh\nbob:x:1234:1235::/home/bob:/bin/sh\nalice:x:2000:2001::/home/alice:/bin/sh\n"
GROUPS = "root:x:0:\nbob:x:1235:\nalice:x:2001:\nwheel:x:10:bob\nstaff:x:50:alice\n"
APPLETS = """
    sh [ cat chmod chown cp cut dd echo env expr false find grep head hostname id ip ln ls mkdir
    mkfifo mknod mount mv nc printf pwd readlink rm rmdir sed sleep sort stat tail tar test touch tr
    true umount uname wc wget xargs
""".split()


def compressed(data: bytes, kind: str) -> bytes:
    """`data` as gz, bz2, xz or zst; "" leaves it."""
    if kind == "zst":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    makers = {"": bytes, "gz": lambda b: gzip.compress(b, mtime=0), "bz2": bz2.compress, "xz": lzma.compress}
    return makers[kind](data)


def tar_of(members: Mapping[str, Any]) -> bytes:
    """A tar. A member is its text, or a mapping: text, mode ("0644"), uid, gid, link, hardlink, dir, xattr, mtime."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, value in members.items():
            spec = {"text": value} if isinstance(value, str) else value
            data = spec.get("text", "").encode() if "bytes" not in spec else spec["bytes"]
            entry = tarfile.TarInfo(name)
            kind = next((k for k in ("link", "hardlink", "dir") if k in spec), "text")
            entry.type = {"link": b"2", "hardlink": b"1", "dir": b"5", "text": b"0"}[kind]
            entry.linkname = str(spec.get("link", spec.get("hardlink", "")))
            entry.mode = int(spec.get("mode", "0755" if kind == "dir" else "0644"), 8)
            entry.uid, entry.gid, entry.mtime = spec.get("uid", 0), spec.get("gid", 0), spec.get("mtime", THEN)
            entry.size = len(data) if kind == "text" else 0
            entry.pax_headers = {f"SCHILY.xattr.{key}": text for key, text in spec.get("xattr", {}).items()}
            archive.addfile(entry, io.BytesIO(data) if kind == "text" else None)
    return out.getvalue()


# ---- images ----------------------------------------------------------------------------------------------------------


def base_tar() -> bytes:
    program = shutil.which("busybox")
    if not program or subprocess.run(["ldd", program], capture_output=True).returncode == 0:
        pytest.skip("no static busybox is installed (apt-get install busybox-static)")
    members: dict[str, Any] = {name: {"dir": True} for name in ("bin", "dev", "etc", "home", "proc", "sys", "var")}
    members |= {"tmp": {"dir": True, "mode": "1777"}, "root": {"dir": True, "mode": "0700"}}
    members["home/bob"] = {"dir": True, "uid": 1234, "gid": 1235}
    members["bin/busybox"] = {"bytes": Path(program).read_bytes(), "mode": "0755"}
    members |= {f"bin/{name}": {"link": "busybox"} for name in APPLETS}
    return tar_of(members | {"etc/passwd": USERS, "etc/group": GROUPS})


@dataclass(frozen=True)
class Image:
    """One image as its three documents; `layers` are plain tars."""

    config: bytes
    layers: tuple[bytes, ...]
    manifest: bytes

    @property
    def digest(self) -> str:
        return digest(self.manifest)

    @classmethod
    def of(cls, layers: tuple[bytes, ...], **config: Any) -> "Image":
        document = {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "created": "2001-09-09T01:46:40Z",
            "config": {"Env": ["PATH=/bin"]} | config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            "history": [{"created": "2001-09-09T01:46:40Z", "created_by": "made for the tests"} for _ in layers],
        }
        text = json.dumps(document).encode()
        kind = "application/vnd.oci.image"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": digest(text), "size": len(text)},
            "layers": [
                {"mediaType": f"{kind}.layer.v1.tar", "digest": digest(layer), "size": len(layer)} for layer in layers
            ],
        }
        return cls(text, layers, json.dumps(manifest).encode())

    def push(self, address: str, name: str) -> None:
        for blob in (self.config, *self.layers):
            place = _call("POST", f"http://{address}/v2/{name}/blobs/uploads/", b"")
            _call("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest(blob)}", blob)
        kind = json.loads(self.manifest)["mediaType"]
        _call("PUT", f"http://{address}/v2/{name}/manifests/latest", self.manifest, kind)

    def write_layout(self, folder: Path) -> None:
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for blob in (self.config, *self.layers, self.manifest):
            (blobs / digest(blob)[7:]).write_bytes(blob)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        kind = json.loads(self.manifest)["mediaType"]
        entry = {"mediaType": kind, "digest": self.digest, "size": len(self.manifest)}
        entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _call(method: str, url: str, data: bytes, kind: str = "application/octet-stream") -> str:
    call = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
    with urllib.request.urlopen(call, timeout=60) as answer:
        return str(answer.headers.get("Location", ""))


def images() -> dict[str, Image]:
    layer = base_tar()
    other = tar_of({"other": "another image\n", "etc/os": "other\n"})
    triggers = ["ARG WHAT=trigger", "COPY --from=base /etc/group /$WHAT", "RUN echo ran > /ran", "LABEL by=trigger"]
    everything = {
        "User": "bob",
        "WorkingDir": "/home/bob",
        "Entrypoint": ["/bin/echo"],
        "Cmd": ["base"],
        "Labels": {"a": "base", "b": "base"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "StopSignal": "SIGUSR1",
        "Env": ["PATH=/bin", "FROM_BASE=yes"],
        "Shell": ["/bin/sh", "-ec"],
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1000000000},
    }
    return {
        "base": Image.of((layer,)),
        "other": Image.of((layer, other), Labels={"is": "other"}),
        "triggers": Image.of((layer,), OnBuild=triggers),
        "everything": Image.of((layer,), **everything),
    }


# ---- the server ------------------------------------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    """Files of `served`, and git's smart protocol below *.git by git-http-backend(1)."""

    protocol_version = "HTTP/1.1"
    served: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if ".git/" in path:
            return self._git(path, query)
        file = self.served / path.lstrip("/")
        if not file.is_file():
            return self._answer(404, b"no such file\n")
        headers = {"Last-Modified": formatdate(THEN, usegmt=True), "ETag": f'"{digest(file.read_bytes())[7:23]}"'}
        if self.headers.get("If-None-Match") == headers["ETag"]:
            return self._answer(304, b"", headers)
        self._answer(200, file.read_bytes(), headers)

    do_POST = do_GET

    def _git(self, path: str, query: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        environ = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.served),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "uploadpack.allowAnySHA1InWant",
            "GIT_CONFIG_VALUE_1": "true",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environ, capture_output=True)
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        self._answer(int(headers.pop("Status", "200").split()[0]), data, headers)

    def _chunks(self) -> bytes:
        data = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return data

    def _answer(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _git(folder: Path, *words: str) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        environ |= {f"GIT_{role}_NAME": "t", f"GIT_{role}_EMAIL": "t@t", f"GIT_{role}_DATE": f"{THEN} +0000"}
    environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "always"}
    done = subprocess.run(["git", *words], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _commit(folder: Path, message: str, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", message)


def make_repositories(served: Path, room: Path) -> None:
    """repo.git: main, a branch `feature`, tags v1 (plain) and v1a (annotated), and the submodule `module`."""
    if not shutil.which("git"):
        return
    sub, repo = room / "sub", room / "repo"
    for folder in (sub, repo):
        folder.mkdir()
        _git(folder, "init", "-q", "-b", "main")
    _commit(sub, "one", inner="in the submodule\n")
    _git(room, "clone", "-q", "--bare", str(sub), str(served / "sub.git"))
    _commit(repo, "one", readme="one\n", sub__Dockerfile="FROM base\nCOPY . /from-git/\n", sub__file="in sub\n")
    os.symlink("readme", repo / "link")
    (repo / "run.sh").write_text("#!/bin/sh\n")
    (repo / "run.sh").chmod(0o755)
    dockerfile = "FROM base\nCOPY . /from-git/\n"
    _commit(repo, "two", Dockerfile=dockerfile, _dot_gitignore="x\n", _dot_dockerignore="ignored\n", ignored="i\n")
    _git(repo, "tag", "v1")
    _git(repo, "tag", "-a", "v1a", "-m", "annotated")
    _git(repo, "checkout", "-q", "-b", "feature")
    _commit(repo, "three", readme="on the branch\n")
    _git(repo, "checkout", "-q", "main")
    text = '[submodule "module"]\n\tpath = module\n\turl = ../sub.git\n'
    (repo / ".gitmodules").write_text(text)
    _git(repo, "clone", "-q", str(sub), "module")
    _git(repo, "add", "-A")
    _git(repo, "commit", "-q", "-m", "four")
    shutil.rmtree(repo / "module")
    _git(room, "clone", "-q", "--bare", str(repo), str(served / "repo.git"))


ARCHIVE = {
    "top": "top\n",
    "dir": {"dir": True, "mode": "0750", "uid": 7, "gid": 8},
    "dir/file": {"text": "in dir\n", "mode": "0600", "uid": 7, "gid": 8},
    "dir/link": {"link": "file"},
    "dir/hard": {"hardlink": "dir/file", "mode": "0600", "uid": 7, "gid": 8},
}


def make_files(served: Path) -> None:
    (served / "file.txt").write_bytes(b"by http\n")
    (served / "deep").mkdir()
    (served / "deep" / "name").write_bytes(b"deep\n")
    for kind in ("", "gz", "bz2", "xz", "zst"):
        (served / f"archive.tar{'.' if kind else ''}{kind}").write_bytes(compressed(tar_of(ARCHIVE), kind))
    context = tar_of({"Dockerfile": "FROM base\nCOPY file /from-tar\n", "file": "in the tar\n", "extra/x": "x\n"})
    (served / "context.tar").write_bytes(context)
    (served / "context.tar.gz").write_bytes(compressed(context, "gz"))
    (served / "Dockerfile").write_bytes(b"FROM base\nRUN echo by http > /made\n")


# ---- all of it -------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """`fill` replaces what only this run knows in a case's texts; `plain` is the way back, for what was built."""

    room: Path
    registry: str
    images: Mapping[str, Image]
    port: int
    environ: Mapping[str, str] = field(default_factory=dict)

    def fill(self, text: str) -> str:
        for name, value in self._names().items():
            text = text.replace(name, value)
        return text

    def plain(self, text: str) -> str:
        text = text.replace(f"http://127.0.0.1:{self.port}", SERVER).replace(self.images["base"].digest, "@BASE@")
        return text.replace(f"linux/{ARCHITECTURE}", "linux/@ARCH@")

    def _names(self) -> dict[str, str]:
        return {
            SERVER: f"http://127.0.0.1:{self.port}",
            "@BASE@": self.images["base"].digest,
            "@ARCH@": ARCHITECTURE,
            "@ROOM@": str(self.room),
            "@LAYOUT@": f"{self.room}/layout",
        }


@contextmanager
def open_world(room: Path, registry: str) -> Iterator[World]:
    served = room / "served"
    served.mkdir()
    make_files(served)
    make_repositories(served, room)
    (room / "more").mkdir()
    (room / "more" / "file").write_text("from more\n")
    (room / "more" / "ignored").write_text("x\n")
    (room / "more" / ".dockerignore").write_text("ignored\n")
    made = images()
    for name, image in made.items():
        image.push(registry, f"library/{name}")
    made["other"].write_layout(room / "layout")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with agent(room) as environ:
            yield World(room, registry, made, server.server_port, environ)
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def agent(room: Path) -> Iterator[dict[str, str]]:
    """A real ssh-agent with one key, and `tools`: ssh-add with the libraries it needs, for a step to ask it."""
    if not all(map(shutil.which, ("ssh-agent", "ssh-add", "ssh-keygen"))):
        yield {}
        return
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the key", "-f", room / "key"], check=True)
    socket = room / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        environ = {"SSH_AUTH_SOCK": str(socket)}
        for _ in range(100):
            added = subprocess.run(
                ["ssh-add", "-q", room / "key"], env=os.environ | environ, capture_output=True, text=True
            )
            if added.returncode == 0:
                break
            threading.Event().wait(0.02)
        copy_program("ssh-add", room / "tools")
        yield environ
    finally:
        process.terminate()
        process.wait(60)


def copy_program(name: str, folder: Path) -> None:
    """A program of this machine, `loader` that starts it, and its libraries, side by side."""
    folder.mkdir()
    program = shutil.which(name)
    assert program
    shutil.copy(program, folder / name)
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for word in {word for line in listing.splitlines() for word in line.split() if word.startswith("/")}:
        shutil.copy(word, folder / ("loader" if "/ld-" in word else Path(word).name))
