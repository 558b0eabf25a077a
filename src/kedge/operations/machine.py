"""Whether this machine can run a step at all: asked before the first step, by the checks that `kedge doctor` shows.

Owns the question and its memory. Does not know the checks.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from kedge.model.errors import Unsupported
from kedge.model.platform import Platform, runnable_on


def runs_natively(platform: Platform, host: Platform) -> bool:
    """Does the machine itself start that platform's programs? Levels (amd64/v3) are taken on trust."""
    same = (platform.os, platform.architecture) == (host.os, host.architecture)
    return same or platform in runnable_on(host)


class Machine:
    """This machine, of platform `host`, with the store at `root`. Thread-safe."""

    def __init__(self, host: Platform, root: Path) -> None:
        self._host, self._root = host, root
        self._lock = threading.Lock()
        self._fit = False
        self._foreign: set[str] = set()

    def require(self, platform: Platform | None, is_own: Callable[[], bool] | None = None) -> None:
        """Raise Unsupported, with what would mend it, unless steps of `platform` (None: the host's) can run here.

        `is_own`, asked only where it decides, tells whether the step's program is one of this machine's all the same.
        """
        with self._lock:
            if not self._fit:
                from kedge.sandbox.doctor import require

                require(self._root)
                self._fit = True
            if platform is None or runs_natively(platform, self._host):
                return
            if platform.os != self._host.os:
                raise Unsupported(f"steps for {platform} cannot run on {self._host}")
            if platform.architecture in self._foreign:
                return
            if self._require_emulation(platform, is_own):
                self._foreign.add(platform.architecture)

    def _require_emulation(self, platform: Platform, is_own: Callable[[], bool] | None) -> bool:
        """Whether the platform is emulated; raises unless it need not be."""
        from kedge.sandbox.emulation import emulation

        found = emulation(platform, register=True)
        if not found.ok:
            if is_own is not None and is_own():
                return False
            remedy = f"{found.remedy}\n" if found.remedy else ""
            raise Unsupported(
                f"steps for {platform} cannot run on this {self._host} machine: {found.detail}",
                hint=f"{remedy}`kedge doctor` tells more.",
            )
        return True
