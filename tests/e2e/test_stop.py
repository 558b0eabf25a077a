"""A build that is told to stop ends soon, leaves no process and no half-made thing, and says so by its exit code."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.e2e.conftest import Kedge, write_tree


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_build(number: signal.Signals, code: int, shared: Kedge, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    context = write_tree(tmp_path, {"Dockerfile": f"FROM busybox\nRUN echo started; sleep 300 # {mark}\n"})
    process = subprocess.Popen(
        [sys.executable, "-m", "kedge", "build", "--progress", "plain", "--tag", "never", str(context)],
        env=os.environ | {"KEDGE_ROOT": str(shared.store), "KEDGE_CONFIG": str(shared.config)},
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    while b" started" not in (line := process.stderr.readline()):
        assert line, "the build ended by itself"
    process.send_signal(number)
    rest = process.communicate(timeout=60)[1].decode()
    assert process.returncode == code
    assert "CANCELED" in rest
    assert "Traceback" not in rest
    running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _has(path, mark)]
    assert running == []
    assert shared("inspect", "never", check=False).returncode == 1
    assert "sound" in shared("du", "--verify").stdout


def _has(path: Path, mark: str) -> bool:
    try:
        return mark.encode() in path.read_bytes()
    except OSError:
        return False
