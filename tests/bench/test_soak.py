"""The soak says what became of a service that did not live to its end."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import soak


class NoClients(soak.Clients):
    """Clients that build nothing."""

    def loop(self) -> None:
        self.stop.wait()


def watched(folder: Path, script: str) -> int:
    service = soak.Service(["sh", "-c", script], folder / "said")
    try:
        return soak.watch(service, NoClients(folder, "buildctl", folder / "socket"), 2, 1)
    finally:
        service.end()


@pytest.mark.parametrize(
    ("end", "verdict"),
    [("kill -SEGV $$", "killed by SIGSEGV"), ("exit 3", "exit status 3"), ("exit 0", "exit status 0")],
)
def test_a_service_that_ends_is_told_with_its_last_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], end: str, verdict: str
) -> None:
    assert watched(tmp_path, f"echo last words >&2; {end}") == 1
    told = capfd.readouterr().out
    assert f"the service ended: {verdict}" in told
    assert "last words" in told


def test_a_service_that_never_listens_is_not_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "KEDGE", ("sh", "-c", "echo no service >&2; exit 4"))
    monkeypatch.setattr(soak, "import_busybox", lambda *_: None)
    assert soak.soak(tmp_path, "buildctl", 1, 1) == 1
    told = capfd.readouterr().out
    assert "the service ended: exit status 4" in told
    assert "no service" in told


def test_a_dead_process_that_nobody_waited_for_is_no_key_error(tmp_path: Path) -> None:
    service = soak.Service(["sh", "-c", "exit 5"], tmp_path / "said")
    with open(f"/proc/{service.pid}/stat") as stat:
        while ") Z " not in stat.read():
            stat.seek(0)
    with pytest.raises(soak.Ended, match="exit status 5"):
        service.told()


def test_a_living_process_is_told_by_its_memory_files_and_threads(tmp_path: Path) -> None:
    service = soak.Service([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "said")
    try:
        assert " MB, " in service.told()
        assert service.told().endswith(" 1 threads")
    finally:
        service.end()
    assert isinstance(service, subprocess.Popen)
