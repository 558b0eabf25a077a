"""The command line: one file per command, each imported only when it is chosen.

Owns the way in and the way out. Does not know what any command does.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `kedge ARGV` and return the exit code: 0 success, 1 failure, 125 wrong usage, 130 interrupted."""
    from kedge.cli.start import run

    return run(list(sys.argv[1:] if argv is None else argv))
