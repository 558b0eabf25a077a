"""Notes: short texts that others keep here by a key of their own, to save work; losing one costs only that work.

Owns the table `notes` and its bound. Does not know what a note says.
"""

from kedge.storage.database import Database
from kedge.storage.locks import Lease

MOST = 20_000  # notes; beyond it the oldest half goes


class NoteStore:
    """Every method is atomic. Keys start with a word and a colon that tell whose note it is."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database, self._lease = database, lease

    def get(self, key: str) -> str | None:
        """The text kept under a key. Writes nothing."""
        row = self._database.row("SELECT text FROM notes WHERE key = ?", key)
        return row and str(row[0])

    def put(self, key: str, text: str) -> None:
        """Keep a text, replacing an earlier one."""
        now = self._lease.now()
        with self._database.transaction() as rows:
            rows.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (key, text, now))
            if rows.execute("SELECT count(*) FROM notes").fetchone()[0] > MOST:
                oldest = "SELECT key FROM notes ORDER BY written LIMIT ?"
                rows.execute(f"DELETE FROM notes WHERE key IN ({oldest})", (MOST // 2,))
