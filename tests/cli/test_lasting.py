"""What a process that lasts does otherwise than a command that soon ends."""

import os
import signal
import subprocess
import sys
import threading

COLLECTING = """
import gc
own = gc.get_threshold()
from kedge import cli
from kedge.cli import start
def run(_):
    put_off = gc.get_threshold()
    from kedge.cli.lasting import expect_to_last
    expect_to_last()
    print(put_off[0] > own[0], gc.get_threshold() == own)
    return 3
start.run = run
cli.program()
"""

HEAPS = """
import ctypes, sys, threading
if "lasting" in sys.argv:
    from kedge.cli.lasting import expect_to_last
    expect_to_last()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.realloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
met = threading.Barrier(8)
def work():
    libc.malloc(1000)
    met.wait(60)
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.malloc_stats()
"""

FILES = """
import resource, sys
from kedge.cli.lasting import expect_to_last
from kedge.kernel import resources
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
expect_to_last()
expect_to_last()
print(resource.getrlimit(resource.RLIMIT_NOFILE), resources.open_files_before())
"""

CRASH = """
import os, signal, threading
from kedge.cli.lasting import expect_to_last
expect_to_last()
def where_it_broke():
    os.kill(os.getpid(), signal.SIGSEGV)
    threading.Event().wait(60)
thread = threading.Thread(target=where_it_broke)
thread.start()
thread.join()
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_it_looks_for_cycles_as_python_does() -> None:
    done = run(COLLECTING)
    assert (done.stdout, done.stderr, done.returncode) == ("True True\n", "", 3)


def test_its_threads_share_two_heaps() -> None:
    # A subprocess for each, as the number of heaps is a process's. malloc_stats(3) tells of each on stderr.
    assert run(HEAPS, "lasting").stderr.count("Arena ") == 2
    assert run(HEAPS).stderr.count("Arena ") > 2 or os.cpu_count() == 1


def test_it_uses_as_many_open_files_as_it_may_and_remembers_what_steps_get() -> None:
    done = run(FILES)
    assert done.stdout == "(300, 300) (200, 300)\n", done.stderr


def test_a_crash_of_native_code_tells_where_each_thread_was() -> None:
    done = run(CRASH)
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert "in where_it_broke" in done.stderr
    assert f"Thread 0x{threading.get_ident():016x}"[:9] in done.stderr
