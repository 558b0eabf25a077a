"""Runs one step in a process of its own, as whoever starts it: reads a pickled request, prints a pickled answer.

Steps of ordinary users need a user namespace, which a test runner with threads cannot enter.
"""

import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kedge.kernel import identity
from kedge.model.errors import KedgeError
from kedge.sandbox.linux import LinuxExecutor
from kedge.sandbox.process import Stdio


def main() -> None:
    request: dict[str, Any] = pickle.load(sys.stdin.buffer)
    os.environ["KEDGE_TEST_TOKEN"] = "token-in-the-builder"
    leak = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(leak, True)  # a careless caller's descriptor
    identity.enter_user_namespace()
    executor = LinuxExecutor(Path(request["state"]))
    output: list[tuple[int, bytes]] = []
    notes: list[str] = []
    cancel = threading.Event()
    stdio = Stdio(
        stdin=_stdin(request["stdin"]),
        output=lambda stream, data: output.append((stream, data)),
        note=notes.append,
        on_start=lambda send, pid: _on_start(request, send, cancel),
    )
    answer: dict[str, Any] = {"code": None, "error": None}
    began = time.monotonic()
    try:
        for step in request["steps"]:
            answer["code"] = executor.run(*step, stdio, cancel)
    except KedgeError as error:
        answer["error"] = (type(error).__name__, error.message)
    answer["seconds"] = time.monotonic() - began
    executor.close()
    answer["output"], answer["notes"], answer["single_id"] = output, notes, identity.current().single_id
    sys.stdout.buffer.write(pickle.dumps(answer))


def _stdin(data: bytes | None) -> int | None:
    if data is None:
        return None
    read, write = os.pipe()
    threading.Thread(target=lambda: (os.write(write, data), os.close(write)), daemon=True).start()
    return read


def _on_start(request: dict[str, Any], send: Any, cancel: threading.Event) -> None:
    if request["signal"]:
        threading.Timer(0.3, lambda: send(request["signal"])).start()
    if request["cancel_after"]:
        threading.Timer(request["cancel_after"], cancel.set).start()


if __name__ == "__main__":
    main()
