"""A case built by BuildKit: buildctl and a buildkitd of our own, told by its own words what Kedge was told by flags.

Opt-in. KEDGE_BUILDCTL and KEDGE_BUILDKITD name the programs, else PATH is searched; runc must be installed.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kedge.builder import BuildRequest
from tests.e2e.casefile import Case
from tests.e2e.world import World

SETTINGS = """\
insecure-entitlements = ["network.host", "security.insecure"]
[worker.oci]
  enabled = true
  gc = false
[worker.containerd]
  enabled = false
[registry."docker.io"]
  mirrors = ["{address}"]
[registry."{address}"]
  http = true
"""


def program(name: str) -> str:
    """The program's path; skips the test, with the reason, where there is none."""
    variable = f"KEDGE_{name.upper()}"
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        pytest.skip(f"opt-in comparison with BuildKit: neither {variable} nor {name} in PATH")
    return found


class BuildKitRefused(Exception):
    """buildctl ended with an error; the message is its output."""


@dataclass
class BuildKit:
    """A running buildkitd."""

    buildctl: str
    address: str
    world: World

    def build(self, case: Case, request: BuildRequest, layout: Path) -> str:
        """Build into an OCI layout directory; returns the progress. Raises BuildKitRefused."""
        output = f"type=oci,dest={layout},tar=false,compression=uncompressed"
        words = ["build", "--frontend", "dockerfile.v0", "--progress", "plain", "--output", output]
        words += ["--opt", "cmdline=dockerfile.v0"]  # this frontend, whatever `# syntax=` says
        words += [*self._places(case, request), *options(request), *contexts(request), *passed_through(case)]
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.world.room)} | self.world.environ
        done = subprocess.run(
            [self.buildctl, "--addr", self.address, *words],
            capture_output=True,
            text=True,
            env=environ | case.settings.get("environ", {}),
            timeout=120,
        )
        if done.returncode:
            raise BuildKitRefused(done.stderr)
        return done.stderr

    def _places(self, case: Case, request: BuildRequest) -> list[str]:
        """Where context and Dockerfile are. What clients do with standard input is done here: a tar is uploaded, which
        is a download to BuildKit.
        """
        if case.is_url or case.way.startswith("tar"):
            words = ["--opt", f"context={self._served(case)}"]
            return [*words, "--opt", f"filename={request.dockerfile}"] if request.dockerfile else words
        context, dockerfile = case.context, case.dockerfile
        if case.way == "dockerfile":
            context = case.room / "nothing"
            context.mkdir(exist_ok=True)
        elif request.dockerfile and not request.dockerfile_text:
            dockerfile = Path(request.dockerfile)
            if not dockerfile.is_absolute():
                dockerfile = context / dockerfile
        if request.dockerfile_text:
            dockerfile = case.room / "stdin" / "Dockerfile"
            dockerfile.parent.mkdir(exist_ok=True)
            dockerfile.write_bytes(request.dockerfile_text)
        return [
            *("--local", f"context={context}", "--local", f"dockerfile={dockerfile.parent}"),
            *("--opt", f"filename={dockerfile.name}"),
        ]

    def _served(self, case: Case) -> str:
        if case.is_url:
            return case.way
        name = f"of-{case.name}.{case.way}"
        (self.world.room / "served" / name).write_bytes(case.stdin.read())
        return f"http://127.0.0.1:{self.world.port}/{name}"


def options(request: BuildRequest) -> list[str]:
    pairs = [(f"build-arg:{name}", value) for name, value in request.build_args]
    pairs += [(f"label:{name}", value) for name, value in request.labels]
    pairs += [("target", request.target)] if request.target else []
    pairs += [("force-network-mode", request.network)] if request.network else []
    pairs += [("shm-size", str(request.shm_size))] if request.shm_size else []
    pairs += [("platform", ",".join(request.platforms))] if request.platforms else []
    hosts = ",".join(f"{name}={address}" for name, address in request.add_hosts)
    pairs += [("add-hosts", hosts)] if hosts else []
    limits = ",".join(f"{limit.name}={limit.soft}:{limit.hard}" for limit in request.ulimits)
    pairs += [("ulimit", limits)] if limits else []
    pairs += [("no-cache", ",".join(request.no_cache_filter))] if request.no_cache or request.no_cache_filter else []
    words = [word for name, value in pairs for word in ("--opt", f"{name}={value}")]
    return words + [word for name in request.entitlements for word in ("--allow", name)]


def contexts(request: BuildRequest) -> list[str]:
    words = []
    for number, (name, source) in enumerate(request.named_contexts):
        if source.startswith("oci-layout://"):
            path, mark, which = re.fullmatch(r"oci-layout://(.*?)([:@])([^/]*)", source).groups()  # type: ignore[union-attr]
            words += ["--oci-layout", f"layout{number}={path}"]
            if mark == ":":  # buildctl wants to be told what clients read from the layout
                (entry,) = json.loads((Path(path) / "index.json").read_text())["manifests"]
                mark, which = "@", entry["digest"]
            source = f"oci-layout://layout{number}{mark}{which}"
        elif "://" not in source and not source.startswith("target:"):
            words += ["--local", f"named{number}={source}"]
            source = f"local:named{number}"
        words += ["--opt", f"context:{name}={source}"]
    return words


def passed_through(case: Case) -> list[str]:
    """Flags that both programs spell alike."""
    pairs = zip(case.flags, case.flags[1:], strict=False)
    return [word for flag, value in pairs if flag in ("--secret", "--ssh") for word in (flag, value)]


@contextmanager
def running(room: Path, world: World) -> Iterator[BuildKit]:
    buildctl, buildkitd = program("buildctl"), program("buildkitd")
    with serving(room, buildctl, buildkitd, world.registry) as address:
        yield BuildKit(buildctl, address, world)


@contextmanager
def serving(room: Path, buildctl: str, buildkitd: str, registry: str) -> Iterator[str]:
    """A buildkitd at this address until the end, which takes Docker Hub's images from a registry."""
    if os.geteuid() != 0:
        pytest.skip("opt-in comparison with BuildKit: buildkitd needs root here")
    if not shutil.which("runc"):
        pytest.skip("opt-in comparison with BuildKit: buildkitd needs runc")
    (room / "buildkitd.toml").write_text(SETTINGS.format(address=registry))
    address = f"unix://{room}/sock"
    words = [buildkitd, "--config", str(room / "buildkitd.toml"), "--root", str(room / "root"), "--addr", address]
    with open(room / "log", "wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            for _ in range(200):
                ready = subprocess.run([buildctl, "--addr", address, "debug", "workers"], capture_output=True)
                if ready.returncode == 0:
                    break
                assert process.poll() is None, (room / "log").read_text()[-2000:]
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(30)
            shutil.rmtree(room / "root", ignore_errors=True)
