"""Signals to `kedge run` that come while its process starts."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, subprocess, sys
from kedge.cli.container import _own_streams
from kedge.containers.request import ContainerRequest
def other(number, frame):
    told.append("own")
told = []
signal.signal(signal.SIGHUP, other)
does = "signal.SIG_DFL" if sys.argv[1] == "own" else "lambda *_: None"
code = f"import signal; signal.signal(signal.SIGHUP, {does}); print(flush=True); input()"
with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
    process.stdout.readline()
    with _own_streams(ContainerRequest()) as stdio:
        os.kill(os.getpid(), signal.SIGHUP)
        stdio.on_start(told.append, process.pid)
        os.kill(os.getpid(), signal.SIGHUP)
    process.stdin.write(bytes([10]))
os.kill(os.getpid(), signal.SIGHUP)
print(*map(str, told))
"""


@pytest.mark.parametrize(("first", "told"), [("own", "own 1 own"), ("process", "1 1 own")])
def test_one_that_comes_before_it_is_known_to_run_is_for_who_catches_it(first, told):
    """Its program may run, and have said so, already; and if it does not, we are the one to end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, first], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (told, "")
