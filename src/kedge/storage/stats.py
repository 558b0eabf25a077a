"""Digests of file contents by what stat(2) says, so that unchanged files are not read twice.

Owns one table. Does not know what is digested, nor how.
"""

import os
import threading
import time

from kedge.model.digest import Digest
from kedge.storage.database import Database

_GRAIN = 20_000_000  # nanoseconds: longer than a kernel tick, the step of file times before multigrain timestamps
_COARSE_GRAIN = 2_000_000_000  # where times have no fraction: network and FAT file systems


class StatCache:
    """Content digests keyed by device, inode, size, mtime and ctime. Losing it costs time only. Any thread may use it.

    A file that changed less than the file system's clock grain before it was read is not kept: a second change within
    the same tick would go unnoticed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._new: dict[tuple[int, int], tuple[os.stat_result, Digest]] = {}
        self._lock = threading.Lock()

    def get(self, stat: os.stat_result) -> Digest | None:
        """The digest remembered for a regular file with exactly this stat."""
        if made := self._new.get((stat.st_dev, stat.st_ino)):
            return made[1] if _values(made[0]) == _values(stat) else None
        row = self._database.row(
            "SELECT size, mtime, ctime, digest FROM stats WHERE device = ? AND inode = ?", *_place(stat)
        )
        return Digest(row[3]) if row and tuple(row[:3]) == _values(stat) else None

    def put(self, stat: os.stat_result, digest: Digest, taken_ns: int = 0) -> None:
        """Remember the digest of a file; `stat` must be taken (fstat) *before* its content was read.

        `taken_ns` is when (time.time_ns()); 0: not longer ago than it takes to read the file at 50 MB/s. Kept in memory
        until `flush`, which `Store.close` calls.
        """
        changed = max(stat.st_mtime_ns, stat.st_ctime_ns)
        grain = _GRAIN if changed % 1_000_000_000 else _COARSE_GRAIN
        if changed < (taken_ns or time.time_ns() - stat.st_size * 20) - grain:
            with self._lock:
                self._new[stat.st_dev, stat.st_ino] = (stat, digest)

    def flush(self) -> None:
        """Write down what was put, in one transaction."""
        with self._lock:
            new = list(self._new.values())
        if not new:
            return
        today = int(time.time())
        with self._database.transaction() as rows:
            rows.executemany(
                "INSERT OR REPLACE INTO stats VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(*_place(stat), *_values(stat), digest, today) for stat, digest in new],
            )
        with self._lock:
            for stat, digest in new:
                if self._new.get(place := (stat.st_dev, stat.st_ino)) == (stat, digest):
                    del self._new[place]


def _place(stat: os.stat_result) -> tuple[int, int]:
    # SQLite's integers are signed.
    return stat.st_dev & (2**63 - 1), stat.st_ino & (2**63 - 1)


def _values(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
