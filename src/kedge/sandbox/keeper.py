"""The parent of a step that has no process namespace of its own: what the step has started ends with it.

Owns finding and killing descendants. Without such a namespace the kernel kills nobody with a step's first process, so
each has a keeper, to which the kernel gives whatever is orphaned below it (PR_SET_CHILD_SUBREAPER). Runs forked from
the zygote, so it imports nothing slow. Does not know what a step does (`perform`).
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from kedge.kernel import syscalls as sc

END = signal.SIGRTMAX  # asks a keeper to end its step; all other signals are for the step's first process
_LONGEST_PAUSE = 0.05  # seconds between two rounds of killing


def keep(begin: Callable[[], int], status: socket.socket, zygote: int) -> None:
    """Start the step, tell of it, wait for its end and end all that it has left. Never returns.

    `begin` gives the pid of the first process. All signals must be blocked. If the zygote dies, so does the step.
    """
    sc.set_process_name("kedge-keeper")
    sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)
    sc.prctl(sc.PR_SET_PDEATHSIG, END)
    program = begin()
    status.send(b"S" + struct.pack("=i", program))
    os.dup2(status.fileno(), 3, inheritable=False)
    status.detach()
    sc.close_range(4)
    status = socket.socket(fileno=3)
    ended = _watch(program, zygote)
    end_children()
    if os.getppid() == zygote:  # else nobody may take it for an end of the step's own
        with suppress(OSError):
            status.send(b"X" + struct.pack("=i", ended))
    os._exit(0)


def _watch(program: int, zygote: int) -> int:
    """Pass signals on and wait for orphans; the wait status of the first process, once it has ended."""
    waited = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    while True:
        number = signal.sigwait(waited) if os.getppid() == zygote else END
        if number == END:
            os.kill(program, signal.SIGKILL)
            return os.waitpid(program, 0)[1]
        if number != signal.SIGCHLD:
            os.kill(program, number)
            continue
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == program:
                return ended[1]


def end_children(spared: Collection[int] = ()) -> None:
    """Kill all descendants of this process and wait for them, but for children that are `spared` and what is below."""
    pause = 0.0005
    while _has_children():
        tree = _tree()
        mine = [pid for pid in tree.get(os.getpid(), []) if pid not in spared]
        if not mine:
            return
        for pid, parent in _below(mine, tree):
            _kill(pid, parent)
        for pid in mine:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(pause)  # what is orphaned by that comes to us, and is killed in the next round
        pause = min(2 * pause, _LONGEST_PAUSE)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _tree() -> dict[int, list[int]]:
    """The children of each process that there is."""
    tree: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (parent := _parent(int(name))):
            tree.setdefault(parent, []).append(int(name))
    return tree


def _below(top: list[int], tree: dict[int, list[int]]) -> list[tuple[int, int]]:
    """Those and their descendants, each with its parent, parents first."""
    found = [(pid, os.getpid()) for pid in top]
    for pid, _ in found:  # which grows meanwhile
        found += [(child, pid) for child in tree.get(pid, [])]
    return found


def _parent(pid: int) -> int:
    """0 when the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as facts:
            return int(facts.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _kill(pid: int, parent: int) -> None:
    """Kill the process, unless its number has become another one's since it was seen below `parent`."""
    with suppress(OSError):
        pidfd = sc.pidfd_open(pid)
        try:
            if _parent(pid) in (parent, os.getpid()):
                sc.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
