"""The checks once more as an ordinary user, for whom owners are records and layers are made in a user namespace."""

import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checks.conftest import MAIN, Compile

ROOT = Path(__file__).resolve().parents[2]
USER = 12345


@pytest.fixture
def home() -> Iterator[Path]:
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root can become another user (by setpriv of util-linux)")
    path = Path(tempfile.mkdtemp(prefix="kedge-checks-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def build(home: Path, text: str) -> str:
    """What `kedge build` says as an ordinary user."""
    (home / "context/Dockerfile").write_text(text)
    for directory, _, names in os.walk(home):
        for path in (directory, *(os.path.join(directory, name) for name in names)):
            os.chown(path, USER, USER)
    environment = [
        "env", "-i", f"HOME={home}", f"PATH={os.environ['PATH']}", f"KEDGE_ROOT={home}/store",
        "PYTHONDONTWRITEBYTECODE=1",
        f"PYTHONPATH={os.pathsep.join([str(ROOT / 'src'), *site.getsitepackages()])}",
    ]  # fmt: skip
    prefix = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *environment]
    for python in (sys.executable, "/usr/bin/python3"):
        words = [*prefix, python, "-c", "import sys; assert sys.version_info >= (3, 11)"]
        if subprocess.run(words, capture_output=True, cwd="/").returncode == 0:
            break
    else:
        pytest.skip("no Python here can be started by an ordinary user")
    words = [*prefix, python, "-m", "kedge", "build", "--progress", "plain", f"{home}/context"]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/")
    if "user namespace" in done.stderr and done.returncode:
        pytest.skip("this machine lets no ordinary user make a user namespace")
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_permissions_are_those_of_recorded_owners(home: Path, compiled: Compile) -> None:
    (home / "context").mkdir()
    shutil.copy(compiled(MAIN, "-static"), home / "context/app")
    text = 'FROM scratch\nCOPY --chown=5:5 --chmod=700 app /app\nUSER {}\nENTRYPOINT ["/app"]\n'
    assert "the user 1000 may not execute /app" in build(home, text.format(1000))
    assert "warning" not in build(home, text.format(5))


def test_a_key_is_found_and_told_by_name_only(home: Path) -> None:
    (home / "context").mkdir()
    (home / "context/id_rsa").write_text("-----BEGIN PRIVATE KEY-----\nMIIE\n")
    output = build(home, "FROM scratch\nCOPY id_rsa /root/.ssh/\n")
    assert "SecretsInFinalStage: secrets in the final image: a private key in /root/.ssh/id_rsa" in output
    assert "MIIE" not in output
