"""Process 1 of a container with `--init`: passes signals on to the program and waits for whatever is orphaned.

Owns nothing but that loop. Runs in the zygote's child with the rights of the program it stands before (`perform` has
given up all others), so it imports nothing slow.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from kedge.kernel import syscalls as sc

_OWN = {signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU}


def stand_before(terminal: bool) -> None:
    """Fork. Returns in the child, which becomes the program; this process ends as the program does, as 128 + n if by
    signal n.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    program = os.fork()
    if program == 0:
        os.setpgid(0, 0)
        if terminal:
            os.tcsetpgrp(0, os.getpgrp())  # SIGTTOU is blocked still
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    sc.set_process_name("kedge-init")
    sc.close_range(3)  # the status channel is the program's to close
    with suppress(OSError):
        _rename(b"kedge-init")
        os.chdir("/")
    _watch(program)


def _watch(program: int) -> None:
    waited = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    while True:
        number = signal.sigwait(waited)
        if number not in _OWN:
            with suppress(OSError):
                os.kill(program, number)
            continue
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == program:
                    code = os.waitstatus_to_exitcode(ended[1])
                    os._exit(code if code >= 0 else 128 - code)


def _rename(name: bytes) -> None:
    """What /proc shows as our command line is the zygote's, which is nobody's business in here: proc(5), arg_start."""
    import ctypes

    with open("/proc/self/stat", "rb") as file:
        facts = file.read().rpartition(b")")[2].split()
    start, end = int(facts[45]), int(facts[46])
    if start < end:
        ctypes.memmove(start, name.ljust(end - start, b"\0")[: end - start], end - start)
