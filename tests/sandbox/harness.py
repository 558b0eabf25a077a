"""Runs one step in a process of its own, as whoever starts it: reads a pickled request, prints a pickled answer.

Steps of ordinary users need a user namespace, which a test runner with threads cannot enter.
"""

import os
import pickle
import resource
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kedge.kernel import identity, resources
from kedge.kernel import syscalls as sc
from kedge.model.errors import Cancelled, KedgeError
from kedge.sandbox import linux
from kedge.sandbox.linux import LinuxExecutor
from kedge.sandbox.plan import make_plan
from kedge.sandbox.process import Stdio


def main() -> None:
    request: dict[str, Any] = pickle.load(sys.stdin.buffer)
    os.environ["KEDGE_TEST_TOKEN"] = "token-in-the-builder"
    leak = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(leak, True)  # a careless caller's descriptor
    identity.enter_user_namespace()
    if request["open_files"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, request["open_files"])
        resources.raise_open_files()  # as a service does
    if not request["wall"]:
        linux.make_plan = _without_wall
    executor = LinuxExecutor(Path(request["state"]), request["process_sandbox"])
    output: list[tuple[int, bytes]] = []
    notes: list[str] = []
    cancel = threading.Event()
    stdio = Stdio(
        stdin=_stdin(request["stdin"]),
        output=lambda stream, data: output.append((stream, data)),
        note=notes.append,
        on_start=lambda send, pid: _on_start(request, send, pid, cancel),
    )
    answer: dict[str, Any] = {"code": None, "error": None, "hint": ""}
    began = time.monotonic()
    try:
        beside = [
            threading.Thread(target=_until_cancelled, args=(executor, step, cancel)) for step in request["beside"]
        ]
        for thread in beside:
            thread.start()
        for step in request["steps"]:
            answer["code"] = executor.run(*step, stdio, cancel)
        cancel.set()
        for thread in beside:
            thread.join()
    except KedgeError as error:
        answer["error"], answer["hint"] = (type(error).__name__, error.message), error.hint
    answer["seconds"] = time.monotonic() - began
    answer["dumpable"] = bool(sc.prctl(3))  # PR_GET_DUMPABLE
    executor.close()
    answer["output"], answer["notes"], answer["single_id"] = output, notes, identity.current().single_id
    sys.stdout.buffer.write(pickle.dumps(answer))


def _stdin(data: bytes | None) -> int | None:
    if data is None:
        return None
    read, write = os.pipe()
    threading.Thread(target=lambda: (os.write(write, data), os.close(write)), daemon=True).start()
    return read


def _without_wall(*words: Any) -> Any:
    """As on a kernel without Landlock."""
    plan = make_plan(*words)
    plan.values["wall"] = False
    return plan


def _until_cancelled(executor: LinuxExecutor, step: Any, cancel: threading.Event) -> None:
    with suppress(Cancelled):
        executor.run(*step, Stdio(), cancel)


def _kill_parent(pid: int) -> None:
    with open(f"/proc/{pid}/stat") as facts:
        os.kill(int(facts.read().rpartition(")")[2].split()[1]), 9)


def _on_start(request: dict[str, Any], send: Any, pid: int, cancel: threading.Event) -> None:
    if request["kill_parent"]:
        threading.Timer(0.5, _kill_parent, (pid,)).start()
    if request["signal"]:
        threading.Timer(0.3, lambda: send(request["signal"])).start()
    if request["cancel_after"]:
        threading.Timer(request["cancel_after"], cancel.set).start()


if __name__ == "__main__":
    main()
