"""What a command costs: wall time, processor time and peak memory, with those of the daemon that works for it.

Owns the counting. On a machine that others use too, processor time is the number to trust.
"""

import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Seconds on the wall, seconds on processors, and the largest resident set of any one process in MiB."""

    wall: float
    processor: float
    memory: float

    def divided(self, count: int) -> "Usage":
        return Usage(self.wall / count, self.processor / count, self.memory)


def run(command: list[str | Path], daemon: int = 0) -> Usage:
    """Run a command to its end; raises CalledProcessError. `daemon` is the process that does its work, 0 for none."""
    before = _processor_of(daemon)
    with suppress(OSError):
        Path(f"/proc/{daemon}/clear_refs").write_text("5")  # proc_pid_clear_refs(5): forget the peak
    words = [str(word) for word in command]
    start = time.perf_counter()
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr
        error = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, stderr=error)
    processor = used.ru_utime + used.ru_stime + _processor_of(daemon) - before
    return Usage(wall, processor, max(used.ru_maxrss, _peak_of(daemon)) / 1024)


def _processor_of(pid: int) -> float:
    """Of the process and the children it waited for."""
    if not pid:
        return 0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def _peak_of(pid: int) -> int:
    if not pid:
        return 0
    status = Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
