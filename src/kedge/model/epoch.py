"""SOURCE_DATE_EPOCH: the one time that the files and documents of a build carry, where it is asked for.

Owns its spelling and its range, which is that of 64 bits of nanoseconds: the years 1678 to 2262. Graphs and file times
hold no more.
"""

import re

_SECONDS = re.compile(r"(-?)0*([0-9]{1,10})")
_FARTHEST = (2**63 - 1) // 10**9


def read_epoch(text: str) -> int | None:
    """Seconds since 1970; None for a text that is no such time."""
    found = _SECONDS.fullmatch(text)
    return in_range(int(found[1] + found[2])) if found else None


def in_range(seconds: int) -> int | None:
    """The time, None if it is beyond the range."""
    return seconds if abs(seconds) <= _FARTHEST else None
