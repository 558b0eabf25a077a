"""The builds of this directory once more, as an ordinary user: in a user namespace, with one id and with subordinate
ids.
"""

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
FILES = ("test_caching.py", "test_run_steps.py", "test_contexts.py", "test_scanners.py")
# What one id cannot have: owners other than its own are kept in records, which a running step does not see.
NEEDS_IDS = "user_home or first_content or agent_is_forwarded or no_new_privileges"


def user_with_subordinate_ids():
    for file in ("/etc/subuid",):
        with open(file) if os.path.exists(file) else open(os.devnull) as lines:
            for line in lines:
                try:
                    return pwd.getpwnam(line.split(":")[0]).pw_uid
                except KeyError:
                    continue
    return None


def run_as(uid, extra):
    home = tempfile.mkdtemp(prefix="kedge-user-")
    os.chown(home, uid, uid) if os.geteuid() == 0 else None
    os.chmod(home, 0o755)
    try:
        path = os.pathsep.join([str(ROOT / "src"), *site.getsitepackages()])
        environ = [
            "env",
            "-i",
            f"HOME={home}",
            f"PATH={os.environ['PATH']}",
            f"PYTHONPATH={path}",
            "PYTHONDONTWRITEBYTECODE=1",
            f"TMPDIR={home}",
        ]
        prefix = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if os.geteuid() == 0 else []
        for python in (sys.executable, "/usr/bin/python3"):
            probe = subprocess.run(
                [*prefix, *environ, python, "-c", "import sys, pytest, isal; assert sys.version_info >= (3, 11)"],
                capture_output=True,
                cwd="/",
            )
            if probe.returncode == 0:
                break
        else:
            pytest.skip("no Python that an ordinary user can start has the packages of the tests")
        words = [
            *(str(ROOT / "tests" / "builder" / name) for name in FILES),
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            f"--rootdir={ROOT}",
            f"--basetemp={home}/tmp",
            *extra,
        ]
        return subprocess.run(
            [*prefix, *environ, python, "-c", INSIDE, *words], capture_output=True, text=True, cwd=ROOT
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed (apt-get install util-linux)")
@pytest.mark.parametrize("ids", ["one id", "subordinate ids"])
def test_builds_as_an_ordinary_user(ids):
    if os.environ.get("KEDGE_INSIDE"):
        pytest.skip("already inside")
    named = user_with_subordinate_ids()
    if ids == "one id":
        uid, extra = (12345 if os.geteuid() == 0 else os.getuid()), ["-k", f"not ({NEEDS_IDS})"]
        if uid == named:
            pytest.skip("this user has subordinate ids")
    else:
        uid, extra = named, []
        if uid is None or not shutil.which("newuidmap") or (os.geteuid() and os.getuid() != uid):
            pytest.skip("no user here has subordinate ids and newuidmap (apt-get install uidmap)")
    done = run_as(uid, extra)
    if done.returncode and "cannot create a user namespace" in done.stderr:
        pytest.skip("this machine lets no ordinary user make a user namespace")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
