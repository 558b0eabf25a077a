"""Directories that outlive builds: RUN --mount=type=cache, and what a service's clients lend.

Owns `cache-mounts/<hash>/<n>` and the table `cache_mounts`; knows nothing of the directories' content. Ids come from
Dockerfiles and are hashed, never joined to a path (CVE-2024-9675).
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from kedge.storage.database import Database
from kedge.storage.disk import remove_tree, translated
from kedge.storage.locks import Lease, Locks

_LENT: Final = "lent-"
_LONGEST_ID: Final = 200  # characters of an id in its record


class CacheMounts:
    """Cache directories by id, shared by threads and processes."""

    def __init__(self, root: Path, database: Database, locks: Locks, lease: Lease) -> None:
        self._root, self._database, self._locks, self._lease = root, database, locks, lease
        self.seed: Callable[[str, Path], None] | None = None  # fills a new directory of an id; set by who can

    def directory(self, id: str) -> Path | None:
        """The first directory of an id that begins empty; None when there is none."""
        directory = self._root / "cache-mounts" / _place(id, "") / "0"
        return directory if directory.is_dir() else None

    def empty(self, ids: Iterable[str]) -> None:
        """Remove every directory of these ids, whatever it began with; the next user gets a new one.

        One that somebody is using at this moment stays as it is. So do clients' own directories.
        """
        for id in ids:
            for (name,) in self._database.rows("SELECT directory FROM cache_mounts WHERE id = ?", id[:_LONGEST_ID]):
                if not name.startswith(_LENT):
                    self._remove(name)

    def _remove(self, name: str) -> None:
        with self._locks.tried(lock_name(name)) as free:
            if not free:
                return
            with self._database.transaction() as rows:
                rows.execute("DELETE FROM cache_mounts WHERE directory = ?", (name,))
            trash = self._root / "trash" / self._lease.new_name()
            with translated("empty a cache mount"), suppress(FileNotFoundError):
                os.rename(self._root / "cache-mounts" / name, trash)
                remove_tree(trash)

    @contextmanager
    def use(
        self,
        id: str,
        sharing: Literal["shared", "private", "locked"],
        *,
        base: str = "",
        prepare: Callable[[Path], None] | None = None,
        cancel: threading.Event | None = None,
        lent: bool = False,
    ) -> Iterator[Path]:
        """The directory to mount, ours while the context manager is entered.

        `shared`: any number of users at once. `locked`: waits until no one else uses it; raises Cancelled when `cancel`
        is set meanwhile. `private`: another directory of the same id when the first is in use. `base` names what the
        directory starts with (part of its identity, so that other initial content is another cache);
        `prepare(directory)` puts that there when the directory is new, and may raise, which leaves no directory behind.
        `lent`: a client's own directory, which no id in a Dockerfile or graph can name. May be left on another thread
        than it was entered on.
        """
        place = f"{_LENT}{_place(id, base)}" if lent else _place(id, base)
        if self.seed and not base and not lent and prepare is None:
            seed = self.seed

            def prepare(directory: Path) -> None:
                seed(id, directory)

        if sharing == "private":
            with self._first_free(place) as name, self._prepared(name, id, prepare) as directory:
                yield directory
            return
        with (
            self._locks.held(lock_name(f"{place}/0"), shared=sharing == "shared", cancel=cancel),
            self._prepared(f"{place}/0", id, prepare) as directory,
        ):
            yield directory

    @contextmanager
    def _first_free(self, place: str) -> Iterator[str]:
        number = 0
        while True:
            with self._locks.tried(lock_name(f"{place}/{number}")) as got:
                if got:
                    yield f"{place}/{number}"
                    return
            number += 1

    @contextmanager
    def _prepared(self, name: str, id: str, prepare: Callable[[Path], None] | None) -> Iterator[Path]:
        directory = self._root / "cache-mounts" / name
        if not directory.is_dir():
            with self._locks.held(f"prepare:{name}"):
                if not directory.is_dir():
                    self._prepare(directory, prepare)
        now = self._lease.now()
        with self._database.transaction() as rows:
            rows.execute(
                "INSERT INTO cache_mounts VALUES (?, ?, ?, ?) ON CONFLICT (directory) DO UPDATE SET used = ?",
                (name, id[:_LONGEST_ID], now, now, now),
            )
        yield directory

    def _prepare(self, directory: Path, prepare: Callable[[Path], None] | None) -> None:
        """Make the directory aside, so that nobody sees it before it has what it starts with."""
        aside = self._root / "drafts" / self._lease.new_name()
        with translated("make a cache mount"):
            aside.mkdir(0o755)
        try:
            if prepare:
                prepare(aside)
            with translated("make a cache mount"):
                directory.parent.mkdir(exist_ok=True)
                os.rename(aside, directory)
        except BaseException:
            trash = self._root / "trash" / aside.name
            os.rename(aside, trash)
            remove_tree(trash)
            raise


def _place(id: str, base: str) -> str:
    return hashlib.sha256(f"{id}\0{base}".encode(errors="surrogatepass")).hexdigest()[:32]


def lock_name(directory: str) -> str:
    """The lock that users of `<hash>/<n>` hold."""
    return f"cache-mount:{directory}"
