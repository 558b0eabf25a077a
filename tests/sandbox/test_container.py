"""Containers on disk: names, states, and being told apart after a crash."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kedge.model.errors import Conflict, InvalidInput, NotFound
from kedge.sandbox.container import Containers
from kedge.sandbox.fake import FakeExecutor
from kedge.sandbox.process import Process, Stdio

HERE = Path(__file__).parent


def test_a_container_keeps_its_record(tmp_path):
    containers = Containers(tmp_path)
    made = containers.create("busybox", "sha256:1", ("sh",), name="ship")
    assert containers.get("ship") == made.record == containers.get(made.record.id[:6])
    assert made.record.state == "created"


def test_running_changes_the_state_and_keeps_the_exit_code(tmp_path):
    containers = Containers(tmp_path)
    made = containers.create("busybox", "sha256:1", ("sh",))
    seen = []

    def script(call):
        call.stdio.on_start(lambda number: None, os.getpid())
        seen.append(containers.get(made.record.id))
        return 3

    executor = FakeExecutor(script)
    assert made.run(executor, Process(("sh",)), (made.root(("/layer",)),), Stdio()) == 3
    assert (seen[0].state, seen[0].pid) == ("running", os.getpid())
    record = containers.get(made.record.id)
    assert (record.state, record.exit_code, record.pid) == ("exited", 3, 0)
    assert executor.calls[0].process.hostname == record.id[:12]


def test_a_name_is_taken_until_removal(tmp_path):
    containers = Containers(tmp_path)
    containers.create("i", "d", ("sh",), name="ship")
    with pytest.raises(Conflict):
        containers.create("i", "d", ("sh",), name="ship")
    assert len(containers.list()) == 1
    containers.remove("ship")
    assert containers.list() == []
    containers.create("i", "d", ("sh",), name="ship")


def test_names_are_checked(tmp_path):
    for name in ("../x", "a/b", ".hidden", "a b", "x" * 200):
        with pytest.raises(InvalidInput):
            Containers(tmp_path).create("i", "d", ("sh",), name=name)


def test_two_creators_at_once_get_different_names(tmp_path):
    containers, names, errors = Containers(tmp_path), [], []

    def create():
        try:
            names.append(containers.create("i", "d", ("sh",), name="one").record.name)
        except Conflict as error:
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (names, len(errors)) == (["one"], 7)


def test_unknown_and_ambiguous_references(tmp_path):
    containers = Containers(tmp_path)
    with pytest.raises(NotFound):
        containers.get("none")
    for _ in range(20):
        containers.create("i", "d", ("sh",))
    with pytest.raises(NotFound):
        containers.get("")


def test_a_container_of_a_killed_kedge_does_not_seem_to_run(tmp_path):
    script = (
        "import sys, os, time; from pathlib import Path; from kedge.sandbox.container import Containers\n"
        "from kedge.sandbox.fake import FakeExecutor; from kedge.sandbox.process import *\n"
        "made = Containers(Path(sys.argv[1])).create('i', 'd', ('sh',), name='ship')\n"
        "def script(call):\n"
        "    call.stdio.on_start(lambda number: None, os.getpid()); print('up', flush=True); time.sleep(60)\n"
        "made.run(FakeExecutor(script), Process(('sh',)), (made.root(('/layer',)),), Stdio())\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(HERE.parents[1] / "src")},
    )
    assert child.stdout is not None
    child.stdout.readline()
    containers = Containers(tmp_path)
    assert containers.get("ship").state == "running"
    with pytest.raises(Conflict):
        containers.remove("ship")
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert containers.get("ship").state == "exited"
    containers.remove("ship")
    assert list(tmp_path.glob("*/record.json")) == []


def test_what_a_container_wrote_is_deleted_whatever_its_modes(tmp_path):
    containers = Containers(tmp_path)
    made = containers.create("i", "d", ("sh",))
    locked = made.upper / "locked"
    (locked / "in").mkdir(parents=True)
    locked.chmod(0)
    made.remove()
    assert not made.upper.exists()
