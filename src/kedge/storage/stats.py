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
_AHEAD = 512  # rows read at once, at most

_Row = tuple[int, int, int, str]  # size, mtime, ctime, digest


class StatCache:
    """Content digests keyed by device, inode, size, mtime and ctime. Losing it costs time only. Any thread may use it.

    A file that changed less than the file system's clock grain before it was read is not kept: a second change within
    the same tick would go unnoticed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._new: dict[tuple[int, int], tuple[os.stat_result, Digest]] = {}
        self._lock = threading.Lock()
        self._near: dict[tuple[int, int], _Row] = {}  # rows read ahead, not asked for yet
        self._hits = 0  # how many of them were asked for since the last reading

    def get(self, stat: os.stat_result) -> Digest | None:
        """The digest remembered for a regular file with exactly this stat."""
        if made := self._new.get((stat.st_dev, stat.st_ino)):
            return made[1] if _values(made[0]) == _values(stat) else None
        row = self._row(*_place(stat))
        return Digest(row[3]) if row and row[:3] == _values(stat) else None

    def _row(self, device: int, inode: int) -> _Row | None:
        """The table's row, with those of the inodes behind it: files made together are asked for together.

        How far is read ahead follows from how much of the last reading was of use, so that asking about strangers, or
        in no order, costs no more than two rows each. An old row is no danger: it does not fit the file's stat.
        """
        with self._lock:
            if near := self._near.pop((device, inode), None):
                self._hits += 1
                return near
            ahead, self._hits = min(2 * self._hits + 2, _AHEAD), 0
            if len(self._near) > 64 * _AHEAD:
                self._near.clear()
        rows = self._database.rows(
            "SELECT inode, size, mtime, ctime, digest FROM stats"
            " WHERE device = ? AND inode >= ? ORDER BY inode LIMIT ?",
            device,
            inode,
            ahead,
        )
        found = rows.pop(0)[1:] if rows and rows[0][0] == inode else None
        with self._lock:
            self._near.update(((device, row[0]), row[1:]) for row in rows)
        return found

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
            self._near.clear()
            for stat, digest in new:
                if self._new.get(place := (stat.st_dev, stat.st_ino)) == (stat, digest):
                    del self._new[place]


def _place(stat: os.stat_result) -> tuple[int, int]:
    # SQLite's integers are signed.
    return stat.st_dev & (2**63 - 1), stat.st_ino & (2**63 - 1)


def _values(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
