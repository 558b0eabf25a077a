"""Holding all processes of a container still, and letting them go on.

Owns how: by a version 2 control group of the container's own, where one can be made (cgroup.freeze, cgroups(7)), else
by SIGSTOP to every process, which those can see, and whose parents are told of it. The version 1 freezer is not used:
what it holds cannot even be killed, so a service that dies would leave it behind for ever.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_PATIENCE: Final = 5.0  # seconds until all must be still
_PAUSE: Final = 0.005


def pids_of(first: int) -> list[int]:
    """All processes in the pid namespace of a container's first one; none when that has ended.

    Where a container shares ours, those in its IPC namespace: no container is without one of its own.
    """
    kind = "ipc" if _link(f"/proc/{first}/ns/pid") == _link("/proc/self/ns/pid") else "pid"
    namespace = _link(f"/proc/{first}/ns/{kind}")
    numbers = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return sorted(pid for pid in numbers if namespace and _link(f"/proc/{pid}/ns/{kind}") == namespace)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


class Frozen:
    """A container that is held. `group` is its control group, "" where signals do it; `made` says that it is ours."""

    def __init__(self, first: int, group: str, made: bool) -> None:
        self._first, self.group, self._made = first, group, made

    def thaw(self) -> None:
        """Let all go on. Idempotent."""
        if self.group:
            with suppress(OSError):
                _write(f"{self.group}/cgroup.freeze", "0")
            return
        for pid in pids_of(self._first):
            _signal(pid, signal.SIGCONT)

    def release(self) -> None:
        """The container has ended: remove what was made for it."""
        if self._made:
            with suppress(OSError):
                os.rmdir(self.group)


def freeze(first: int) -> Frozen:
    """Hold all processes of the container whose first one that is; returns when they are still."""
    group, made = _group_of(first)
    if group:
        frozen = Frozen(first, group, made)
        try:
            _until_none_moves(lambda: _gather(first, group))
            _write(f"{group}/cgroup.freeze", "1")
            _until_none_moves(lambda: "frozen 1" not in _read(f"{group}/cgroup.events"))
            return frozen
        except OSError:
            frozen.thaw()
            frozen.release()  # not empty, perhaps: then it stays until the container ends
    frozen = Frozen(first, "", False)
    try:
        _until_none_moves(lambda: _stop(first))
    except OSError:
        frozen.thaw()
        raise
    return frozen


def _until_none_moves(moves: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while moves():
        if time.monotonic() > end:
            raise OSError("they do not hold still")
        time.sleep(_PAUSE)


def _group_of(first: int) -> tuple[str, bool]:
    """A version 2 group for that container alone, and whether it was made now; "" where none can be had."""
    root = next((p for p in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if os.path.exists(f"{p}/cgroup.procs")), "")
    lines = _read(f"/proc/{first}/cgroup").splitlines()
    own = next((line[3:].rstrip("/") for line in lines if line.startswith("0::")), None)
    if not root or own is None:
        return "", False
    if os.path.basename(own).startswith("kedge-"):
        return root + own, False  # that of its limits (cgroups)
    group = f"{root}{own}/kedge-frozen-{first}"
    _sweep(root + own)
    try:
        with suppress(FileExistsError):
            os.mkdir(group)
    except OSError:
        return "", False
    if os.access(f"{group}/cgroup.freeze", os.W_OK):
        return group, True
    with suppress(OSError):
        os.rmdir(group)
    return "", False


def _sweep(folder: str) -> None:
    """Remove groups that a killed service left."""
    for name in os.listdir(folder):
        if name.startswith("kedge-frozen-") and not os.path.exists(f"/proc/{name.rpartition('-')[2]}"):
            with suppress(OSError):
                os.rmdir(f"{folder}/{name}")


def _gather(first: int, group: str) -> bool:
    """Move all into the group; True while some were outside."""
    inside = set(_read(f"{group}/cgroup.procs").split())
    outside = [pid for pid in pids_of(first) if str(pid) not in inside]
    for pid in outside:
        with suppress(ProcessLookupError):
            _write(f"{group}/cgroup.procs", str(pid))
    return bool(outside)


def _stop(first: int) -> bool:
    """Stop all; True while some moved. Process 1 comes last, so that it starts no new ones meanwhile unseen."""
    moving = [pid for pid in pids_of(first) if _state(pid) not in "TtZX"]
    for pid in reversed(moving):
        _signal(pid, signal.SIGSTOP)
    return bool(moving)


def _state(pid: int) -> str:
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].strip()[:1] or "X"


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
