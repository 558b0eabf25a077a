"""The command line: one file per command, each imported only when it is chosen.

Owns the way in and the way out. Does not know what any command does.
"""

import gc
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

_YOUNG: Final = 50_000  # objects; Python's own number would search a cached build for cycles fifty times
COLLECTED: Final = gc.get_threshold()  # Python's own numbers, for a process that lasts


def program() -> NoReturn:
    """The process `kedge`: run `main` and be gone.

    Python would take itself apart first, object by object, which takes a tenth of a cached build's time.
    """
    gc.set_threshold(_YOUNG, *COLLECTED[1:])
    code = main()
    if sys.getprofile() is None and sys.gettrace() is None:  # else somebody still wants to tell what they saw
        _leave(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `kedge ARGV` and return the exit code: 0 success, 1 failure, 125 wrong usage, 130 interrupted."""
    from kedge.cli.start import run

    return run(list(sys.argv[1:] if argv is None else argv))


def _leave(code: int) -> None:
    """End the process here and now; returns if something is left to be waited for or to be written."""
    import atexit
    import os
    import threading

    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        return
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # Python's own way out says so
    os._exit(code)
