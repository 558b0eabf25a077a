"""The cases of the language once more, as an ordinary user in a user namespace: the same images come out."""

import os
import pwd
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSIDE = """
import sys
from kedge.kernel.identity import enter_user_namespace
enter_user_namespace()
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
# Where owners, mounts and devices matter; the other cases are no different for an ordinary user.
SOME = "test_case and (run- or copy-from or copy-ch or add-archive or other-user or other-workdir or context-git)"


def with_subordinate_ids() -> int | None:
    """The id of a user here that has subordinate ids."""
    path = Path("/etc/subuid")
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            return pwd.getpwnam(line.split(":")[0]).pw_uid
        except KeyError:
            continue
    return None


def usable_python(prefix: list[str]) -> str:
    """A Python that the user can start and that has the packages of the tests."""
    for python in (sys.executable, "/usr/bin/python3"):
        probe = [*prefix, python, "-c", "import sys, pytest, isal, zstandard; assert sys.version_info >= (3, 11)"]
        if subprocess.run(probe, capture_output=True, cwd="/").returncode == 0:
            return python
    pytest.skip("no Python that an ordinary user can start has the packages of the tests")


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed (apt-get install util-linux)")
@pytest.mark.parametrize("ids", ["subordinate ids", "one id"])
def test_an_ordinary_user_builds_the_same(ids: str) -> None:
    me, named = os.geteuid(), with_subordinate_ids()
    uid = named if ids == "subordinate ids" else 12345 if me == 0 else me
    if uid is None or (me not in (0, uid)) or (uid == named and not shutil.which("newuidmap")):
        pytest.skip("no user here has subordinate ids and newuidmap (apt-get install uidmap)")
    if ids == "one id" and uid == named:
        pytest.skip("this user has subordinate ids")
    home = Path(tempfile.mkdtemp(prefix="kedge-user-"))
    try:
        if me == 0:
            os.chown(home, uid, uid)
        done = run_cases(uid, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if done.returncode and "cannot create a user namespace" in done.stderr:
        pytest.skip("this machine lets no ordinary user make a user namespace")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def run_cases(uid: int, home: Path) -> "subprocess.CompletedProcess[str]":
    lower = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if os.geteuid() == 0 else []
    path = os.pathsep.join([str(ROOT / "src"), *site.getsitepackages()])
    environ = [f"HOME={home}", f"PATH={os.environ['PATH']}", f"PYTHONPATH={path}", f"TMPDIR={home}"]
    prefix = [*lower, "env", "-i", *environ, "PYTHONDONTWRITEBYTECODE=1"]
    file = Path(__file__).with_name("test_language.py")
    words = [str(file), "-q", "-n0", "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"--basetemp={home}/tmp"]
    return subprocess.run(
        [*prefix, usable_python(prefix), "-c", INSIDE, *words, "-k", SOME], capture_output=True, text=True, cwd=ROOT
    )
