"""Holding a container still: what is left when that fails. The whole of it is tested by `docker pause`."""

import subprocess
import time

import pytest

from kedge.sandbox import freezer


def test_what_cannot_be_held_whole_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in an uninterruptible wait does not stop; the others must not stay behind stopped."""
    state = freezer._state
    with subprocess.Popen(["sleep", "60"]) as still, subprocess.Popen(["sleep", "60"]) as busy:
        try:
            monkeypatch.setattr(freezer, "_PATIENCE", 0.2)
            monkeypatch.setattr(freezer, "_group_of", lambda first: ("", False))
            monkeypatch.setattr(freezer, "pids_of", lambda first: [still.pid, busy.pid])
            monkeypatch.setattr(freezer, "_state", lambda pid: "D" if pid == busy.pid else state(pid))
            with pytest.raises(OSError, match="hold still"):
                freezer.freeze(still.pid)
            end = time.monotonic() + 30
            while state(still.pid) != "S" and time.monotonic() < end:
                time.sleep(0.02)
            assert state(still.pid) == "S"
        finally:
            still.kill()
            busy.kill()
