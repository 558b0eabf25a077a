"""An Executor that runs nothing: it records what it was asked and does as its script says.

Owns the script and the record, for tests of the storeys above. Does not know mounts: nothing is looked at."""

import threading
from collections.abc import Callable
from typing import TypeAlias

from kedge.model.errors import Cancelled
from kedge.model.value import dataclass, field
from kedge.sandbox.process import NO_STDIO, MountPoint, Overlay, Process, Stdio, root_of


@dataclass(frozen=True, slots=True)
class Call:
    """One run as it was asked for; `upper` is the root's upper directory, where a script may write files."""

    process: Process
    mounts: tuple[MountPoint, ...]
    stdio: Stdio
    cancel: threading.Event

    @property
    def upper(self) -> str:
        source = root_of(self.mounts).source
        return source.upper if isinstance(source, Overlay) else ""

    def say(self, text: str, stream: int = 1) -> None:
        """Write as the process would."""
        if self.stdio.output is not None:
            self.stdio.output(stream, text.encode())


Script: TypeAlias = Callable[[Call], int]  # gives the exit code


@dataclass
class FakeExecutor:
    """Calls `script` for each run (default: succeed at once) and keeps the calls in order."""

    script: Script = field(default=lambda call: 0)
    calls: list[Call] = field(default_factory=list)
    closed: bool = False

    def run(
        self,
        process: Process,
        mounts: tuple[MountPoint, ...],
        stdio: Stdio = NO_STDIO,
        cancel: threading.Event | None = None,
    ) -> int:
        call = Call(process, mounts, stdio, cancel or threading.Event())
        root_of(mounts)
        self.calls.append(call)
        if call.cancel.is_set():
            raise Cancelled("the step was stopped")
        code = self.script(call)
        if call.cancel.is_set():
            raise Cancelled("the step was stopped")
        return code

    def close(self) -> None:
        self.closed = True
