"""Digests of file contents by what stat(2) says, so that unchanged files are not read twice.

Owns one table. Does not know what is digested, nor how.
"""

import os

from kedge.model.digest import Digest
from kedge.storage.database import Database


class StatCache:
    """Content digests keyed by device, inode, size, mtime and ctime. Losing it costs time only. Any thread may use it.

    A file that changed less than the file system's clock grain before it was read is not kept: a second change within the
    same tick would go unnoticed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, stat: os.stat_result) -> Digest | None:
        """The digest remembered for a regular file with exactly this stat."""
        raise NotImplementedError

    def put(self, stat: os.stat_result, digest: Digest) -> None:
        """Remember the digest of a file; `stat` must be taken (fstat) *before* its content was read.

        Kept in memory until `flush`, which `Store.close` calls.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Write down what was put, in one transaction."""
        raise NotImplementedError
