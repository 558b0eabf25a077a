"""Builds in a container with a masked /proc: Docker's and Kubernetes' default, in which nobody can mount another."""

import json
import os
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from kedge.kernel import identity
from tests import masked
from tests.e2e.conftest import Kedge, steps, write_tree

DOCKERFILE = """\
FROM busybox AS build
COPY f /f
RUN (setsid sleep MARK &) >/dev/null 2>&1; sleep 0.2; cp /f /made; test -r /proc/self/status
RUN --mount=type=secret,id=s test "$(cat /run/secrets/s)" = hidden && echo "pid $$" >/pid
FROM busybox
RUN echo beside >/beside
COPY --from=build /made /pid /
RUN cat /made /beside
USER 9
RUN echo "user $(id -u)"
"""
OFF = {"KEDGE_PROCESS_SANDBOX": "false"}


@pytest.fixture
def pod(kedge: Kedge) -> Kedge:
    return replace(kedge, command=(*masked.COMMAND, *kedge.command))


@pytest.fixture
def mark() -> str:
    return f"9{uuid.uuid4().int % 10**8}"


@pytest.fixture
def context(tmp_path: Path, mark: str) -> Path:
    files = {"Dockerfile": DOCKERFILE.replace("MARK", mark), "f": "x\n", "../secret": "hidden"}
    return write_tree(tmp_path / "c", files)


def test_a_build_is_told_of_the_switch_and_what_it_costs(pod: Kedge, context: Path) -> None:
    done = pod("build", context, check=False)
    assert done.returncode == 1
    assert "cannot mount /proc" in done.stderr
    assert "process-sandbox = false" in done.stderr
    assert "may signal those of the same user" in done.stderr


def test_a_build_with_many_steps_runs_and_leaves_no_daemon(pod: Kedge, context: Path, mark: str) -> None:
    shown = pod.build(context, "-t", "x", f"--secret=id=s,src={context}/../secret", **OFF)
    assert "user " in shown
    assert set(steps(shown).values()) == {"DONE"}
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not [line for line in running if mark.encode() in line.split(b"\0") and line.startswith(b"sleep")]
    assert pod("run", "--rm", "x", "cat", "/made", "/beside", **OFF).stdout == "x\nbeside\n"
    again = pod.build(context, f"--secret=id=s,src={context}/../secret", **OFF)
    assert "CACHED" in steps(again).values()


def test_the_config_file_says_it_too(pod: Kedge, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(pod.config.read_text() + "[sandbox]\nprocess-sandbox = false\n")
    context = write_tree(tmp_path / "c", {"Dockerfile": "FROM busybox\nRUN true\n"})
    replace(pod, config=config).build(context)


def test_doctor_names_the_cure_and_takes_it(pod: Kedge) -> None:
    def proc(**environment: str) -> dict[str, object]:
        checks = json.loads(pod("doctor", "--format", "json", check=False, **environment).stdout)
        return next(check for check in checks if check["name"] == "proc")

    before = proc()
    assert not before["ok"]
    assert "--oci-worker-no-process-sandbox" in str(before["remedy"])
    assert "may signal those of the same user" in str(before["remedy"])
    after = proc(**OFF)
    assert after["ok"]
    assert "steps see the processes of the surrounding container" in str(after["detail"])


def test_root_of_the_machine_keeps_its_process_namespaces(kedge: Kedge, tmp_path: Path) -> None:
    if os.geteuid() or not identity.current().privileged:
        pytest.skip("not root of the machine")
    context = write_tree(tmp_path / "c", {"Dockerfile": "FROM busybox\nRUN test $$ = 1\n"})
    kedge.build(context, **OFF)
