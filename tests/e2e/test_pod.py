"""Root as a container has it: without CAP_SYS_ADMIN, but free to make user namespaces. A plain Kubernetes pod."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Kedge, write_tree

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up some of root's capabilities"),
    pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed (apt-get install util-linux)"),
]

DOCKERFILE = """\
FROM busybox
RUN touch /mine /theirs && chown 5:6 /theirs && test -r /proc/1/cmdline
COPY --chown=7:8 f /copied
USER 9
RUN echo "user $(id -u)"
"""


def without(kedge: Kedge, *capabilities: str) -> Kedge:
    """The command line of root that lacks these capabilities."""
    words = ",".join(f"-{each}" for each in capabilities)
    return replace(kedge, command=("setpriv", f"--bounding-set={words}", "--inh-caps=-all", *kedge.command))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "c", {"Dockerfile": DOCKERFILE, "f": "x"})


def test_root_without_sys_admin_builds_with_all_its_ids(kedge: Kedge, context: Path) -> None:
    pod = without(kedge, "sys_admin")
    assert " user 9\n" in pod.build(context, "-t", "x")
    listed = pod("run", "--rm", "--user", "0", "x", "stat", "-c", "%n %u:%g", "/mine", "/theirs", "/copied").stdout
    assert listed.splitlines() == ["/mine 0:0", "/theirs 5:6", "/copied 7:8"]


def test_root_that_may_not_map_others_builds_with_one_id(kedge: Kedge, context: Path) -> None:
    pod = without(kedge, "sys_admin", "setuid", "setgid")
    pod.build(context, "-t", "x")
    assert pod("run", "--rm", "--user", "0", "x", "stat", "-c", "%u:%g", "/copied").returncode == 0


def test_root_that_may_not_even_map_itself_is_told_what_it_lacks(kedge: Kedge, context: Path) -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (5, 12):
        pytest.skip("before Linux 5.12 root needs no CAP_SETFCAP for that")
    done = without(kedge, "sys_admin", "setfcap")("build", context, check=False)
    assert done.returncode == 1
    assert "cannot map ids" in done.stderr
    assert "SETFCAP" in done.stderr


def test_the_python_api_does_the_same(kedge: Kedge, context: Path) -> None:
    script = f"import kedge; print(kedge.build({str(context)!r}, tags=['x']).id)"
    pod = replace(kedge, command=(*without(kedge, "sys_admin").command[:3], sys.executable, "-c"))
    assert pod(script).stdout.startswith("sha256:")
