"""Commands that soon end put off the search for cycles; a process that lasts takes it up again."""

import subprocess
import sys

SCRIPT = """
import gc
own = gc.get_threshold()
from kedge import cli
from kedge.cli import start
def run(_):
    put_off = gc.get_threshold()
    cli.expect_to_last()
    print(put_off[0] > own[0], gc.get_threshold() == own)
    return 3
start.run = run
cli.program()
"""


def test_a_process_that_lasts_looks_for_cycles_as_python_does() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("True True\n", "", 3)
