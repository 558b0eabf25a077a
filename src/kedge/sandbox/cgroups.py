"""Resource limits of a step through cgroups, where this machine lets us make any.

Owns finding a hierarchy (version 2, or the controllers of version 1 in a hybrid), a group per limited step, and the
removal of what was made: whoever leaves a parent empty that Kedge made, and marked as its own, removes it. Never fails
a run: what cannot be limited is said in a note.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from kedge.sandbox.process import Limits, Process

_ROOT = "/sys/fs/cgroup"
_MARK = "user.kedge.made"  # on parents that Kedge made
_ATTEMPTS = 20
_PERIOD = 100_000  # microseconds; CPU quota is counted per period


def version() -> int:
    """2 for a pure version 2 hierarchy, 1 for version 1 or a hybrid, 0 for none."""
    if os.path.exists(f"{_ROOT}/cgroup.controllers"):
        return 2
    return 1 if os.path.isdir(_ROOT) and os.listdir(_ROOT) else 0


@contextmanager
def limited(process: Process, note: Callable[[str], None] | None) -> Iterator[list[str]]:
    """The cgroup.procs files that the step's child has to join; groups are removed afterwards."""
    if process.limits == Limits():
        yield []
        return
    made: list[str] = []
    try:
        try:
            _make(process.limits, process.cgroup_parent, made)
        except OSError as error:
            if note is not None:
                note(f"resource limits are not in force: {error.filename or _ROOT}: {error.strerror}")
        yield [f"{group}/cgroup.procs" for group in made]
    finally:
        remove(made)


def why_not(limits: Limits) -> str:
    """Why these limits cannot be had here; "" if they can. Makes a group and removes it."""
    made: list[str] = []
    try:
        _make(limits, "", made)
        return ""
    except OSError as error:
        return f"{error.filename or _ROOT}: {error.strerror}"
    finally:
        remove(made)


def change(pidfd: int, pids: list[int], limits: Limits) -> list[str]:
    """Other limits for a process that runs (by its pidfd), whose pid namespace has those pids.

    Returns groups that were made for it, which are to be removed after its end. Raises OSError.
    """
    groups = [os.path.dirname(path) for path in groups_of(pidfd)]
    made: list[str] = []
    for base, settings in _settings(limits):
        group = next((each for each in groups if each.startswith(base)), "")
        if not group:
            group = _group(base, "", _name(), made)
        for file, value in settings:
            _write(group, file, value)
        if group in made:
            for pid in pids:
                with suppress(ProcessLookupError):
                    _write(group, "cgroup.procs", pid)
    return made


def ran_out(groups: Iterable[str]) -> bool:
    """Did the kernel kill a process of these groups because memory ran out? Linux tells from 4.13 on."""
    for group in groups:
        for file in ("memory.events", "memory.oom_control"):  # of version 2, and of version 1
            with suppress(OSError), open(os.path.join(group, file)) as lines:
                if any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines):
                    return True
    return False


def remove(groups: list[str]) -> None:
    """Remove groups that nobody is in any more, and the parents made for them that are empty then."""
    for group in groups:
        with suppress(OSError):
            os.rmdir(group)
            while _is_marked(group := os.path.dirname(group)):
                os.rmdir(group)


def _is_marked(group: str) -> bool:
    try:
        return bool(os.getxattr(group, _MARK))
    except OSError:
        return False


def _make_parent(group: str) -> None:
    """Make a group to make others in, and those above it."""
    if not os.path.isdir(group):
        _make_parent(os.path.dirname(group))
        with suppress(FileExistsError):
            os.mkdir(group)
            with suppress(OSError):  # before Linux 5.7 it cannot be marked, and stays
                os.setxattr(group, _MARK, b"1")
    _delegate(group)


def _delegate(group: str) -> None:
    """Let groups below have controllers, which version 2 wants to be told."""
    for controller in ("memory", "cpu", "pids"):
        with suppress(OSError):
            _write(group, "cgroup.subtree_control", f"+{controller}")


def _name() -> str:
    return f"kedge-{os.getpid()}-{os.urandom(4).hex()}"


def _make(limits: Limits, parent: str, made: list[str]) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            name = _name()
            for base, settings in _settings(limits):
                group = _group(base, parent, name, made)
                for file, value in settings:
                    _write(group, file, value)
            return
        except FileNotFoundError:  # somebody who left removed a parent that was empty just then
            remove(made)
            made.clear()
            if attempt == _ATTEMPTS - 1:
                raise


def _settings(limits: Limits) -> list[tuple[str, list[tuple[str, int | str]]]]:
    """For each group that is needed, where it belongs and what is written there; a value of 0 is not."""
    quota = int(limits.cpus * _PERIOD)
    if version() == 2:
        files: list[tuple[str, int | str]] = [("memory.max", limits.memory), ("pids.max", limits.pids)]
        return [(_version_2_base(), [*files, ("cpu.max", f"{quota} {_PERIOD}" if quota else 0)])]
    found: list[tuple[str, list[tuple[str, int | str]]]] = []
    if limits.memory:
        found.append((f"{_ROOT}/memory{_own('memory')}", [("memory.limit_in_bytes", limits.memory)]))
    if limits.cpus:
        found.append((f"{_ROOT}/cpu{_own('cpu')}", [("cpu.cfs_period_us", _PERIOD), ("cpu.cfs_quota_us", quota)]))
    if limits.pids:
        found.append((f"{_ROOT}/pids{_own('pids')}", [("pids.max", limits.pids)]))
    return found


def _version_2_base() -> str:
    """Where version 2 groups can have controllers: a group without processes of its own, below the hierarchy's root.

    Elsewhere (a container, a user's session) it is our own group, which works if that was delegated with controllers.
    """
    base = f"{_ROOT}/kedge"
    try:
        _delegate(_ROOT)
        _make_parent(base)
        return base
    except OSError:
        return f"{_ROOT}{_own('')}"


def groups_of(pidfd: int) -> list[str]:
    """The cgroup.procs files of the groups we made for a running process: what joins it is to share its limits."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}") as facts:
            pid = next((line.split()[1] for line in facts if line.startswith("Pid:")), "")
        with open(f"/proc/{pid}/cgroup") as lines:
            found = [line.rstrip("\n").split(":", 2)[1:] for line in lines]
    except OSError:
        return []  # it has ended: whoever joins it will be told so
    ours = [(names.split(",")[0], path) for names, path in found if _is_of_limits(os.path.basename(path))]
    return [f"{_ROOT}{'/' if name else ''}{name}{path}/cgroup.procs" for name, path in ours]


def _is_of_limits(name: str) -> bool:
    return name.startswith("kedge-") and not name.startswith("kedge-frozen-")  # the latter are the freezer's


def _own(controller: str) -> str:
    """The path of our own group: /proc/self/cgroup, cgroups(7)."""
    with open("/proc/self/cgroup") as lines:
        for line in lines:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controller in controllers.split(","):
                return "" if path == "/" else path
    return ""


def _group(own: str, parent: str, name: str, made: list[str]) -> str:
    base = own
    if parent:
        base = os.path.join(own, os.path.normpath("/" + parent).lstrip("/"))
        _make_parent(base)
    path = os.path.join(base, name)
    os.mkdir(path)
    made.append(path)
    return path


def _write(group: str, file: str, value: int | str) -> None:
    if value:
        with open(os.path.join(group, file), "w") as out:
            out.write(str(value))
