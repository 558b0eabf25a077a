"""What must be found: one SQLite file under the store's root, its schema and its transactions.

Owns connection, schema version and the translation of SQLite's errors. Does not know what the rows mean: each table is
used by one module only, named in the schema.

WAL with synchronous=NORMAL: a transaction costs no fsync, a killed process loses nothing it committed, and a power
failure loses at most the last transactions, never the file. Where that is not enough, `durable=True` pays for one
fsync.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kedge.model.errors import KedgeError, StoreError
from kedge.storage.disk import FULL_HINT, free_space

VERSION = 5
_NO_CHECKPOINT_ON_CLOSE = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE
_LEAST = 64 << 10  # bytes that SQLite needs to open a database
_BUSY = 60.0  # seconds to wait for another process's transaction; ours last milliseconds
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- layer_records.py. state: 0 lazy (no directory), 1 ready (layers/<id> is complete). diff_id: of declared layers only.
-- size: of the tar. bytes: what the directory takes on disk, NULL if unknown or if it has links to other layers.
-- boot: the boot of the machine during which the directory was written, NULL once it is known to be on disk.
-- implied (see below): paths of directories that its tar has no entry of, as JSON, or NULL.
CREATE TABLE layers (
    id TEXT PRIMARY KEY, diff_id TEXT, size INTEGER, state INTEGER NOT NULL, opaque INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER, created REAL NOT NULL, used REAL NOT NULL, boot TEXT, description TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE UNIQUE INDEX layers_declared ON layers (diff_id) WHERE diff_id IS NOT NULL;
CREATE INDEX layers_unsynced ON layers (boot) WHERE boot IS NOT NULL;
-- Where a declared layer's bytes can be had: a blob, and where to fetch it from.
-- (Keys come first in all tables: quick_check of SQLite 3.40 finds NULLs where they do not.)
CREATE TABLE sources (
    layer TEXT NOT NULL, digest TEXT NOT NULL, origin TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (layer, digest, origin)
) WITHOUT ROWID;
CREATE INDEX sources_digest ON sources (digest);
-- Forms of a layer that were made once. form says how (compression, level, clamp).
CREATE TABLE forms (
    layer TEXT NOT NULL, form TEXT NOT NULL, media_type TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (layer, form)
) WITHOUT ROWID;
CREATE INDEX forms_digest ON forms (digest);
-- results.py. snapshots: layer ids separated by blanks, one line for each snapshot.
CREATE TABLE results (
    key TEXT PRIMARY KEY, snapshots TEXT NOT NULL, name TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE result_layers (layer TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (layer, key)) WITHOUT ROWID;
CREATE INDEX result_layers_key ON result_layers (key);
CREATE TABLE recalls (definition TEXT PRIMARY KEY, key TEXT NOT NULL, manifest TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX recalls_key ON recalls (key);
CREATE TABLE places (place TEXT PRIMARY KEY, manifest TEXT NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
-- images.py
CREATE TABLE images (
    name TEXT PRIMARY KEY, target TEXT NOT NULL, digest TEXT NOT NULL, id TEXT NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
-- stats.py
CREATE TABLE stats (
    device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL,
    ctime INTEGER NOT NULL, digest TEXT NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (device, inode)
) WITHOUT ROWID;
-- cache_mounts.py and logs.py
CREATE TABLE cache_mounts (
    directory TEXT PRIMARY KEY, id TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE logs (
    vertex TEXT PRIMARY KEY, name TEXT NOT NULL, started REAL NOT NULL, file TEXT NOT NULL
) WITHOUT ROWID;
-- budget.py: bytes that open stores are about to write.
CREATE TABLE reservations (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
"""
_NOTES = """
-- notes.py
CREATE TABLE notes (key TEXT PRIMARY KEY, text TEXT NOT NULL, written REAL NOT NULL) WITHOUT ROWID;
"""
_REFERRERS = """
-- images.py: manifests about others (attestations), as descriptors in JSON.
CREATE TABLE referrers (
    subject TEXT NOT NULL, digest TEXT NOT NULL, manifest TEXT NOT NULL, PRIMARY KEY (subject, digest)
) WITHOUT ROWID;
"""
_IMPLIED = """
ALTER TABLE layers ADD COLUMN implied TEXT;
"""
_SCHEMA += _NOTES + _REFERRERS + _IMPLIED
_UPGRADES = {2: _NOTES, 3: _REFERRERS, 4: _IMPLIED}  # version -> what it lacks that the next one has


class Database:
    """One connection, shared by the threads of this process one statement or transaction at a time; opened on first
    use.
    """

    def __init__(self, path: Path, flavour: str, after_open: Callable[["Database"], None] | None = None) -> None:
        """`flavour` is what all who share the store must agree on: the prefix of overlayfs's attributes.

        `after_open` is called once, when the connection has been opened, to look after what a crash left.
        """
        self._path, self._flavour, self._after_open = path, flavour, after_open
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._transacting = False

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """The rows of one statement, in its own transaction."""
        with self._lock, _translated(self._path):
            return self._open().execute(statement, values).fetchall()

    def row(self, statement: str, *values: Any) -> Any:
        """The first row, None when there is none."""
        with self._lock, _translated(self._path):
            return self._open().execute(statement, values).fetchone()

    @contextmanager
    def transaction(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """An immediate transaction: committed when the block ends, undone when it raises. Keep it to milliseconds.

        `durable`: it survives a power failure once the block is left.
        """
        with self._lock, _translated(self._path):
            connection = self._open()
            if durable:
                connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            self._transacting = True
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._transacting = False
                if durable:
                    connection.execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                # Keeping the journal saves a checkpoint with an fsync here and a new journal next time.
                if configure := getattr(self._connection, "setconfig", None):  # since Python 3.12
                    configure(_NO_CHECKPOINT_ON_CLOSE, True)
                self._connection.close()
                self._connection = None

    @property
    def transacting(self) -> bool:
        """Is the calling thread within a transaction? Waits for another thread's to end."""
        with self._lock:
            return self._transacting

    @property
    def opened(self) -> bool:
        return self._connection is not None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            if self._after_open:
                self._after_open(self)
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous=NORMAL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            version = _create(connection, self._flavour)
        elif version in _UPGRADES:
            version = _upgrade(connection)
        if version != VERSION:
            raise StoreError(
                f"the store at {self._path.parent} has version {version}, this kedge needs {VERSION}",
                hint="Use the kedge that made it, or name another store with --root.",
            )
        flavour = connection.execute("SELECT value FROM meta WHERE key = 'flavour'").fetchone()[0]
        if flavour != self._flavour:
            raise StoreError(
                f"the store at {self._path.parent} was made {_MAKER[flavour]}, not {_MAKER[self._flavour]}",
                hint="Name another store with --root.",
            )


_MAKER = {"trusted.overlay.": "by root", "user.overlay.": "by an ordinary user"}


def _create(connection: sqlite3.Connection, flavour: str) -> int:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if (version := connection.execute("PRAGMA user_version").fetchone()[0]) == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("INSERT INTO meta VALUES ('flavour', ?), ('last_layer', 0)", (flavour,))
            connection.execute(f"PRAGMA user_version={VERSION}")
            version = VERSION
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return int(version)


def _upgrade(connection: sqlite3.Connection) -> int:
    """Bring the tables of an older version up to date, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        while version in _UPGRADES:  # not if another process was faster
            for statement in _UPGRADES[version].split(";"):
                connection.execute(statement)
            version += 1
            connection.execute(f"PRAGMA user_version={version}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return version


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as StoreErrors."""
    try:
        yield
    except KedgeError:
        raise
    except sqlite3.Error as error:
        text = str(error)
        # Without room for its index file SQLite only says "disk I/O error".
        if "full" in text or ("I/O" in text and free_space(path.parent) < _LEAST):
            raise StoreError("no space left for the store's database", hint=FULL_HINT) from error
        hint = ""
        if "malformed" in text or "not a database" in text:
            hint = f"The database {path} is damaged: remove the store, or name another with --root."
        elif "unable to open" in text or "readonly" in text:
            hint = "Is the store's directory there, and may this user write to it? Name another with --root."
            raise StoreError(f"cannot write the store's database {path}", hint=hint) from error
        raise StoreError(f"the store's database failed: {text}", hint=hint) from error
