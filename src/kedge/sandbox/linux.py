"""The real Executor: steps run as children of one small helper process (the zygote), which is started on first need.

Owns the helper's life, the conversation with it and the pumping of output. Does not know what a mount means (`plan`),
nor how it is made (`zygote`).
"""

import threading
from pathlib import Path

from kedge.model.errors import Unsupported
from kedge.sandbox.process import NO_STDIO, MountPoint, Process, Stdio


class LinuxExecutor:
    """Runs processes in namespaces of their own.

    `state` is a directory of ours, best on the file system of the layers: mount point stubs are kept there. Nothing is
    started before the first `run`.
    """

    def __init__(self, state: Path) -> None:
        self._state = state

    def run(
        self,
        process: Process,
        mounts: tuple[MountPoint, ...],
        stdio: Stdio = NO_STDIO,
        cancel: threading.Event | None = None,
    ) -> int:
        raise Unsupported("not there yet")

    def close(self) -> None:
        return None
