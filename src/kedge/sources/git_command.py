"""git(1) on a short leash: our configuration, our environment, watched and killed with the build.

Owns what no repository, user or machine may decide for us. Does not know refs or checkouts.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kedge.model.errors import SourceError
from kedge.model.value import dataclass
from kedge.sources.handler import Work

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
# An empty hooks path and these values run nothing.
CONFIG = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.symlinks": "true",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "credential.helper": "",
    "fetch.fsckObjects": "false",
    "filter.lfs.required": "false",
    "filter.lfs.smudge": "",
    "filter.lfs.process": "",
    "gc.auto": "0",
    "init.defaultBranch": "master",
    "init.templateDir": "",
    "protocol.allow": "never",
    "protocol.ext.allow": "never",
    "safe.directory": "*",
    "submodule.recurse": "false",
    "advice.detachedHead": "false",
    "http.followRedirects": "initial",
    "uploadpack.allowAnySHA1InWant": "true",
}


def environment(transports: Sequence[str], folder: Path) -> dict[str, str]:
    """The environment of git: nothing of ours but the way to programs and proxies."""
    environ = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": ":".join(transports),
        "GIT_PROTOCOL_FROM_USER": "0",
    }
    return environ | {name: os.environ[name] for name in _PROXIES if name in os.environ}


@dataclass(frozen=True, slots=True)
class Git:
    """git(1) with our environment; every command is watched, and killed with its children when the build stops."""

    program: str
    environ: dict[str, str]
    remote: str
    work: Work

    def run(self, *words: str, bare: Path | None = None, tree: Path | None = None, local: bool = False) -> bytes:
        """The command's output; raises SourceError with git's own last line."""
        code, out, err = self._run(words, bare, tree, local)
        if code:
            raise SourceError(f"git {words[0]} of {self.remote} failed: {last_line(err)}")
        return out

    def succeeds(self, *words: str, bare: Path | None = None) -> bool:
        """Whether the command ends well."""
        return self._run(words, bare, None, False)[0] == 0

    def _run(self, words: Sequence[str], bare: Path | None, tree: Path | None, local: bool) -> tuple[int, bytes, bytes]:
        where = [f"--git-dir={bare}"] if bare else []
        where += [f"--work-tree={tree}"] if tree else []
        environ = self.environ | ({"GIT_ALLOW_PROTOCOL": "file"} if local else {})
        self.work.check()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                [self.program, *where, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environ,
                cwd=tree or self.environ["HOME"],
                start_new_session=True,
                umask=0o022,
            )
            try:
                while True:
                    with suppress(subprocess.TimeoutExpired):
                        code = process.wait(0.05)
                        break
                    self.work.check()
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
                process.wait()
                raise
            out.seek(0)
            err.seek(0)
            return code, out.read(64 << 20), err.read(1 << 20)


def last_line(data: bytes) -> str:
    """What git, or ssh for it, says is wrong; without what is secret in a URL."""
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    at = lines.index(told[-1]) if told else 0
    if at and told[-1] == "fatal: Could not read from remote repository.":  # ssh has said why
        told.append(lines[at - 1])
    return re.sub(r"://[^/\s@]*@", "://", (told or lines or ["no reason given"])[-1])[:300]
