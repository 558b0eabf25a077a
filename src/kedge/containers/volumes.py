"""Volumes: directories that outlive containers, by name.

Owns `volumes/` below a root: each volume's record and data, which container uses it, and what it is filled with at
first. Does not know images or requests.

A container's use of volumes is written in its home (`mounts.json`); what no container uses may be removed. One lock on
`volumes/` keeps removal and the making of containers apart, in all processes.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kedge.model.errors import Conflict, InvalidInput, NotFound, StoreError
from kedge.model.value import dataclass

if TYPE_CHECKING:
    from kedge.storage.tree import Tree

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}")
_MOUNTS: Final = "mounts.json"
_FILLING, _FILLED = "filling", "filled"  # beside a volume's data


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """One volume. `created` in seconds since the epoch. An anonymous one goes with its container, if that asks for it.

    `path` is where its files are.
    """

    name: str
    path: Path
    created: float
    labels: tuple[tuple[str, str], ...] = ()
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class VolumeUse:
    """A volume in a container. `anonymous`: it was made for that container."""

    name: str
    dest: str
    readonly: bool = False
    anonymous: bool = False
    subpath: str = ""


class Volumes:
    """All volumes below `root`. Safe to use from several threads and processes."""

    def __init__(self, root: Path) -> None:
        self._root, self._folder = root, root / "volumes"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else adds, uses or removes volumes meanwhile."""
        try:
            self._folder.mkdir(mode=0o711, exist_ok=True)
            lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot use {self._folder}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def create(self, name: str = "", labels: Sequence[tuple[str, str]] = (), anonymous: bool = False) -> VolumeRecord:
        """The volume of that name; made if it is not there yet. Without a name, a new one. Raises InvalidInput."""
        if not name:
            name, anonymous = os.urandom(32).hex(), True
        _check(name)
        with suppress(NotFound):
            return self.get(name)
        home = self._folder / name
        try:
            (home / "_data").mkdir(mode=0o755, parents=True, exist_ok=True)
            record = {"created": time.time(), "labels": dict(labels), "anonymous": anonymous}
            aside = home / f"record.{os.urandom(4).hex()}"
            aside.write_text(json.dumps(record))
            aside.replace(home / "record.json")
        except OSError as error:
            raise StoreError(f"cannot make the volume {name}: {error.strerror}") from None
        return self.get(name)

    def get(self, name: str) -> VolumeRecord:
        """By its name. Raises NotFound."""
        found = _load(self._folder / name) if _NAME.fullmatch(name) else None
        if found is None:
            raise NotFound(f"get {name[:260]}: no such volume")
        return found

    def list(self) -> list[VolumeRecord]:
        """All, by name."""
        homes = sorted(self._folder.glob("*/record.json")) if self._folder.is_dir() else []
        return [record for path in homes if (record := _load(path.parent)) is not None]

    def remove(self, name: str) -> int:
        """Delete it with its files; the bytes that took. Raises NotFound, Conflict while a container uses it."""
        from kedge.storage.disk import measure, remove_tree

        with self.locked():
            record = self.get(name)
            if users := self.users().get(name):
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            size = measure(record.path).bytes
            aside = self._to_trash(record.path.parent)
        remove_tree(aside)
        return size

    def _to_trash(self, path: Path) -> Path:
        """Where it is now: in the store's own trash, which the store empties if we are killed. Raises StoreError."""
        trash = self._root / "trash"
        aside = trash / f"volume-{os.urandom(8).hex()}"
        try:
            trash.mkdir(mode=0o755, exist_ok=True)
            path.rename(aside)
        except OSError as error:
            raise StoreError(f"cannot remove {path}: {error.strerror}") from None
        return aside

    # ---- containers --------------------------------------------------------------------------------------------------

    def users(self) -> dict[str, tuple[str, ...]]:
        """Name -> ids of the containers that use it."""
        found: dict[str, tuple[str, ...]] = {}
        for path in sorted(self._root.glob(f"containers/*/{_MOUNTS}")):
            for use in uses_of(path.parent):
                found[use.name] = (*found.get(use.name, ()), path.parent.name)
        return found

    def forget(self, uses: Sequence[VolumeUse]) -> None:
        """A container is gone: so go the volumes that were made for it, unless another uses them."""
        for use in uses:
            if use.anonymous:
                with suppress(NotFound, Conflict, StoreError):
                    self.remove(use.name)

    # ---- the first filling -------------------------------------------------------------------------------------------
    #
    # An empty volume gets a copy of what the image has, which is made beside it, in `filling`. When that is whole, its
    # name becomes `filled`, and what is in it is moved into the volume. So nothing is in a volume before all is there,
    # and whoever uses it next goes on with the moving if we are killed. The volume's own directory is never another:
    # a container may have it mounted.

    def is_empty(self, record: VolumeRecord) -> bool:
        """Is nothing in it? If there is, then all: who fills it is waited for, and what a killed one left is ended.

        Raises StoreError.
        """
        self._finish_filling(record)
        if _has_nothing(record):
            return True
        self._finish_filling(record)  # it may have begun just now
        return False

    def fill(self, record: VolumeRecord, tree: "Tree", path: str) -> None:
        """An empty volume gets what the image has at `path`, and that directory's owner and mode. Raises KedgeError.

        Atomic: killed, or failed, it is ended or made again by who uses the volume next.
        """
        from kedge.kernel.paths import open_in_root

        home = record.path.parent
        with _held(home):
            self._move_in(record)
            self._discard(home / _FILLING)
            if not _has_nothing(record):
                return
            try:
                source = open_in_root(tree.fd, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                return  # nothing is there in the image, or no directory
            try:
                _copy(tree, path, source, home / _FILLING)
                (home / _FILLING).rename(home / _FILLED)
            except OSError as error:
                raise StoreError(f"cannot fill the volume {record.name}: {error.strerror}") from None
            finally:
                os.close(source)
                self._discard(home / _FILLING)
            self._move_in(record)

    def _finish_filling(self, record: VolumeRecord) -> None:
        if not (record.path.parent / _FILLED).exists():
            return
        with _held(record.path.parent):
            self._move_in(record)

    def _move_in(self, record: VolumeRecord) -> None:
        """All that is in `filled`, but for names that a container has given to files of its own. Raises StoreError."""
        filled = record.path.parent / _FILLED
        if not filled.exists():
            return
        try:
            with _directory(filled) as source, _directory(record.path) as dest:
                time = os.fstat(source).st_mtime_ns
                for name in os.listdir(source):
                    if not os.path.lexists(record.path / name):
                        os.rename(name, name, src_dir_fd=source, dst_dir_fd=dest)
                _dress(dest, source)
                os.utime(dest, ns=(time, time))
        except OSError as error:
            raise StoreError(f"cannot fill the volume {record.name}: {error.strerror}") from None
        self._discard(filled)

    def _discard(self, directory: Path) -> None:
        from kedge.storage.disk import remove_tree

        if directory.exists():
            remove_tree(self._to_trash(directory))


def _has_nothing(record: VolumeRecord) -> bool:
    with os.scandir(record.path) as entries:
        return not any(entries)


@contextmanager
def _held(home: Path) -> Iterator[None]:
    """Nobody else fills the volume meanwhile. Raises StoreError."""
    try:
        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"cannot use {home}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _copy(tree: "Tree", path: str, source: int, aside: Path) -> None:
    from kedge.model import ops
    from kedge.storage.copy import copy

    aside.mkdir(mode=0o755)
    with _directory(aside) as dest:
        everything = ops.Copy(path, "/", contents_only=True, create_dest_path=True, follow_symlinks=True)
        copy(everything, tree, dest)
        _dress(dest, source)


def _dress(dest: int, source: int) -> None:
    from kedge.storage import ownership

    status = os.fstat(source)
    uid, gid = status.st_uid, status.st_gid
    with suppress(OSError):
        value = os.getxattr(f"/proc/self/fd/{source}", ownership.OWNER_XATTR)
        if record := ownership.decode(value, uid, gid, ownership.policy()):
            uid, gid = record.uid, record.gid
    ownership.give(dest, uid, gid, ownership.policy())
    os.fchmod(dest, status.st_mode & 0o7777)
    os.utime(dest, ns=(status.st_mtime_ns, status.st_mtime_ns))


def keep_uses(home: Path, uses: Sequence[VolumeUse]) -> None:
    """Write down which volumes the container of that home uses. Raises StoreError."""
    if not uses:
        return
    try:
        (home / _MOUNTS).write_text(json.dumps([_to_json(use) for use in uses]))
    except OSError as error:
        raise StoreError(f"cannot write {home / _MOUNTS}: {error.strerror}") from None


def uses_of(home: Path) -> tuple[VolumeUse, ...]:
    """Which volumes the container of that home uses."""
    try:
        return tuple(VolumeUse(**each) for each in json.loads((home / _MOUNTS).read_bytes()))
    except (OSError, ValueError, TypeError):
        return ()


def _to_json(use: VolumeUse) -> dict[str, Any]:
    return {name: getattr(use, name) for name in ("name", "dest", "readonly", "anonymous", "subpath")}


def _load(home: Path) -> VolumeRecord | None:
    try:
        value = json.loads((home / "record.json").read_bytes())
        labels = tuple(sorted(dict(value["labels"]).items()))
        return VolumeRecord(home.name, home / "_data", float(value["created"]), labels, bool(value["anonymous"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f'"{name[:100]}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
            "allowed. If you intended to pass a host directory, use absolute path"
        )
