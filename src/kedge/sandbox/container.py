"""Containers of `kedge run` and of the service: a writable directory each, and a record on disk of what it is and
whether it runs.

Owns `containers/` below a root, names, states and removal. Does not know images: the caller gives the layer
directories.

A record is a JSON file, replaced by rename. A container runs exactly while somebody holds the lock beside its record,
so a killed `kedge` leaves no container that only seems to run.
"""

import fcntl
import json
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from kedge.model.errors import Conflict, InvalidInput, NotFound, StoreError
from kedge.model.value import dataclass, fields, replace
from kedge.sandbox.process import Executor, MountPoint, Overlay, Process, Signaller, Stdio

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_LEFT = (
    "amber brave calm deep eager fair glad hale keen light merry neat plain quick ready salty swift tidy warm wise"
).split()
_RIGHT = (
    "anchor bay buoy cape chart cove crew delta gale gull harbor isle kelp keel mast pier reef sail shoal tide"
).split()


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """What is known of a container. Times are seconds since the epoch, 0 for not yet; `pid` is 0 unless it runs.

    `error` is why it could not be started, `stopped` that somebody ended it, `oom_killed` that memory ran out
    in it. One that is to `auto_remove` is gone with its end, at the latest when the next container is made.
    """

    id: str
    name: str
    image: str
    image_id: str
    command: tuple[str, ...]
    created: float
    state: Literal["created", "running", "exited"] = "created"
    pid: int = 0
    exit_code: int = 0
    started: float = 0.0
    finished: float = 0.0
    error: str = ""
    auto_remove: bool = False
    stopped: bool = False
    oom_killed: bool = False


class Containers:
    """All containers below `root`. Safe to use from several processes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(
        self, image: str, image_id: str, command: tuple[str, ...], name: str = "", auto_remove: bool = False
    ) -> "Container":
        """A new container with an empty writable layer; raises Conflict if the name is taken."""
        _check_name(name)
        self._sweep()
        identifier = os.urandom(32).hex()
        home = self._root / identifier
        try:
            for directory in (home / "upper", home / "work", self._root / "names"):
                directory.mkdir(parents=True, exist_ok=True)
            name = self._take_name(name, identifier)
        except OSError as error:
            _delete(home)
            raise StoreError(f"cannot create a container in {self._root}: {error.strerror}") from None
        except Conflict:
            _delete(home)
            raise
        record = ContainerRecord(identifier, name, image, image_id, command, time.time(), auto_remove=auto_remove)
        container = Container(home, record)
        container.save()
        return container

    def open(self, reference: str) -> "Container":
        """A container made before, by name or id as `get`; raises NotFound."""
        return self.held(self.get(reference))

    def held(self, record: ContainerRecord) -> "Container":
        """The container that the record is of."""
        return Container(self._root / record.id, record)

    def rename(self, reference: str, name: str) -> ContainerRecord:
        """Give a container another name; raises Conflict if that is taken."""
        container = self.open(reference)
        if not name:
            raise InvalidInput("a container's name cannot be empty")
        _check_name(name)
        old = container.record.name
        self._take_name(name, container.record.id)
        container.update(name=name)
        with suppress(OSError):
            (self._root / "names" / old).unlink()
        return container.record

    def _sweep(self) -> None:
        """Remove what a killed process would have removed at its containers' end."""
        for record in self.list():
            if record.auto_remove and record.state == "exited":
                with suppress(NotFound, StoreError):
                    self.remove(record.id)

    def list(self) -> list[ContainerRecord]:
        """All containers, newest first."""
        homes = (path for path in self._root.glob("*/record.json")) if self._root.is_dir() else iter(())
        records = [record for path in homes if (record := _load(path.parent)) is not None]
        return sorted(records, key=lambda record: -record.created)

    def get(self, reference: str) -> ContainerRecord:
        """By name, id or unambiguous start of an id; raises NotFound."""
        records = self.list()
        exact = [r for r in records if reference in (r.name, r.id)]
        found = exact or [r for r in records if reference and r.id.startswith(reference)]
        if len(found) != 1:
            raise NotFound(
                f"no such container: {reference}" if not found else f"several containers start with {reference}"
            )
        return found[0]

    def remove(self, reference: str, force: bool = False) -> ContainerRecord:
        """Delete a container and what it wrote; raises Conflict if it runs, unless `force`, which kills it."""
        record = self.get(reference)
        if record.state == "running":
            if not force:
                raise Conflict(f"container {record.name} is running", hint="stop it first, or force its removal")
            with suppress(ProcessLookupError):
                os.kill(record.pid, 9)
        _delete(self._root / record.id)
        with suppress(OSError):
            (self._root / "names" / record.name).unlink()
        return record

    def _take_name(self, name: str, identifier: str) -> str:
        """Names are links to ids: creating one is atomic."""
        for _ in range(20):
            chosen = name or _some_name()
            link = self._root / "names" / chosen
            try:
                os.symlink(identifier, link)
                return chosen
            except FileExistsError:
                holder = os.readlink(link)
                if not (self._root / holder / "record.json").exists() and not (self._root / holder / "upper").exists():
                    link.unlink(missing_ok=True)  # left by a removal that was cut short
                elif name:
                    raise Conflict(
                        f"the container name {name} is in use by {holder[:12]}",
                        hint="Choose another name, or end that container.",
                    ) from None
        raise Conflict("no free container name was found")


class Container:
    """One container, held by the process that created it."""

    def __init__(self, home: Path, record: ContainerRecord) -> None:
        self._home = home
        self.record = record

    @property
    def home(self) -> Path:
        """Where its own files are kept; whoever holds it may keep more there."""
        return self._home

    @property
    def upper(self) -> Path:
        """Where everything that it writes goes."""
        return self._home / "upper"

    def root(self, lowers: tuple[str, ...], readonly: bool = False) -> MountPoint:
        """Its root: the image's layer directories, bottom first, under its own writable one."""
        return MountPoint("/", Overlay(lowers, str(self.upper), str(self._home / "work")), readonly=readonly)

    def run(self, executor: Executor, process: Process, mounts: tuple[MountPoint, ...], stdio: Stdio) -> int:
        """Run it to the end, keeping the record; gives the exit code."""
        if not process.hostname and process.network != "host":
            process = replace(process, hostname=self.record.id[:12])
        started, ran_out = stdio.on_start, stdio.on_oom

        def on_start(send: Signaller, pid: int) -> None:
            if started is not None:  # first: signals that come while we write are for the program
                started(send, pid)
            self.update(
                state="running", pid=pid, exit_code=0, error="", started=time.time(), finished=0.0, oom_killed=False
            )

        def on_oom() -> None:
            self.update(oom_killed=True)
            if ran_out is not None:
                ran_out()

        lock = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        code = 125
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            code = executor.run(process, mounts, replace(stdio, on_start=on_start, on_oom=on_oom))
            return code
        finally:
            self.update(state="exited", pid=0, exit_code=code, finished=time.time())
            os.close(lock)

    def remove(self) -> None:
        """Delete it and what it wrote, as `--rm` asks."""
        Containers(self._home.parent).remove(self.record.id, force=True)

    def save(self) -> None:
        """Write the record; atomic."""
        aside = self._home / f"record.{os.getpid()}.{threading.get_ident()}"
        try:
            aside.write_text(json.dumps({one.name: getattr(self.record, one.name) for one in fields(self.record)}))
            aside.replace(self._home / "record.json")
        except FileNotFoundError:
            pass  # removed by force meanwhile
        except OSError as error:
            raise StoreError(f"cannot write {aside}: {error.strerror}") from None

    def update(self, **changes: Any) -> None:
        """Change fields of the record, on disk too."""
        self.record = replace(self.record, **changes)
        self.save()


def _some_name() -> str:
    number, left = divmod(int.from_bytes(os.urandom(8)), len(_LEFT))
    number, right = divmod(number, len(_RIGHT))
    return f"{_LEFT[left]}_{_RIGHT[right]}{number % 1000}"


def _check_name(name: str) -> None:
    if name and not _NAME.fullmatch(name):
        raise InvalidInput(f"invalid container name {name!r}: letters, digits and _.- are allowed")


def _load(home: Path) -> ContainerRecord | None:
    try:
        fields = json.loads((home / "record.json").read_text())
        record = ContainerRecord(**{**fields, "command": tuple(fields["command"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if record.state == "running" and not _is_locked(home):
        return replace(record, state="exited", pid=0, exit_code=137, finished=record.finished or record.started)
    return record


def _is_locked(home: Path) -> bool:
    try:
        fd = os.open(home / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def _delete(home: Path) -> None:
    """Delete a tree whatever the container did to its modes (overlayfs's own work directory has none)."""
    import shutil  # slow to import

    (home / "record.json").unlink(missing_ok=True)
    try:
        for top, directories, _ in os.walk(home):
            for name in directories:
                if not os.path.islink(os.path.join(top, name)):
                    os.chmod(os.path.join(top, name), 0o700)
        shutil.rmtree(home)
    except FileNotFoundError:
        return  # somebody else deletes it, too
    except OSError as error:
        raise StoreError(f"cannot delete {home}: {error.strerror}") from None
