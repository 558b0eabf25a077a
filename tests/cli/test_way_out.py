"""The process `kedge` ends without Python's long way out, and loses nothing by it."""

import subprocess
import sys

START = (
    "import atexit, cProfile, sys, threading; from kedge.cli import program; sys.argv = ['kedge', 'version', '--short']"
)


def ended(*lines):
    text = "\n".join((START, *lines))
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)


def test_what_was_printed_arrives_and_exit_handlers_run():
    done = ended("atexit.register(print, 'handled')", "program()")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("kedge version ")
    assert done.stdout.endswith("\nhandled\n")


def test_exit_codes_are_kept():
    assert ended("sys.argv[1:] = ['no-such-command']", "program()").returncode == 125


def test_a_thread_that_is_no_daemon_is_waited_for():
    done = ended(
        "def late(): threading.main_thread().join(); print('late', flush=True)",
        "threading.Thread(target=late).start()",
        "program()",
    )
    assert done.stdout.endswith("\nlate\n")


def test_a_profile_of_the_whole_process_is_told():
    done = ended("cProfile.run('program()')")
    assert "function calls" in done.stdout


def test_output_that_cannot_be_written_fails():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kedge", "version"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode != 0
    assert "No space left" in done.stderr
