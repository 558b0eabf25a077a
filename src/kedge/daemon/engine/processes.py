"""What a container's processes are and take, by /proc: `docker top`, `docker stats`.

Owns the reading of /proc. Does not know cgroups: what is shown is the sum over the processes of the pid namespace.
"""

import json
import os
import time
from contextlib import suppress
from typing import Any

from kedge.containers.supervised import Supervised
from kedge.daemon.engine.containers import known
from kedge.daemon.engine.describe import moment
from kedge.daemon.engine.routes import Call
from kedge.model.errors import Conflict
from kedge.sandbox.freezer import pids_of


def top(call: Call) -> None:
    """The processes in the container's pid namespace, by /proc."""
    one = known(call)
    if one.record.state != "running":
        raise Conflict(f"container {one.record.id} is not running")
    rows = list(processes(one.record.pid))
    call.exchange.json(200, {"Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], "Processes": rows})


def processes(first: int) -> "Any":
    import pwd

    ticks = os.sysconf("SC_CLK_TCK")
    with open("/proc/uptime") as file:
        booted = time.time() - float(file.read().split()[0])
    for pid in pids_of(first):
        try:
            with open(f"/proc/{pid}/stat", errors="replace") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
            with open(f"/proc/{pid}/cmdline", "rb") as raw:
                words = raw.read(4096).replace(b"\0", b" ").decode(errors="replace").strip()
            uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            continue  # it ended meanwhile
        facts = rest.split()
        spent = (int(facts[11]) + int(facts[12])) // ticks
        began = time.strftime("%H:%M", time.localtime(booted + int(facts[19]) / ticks))
        try:
            owner = pwd.getpwuid(uid).pw_name
        except KeyError:
            owner = str(uid)
        clock = time.strftime("%H:%M:%S", time.gmtime(spent))
        terminal = "pts/0" if facts[4] != "0" else "?"
        yield [owner, str(pid), facts[1], "0", began, terminal, clock, words or f"[{name}]"]


def stats(call: Call) -> None:
    one, exchange = known(call), call.exchange
    stream = call.flag("stream", default=True) and not call.flag("one-shot")
    before = _usage(one)
    exchange.begin()
    while True:
        now = _usage(one)
        exchange.write(json.dumps(_stats(one, before, now)).encode() + b"\n")
        before = now
        if not stream or one.removed or exchange.is_gone() or exchange.stopping.wait(1.0):
            break
    exchange.end()


def _usage(one: Supervised) -> dict[str, int]:
    """Processor time in nanoseconds, memory in bytes, processes; zeros unless it runs."""
    pids = pids_of(one.record.pid) if one.record.pid else []
    spent = memory = 0
    page, ticks = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{pid}/stat", errors="replace") as file:
                facts = file.read().rpartition(")")[2].split()
            spent += (int(facts[11]) + int(facts[12])) * 1_000_000_000 // ticks
            memory += int(facts[21]) * page
    with open("/proc/stat") as file:
        total = sum(map(int, file.readline().split()[1:9])) * 1_000_000_000 // ticks
    return {"spent": spent, "memory": memory, "pids": len(pids), "total": total}


def _stats(one: Supervised, before: dict[str, int], now: dict[str, int]) -> dict[str, Any]:
    def cpu(usage: dict[str, int]) -> dict[str, Any]:
        return {
            "cpu_usage": {"total_usage": usage["spent"], "usage_in_kernelmode": 0, "usage_in_usermode": usage["spent"]},
            "system_cpu_usage": usage["total"],
            "online_cpus": os.cpu_count() or 1,
        }

    moment_now = moment(time.time())
    return {
        "id": one.record.id,
        "name": f"/{one.record.name}",
        "read": moment_now,
        "preread": moment_now,
        "pids_stats": {"current": now["pids"]},
        "blkio_stats": {"io_service_bytes_recursive": None},
        "num_procs": 0,
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "memory_stats": {"usage": now["memory"], "stats": {}, "limit": _memory()},
    }


def _memory() -> int:
    with open("/proc/meminfo") as file:
        return int(file.readline().split()[1]) * 1024
