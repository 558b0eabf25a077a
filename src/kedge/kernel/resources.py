"""What a process that lasts takes of the machine: open files, and heaps.

Owns those two settings of our own process. Does not know who wants them, nor what limits a step gets.
"""

import resource
from typing import Final

_M_ARENA_MAX: Final = -8  # mallopt(3)
_ARENAS: Final = 2

_before: tuple[int, int] | None = None  # the limit of open files that we were started with, once it is raised


def raise_open_files() -> None:
    """Use as many open files as may be had: the soft limit of RLIMIT_NOFILE becomes the hard one (getrlimit(2)).

    The soft limit is 1024 on most machines for the sake of programs that call select(2), which we do not for a client.
    """
    global _before
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _before = _before or (soft, hard)


def open_files_before() -> tuple[int, int] | None:
    """The soft and hard limit that `raise_open_files` found; None if it raised nothing.

    A step gets it back: there are programs that close every descriptor they might have, one by one, when they start.
    """
    return _before


def share_heaps() -> None:
    """Let threads share two heaps, where the C library would give sixteen of them one each (mallopt(3) M_ARENA_MAX).

    A thread's heap never shrinks to what lives in it: a service of eighty threads held three times what it used. The
    interpreter's lock lets hardly two of them ask for memory at once. To be called before there are threads; without
    effect where the C library is another than glibc.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_ARENA_MAX, _ARENAS)
