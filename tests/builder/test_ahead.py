"""What the end of a build needs is imported while its first steps run."""

import subprocess
import sys
import threading

PROGRAM = """
import sys, time
from kedge.builder import ahead
names = set(ahead._LATER)
assert not names & set(sys.modules)
with ahead.imported_ahead():
    ended = time.monotonic() + 120
    while not names <= set(sys.modules) and time.monotonic() < ended:
        time.sleep(0.01)
assert names <= set(sys.modules), names - set(sys.modules)
"""


def test_all_of_the_list_comes_by_itself():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_its_thread_ends_with_the_build():
    from kedge.builder.ahead import imported_ahead

    before = set(threading.enumerate())
    with imported_ahead():
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before
