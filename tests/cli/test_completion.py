"""Completion scripts are scripts, and complete."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kedge.cli.completion import SHELLS

TRY = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); COMPREPLY=()
_kedge
echo "${COMPREPLY[*]}"
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_can_read_its_script(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("\n".join(SHELLS[shell]()))
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n", str(script)], capture_output=True, check=False).stderr == b""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["kedge", "bu"], "build"),
        (["kedge", "build", "--ta"], "--tag --target"),
        (["kedge", "build", "--progress", "p"], "plain"),
        (["kedge", "--root", "x", "completion", "z"], ""),
        (["kedge", "completion", "z"], "zsh"),
        (["kedge", "--ro"], "--root"),
        (["kedge", "history", "app"], "app:1 app:2"),
    ],
)
def test_bash_completes(words: list[str], expected: str, tmp_path: Path) -> None:
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    script = tmp_path / "script"
    script.write_text("\n".join(SHELLS["bash"]()))
    fake = tmp_path / "kedge"
    fake.write_text(f"#!{sys.executable}\nprint('app:1\\napp:2\\nother:1')\n")
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", TRY, "bash", str(script), *words],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == expected
