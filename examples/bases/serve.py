#!/usr/bin/env python3
"""Serves the stand-ins of make.py from Debian's docker-registry on loopback, under the names they have on Docker Hub.

    python3 examples/bases/serve.py busybox golang:1.25

prints the address and what to write into Kedge's configuration so that `FROM golang:1.25` is pulled from there, and
serves until it is stopped. The tests use `Served` as a context manager.
"""

import argparse
import gzip
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import make

SETTINGS = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "{address}"}}
"""


class Served:
    """A registry process on an ephemeral loopback port that holds the named bases; stopped on exit."""

    def __init__(self, names: list[str], root: Path | None = None) -> None:
        self.names = names
        self.root = root or make.cache() / "registry"
        self.address = ""

    def __enter__(self) -> "Served":
        program = shutil.which("docker-registry")
        if not program:
            raise make.CannotMake("docker-registry is not installed: sudo apt-get install docker-registry")
        self.root.mkdir(parents=True, exist_ok=True)
        self.settings = tempfile.NamedTemporaryFile("w", suffix=".yml")
        self.address = f"127.0.0.1:{free_port()}"
        self.settings.write(SETTINGS.format(root=self.root, address=self.address))
        self.settings.flush()
        self.process = subprocess.Popen(
            [program, "serve", self.settings.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait()
            with make.locked(self.root / "pushing.lock"):
                for name in self.names:
                    push(self.address, name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.settings.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise make.CannotMake(f"docker-registry ended at once with code {self.process.returncode}")
            try:
                return urllib.request.urlopen(f"http://{self.address}/v2/", timeout=2).close()
            except OSError:
                time.sleep(0.05)
        raise make.CannotMake("docker-registry does not answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def push(address: str, name: str) -> None:
    """Push a base by the distribution protocol, in the plainest way: it must not depend on the client under test."""
    known = make.recipe(name)
    repository, _, tag = known.name.partition(":")
    repository = f"library/{repository}"
    if exists(f"http://{address}/v2/{repository}/manifests/{version_tag(known)}"):
        return
    config, layer = image(known)
    push_blob(address, repository, config)
    push_blob(address, repository, layer)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        }
    ).encode()
    for each in (tag, version_tag(known)):
        request(
            "PUT",
            f"http://{address}/v2/{repository}/manifests/{each}",
            manifest,
            "application/vnd.oci.image.manifest.v1+json",
        )


def version_tag(known: make.Recipe) -> str:
    """A tag that changes with the recipe: whether the registry already holds this making."""
    return "made-" + hashlib.sha256(make.make(known.name).name.encode()).hexdigest()[:12]


def image(known: make.Recipe) -> tuple[bytes, bytes]:
    tar = make.make(known.name).read_bytes()
    diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = {
        "architecture": machine,
        "os": "linux",
        "config": known.config,
        "created": "2026-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": f"stand-in, made from {known.made_from}"}],
    }
    return json.dumps(config).encode(), gzip.compress(tar, 3, mtime=0)


def descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}


def push_blob(address: str, repository: str, data: bytes) -> None:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    if exists(f"http://{address}/v2/{repository}/blobs/{digest}"):
        return
    place = request("POST", f"http://{address}/v2/{repository}/blobs/uploads/", b"")
    request("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data, "application/octet-stream")


def exists(url: str) -> bool:
    try:
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD", headers=accept), timeout=60).close()
    except urllib.error.HTTPError:
        return False
    return True


def request(method: str, url: str, data: bytes, kind: str = "application/octet-stream") -> str:
    call = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
    with urllib.request.urlopen(call, timeout=300) as answer:
        return str(answer.headers.get("Location", ""))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"which to serve: {', '.join(make.RECIPES)}")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with Served(options.names) as served:
            print(f"serving {', '.join(options.names)} at {served.address}; stop with Ctrl-C", flush=True)
            signal.pause()
    except make.CannotMake as error:
        print(f"cannot serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
