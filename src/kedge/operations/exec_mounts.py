"""The mounts of an exec op, from values of the graph to values of the sandbox.

Owns what each kind of mount is made of and what becomes of it afterwards: committed as a result, kept (cache), or
thrown away. Does not know the process. Everything opened here is closed by the ExitStack it is given.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.model.digest import digest_of
from kedge.model.errors import InvalidInput, NotFound
from kedge.model.graph import Snapshot, Vertex
from kedge.model.ops import NO_INPUT, NO_OUTPUT, Exec, Mount
from kedge.model.value import dataclass, field
from kedge.sandbox.process import Content, HostPath, MountPoint, MountSource, Overlay, SocketAt, Tmpfs
from kedge.session.session import Session
from kedge.sources.handler import Work

if TYPE_CHECKING:
    from kedge.storage.layers import Draft
    from kedge.storage.store import Store


@dataclass
class Prepared:
    """The mounts of one run. `drafts` holds, by output index, what is committed if the process ends well; `written` by
    the mounts' own numbers all that the process can write to.
    """

    points: list[MountPoint] = field(default_factory=list)
    drafts: dict[int, "tuple[Snapshot, Draft]"] = field(default_factory=dict)
    unchanged: dict[int, Snapshot] = field(default_factory=dict)
    written: dict[int, "tuple[Snapshot, Draft]"] = field(default_factory=dict)
    caches: dict[tuple[str, str], HostPath] = field(default_factory=dict)

    def commit(self, description: str) -> list[Snapshot]:
        """The results, in the order of their numbers."""
        made = {number: (*base, draft.commit(description)) for number, (base, draft) in self.drafts.items()}
        results = made | self.unchanged
        return [results[number] for number in sorted(results)]

    def left(self, mounts: Sequence[Snapshot | None]) -> tuple[Snapshot | None, ...]:
        """What became of what was mounted, also where no result is made of it; instead of `commit`."""
        made = {number: (*base, draft.commit()) for number, (base, draft) in self.written.items()}
        return tuple(made.get(number, snapshot) for number, snapshot in enumerate(mounts))


class Preparer:
    """Prepares the mounts of exec ops of one build. Thread-safe."""

    def __init__(self, store: "Store", session: Session) -> None:
        self._store, self._session = store, session

    def prepare(self, op: Exec, inputs: Sequence[Snapshot], stack: ExitStack, work: Work) -> Prepared:
        """Everything to be mounted for `op`. Raises NotFound for a secret or agent that was not lent."""
        prepared = Prepared()
        for number, mount in enumerate(op.mounts):
            if not NO_INPUT <= mount.input < len(inputs):
                raise InvalidInput(f"the mount at {mount.dest} refers to input {mount.input}, which does not exist")
            snapshot = () if mount.input == NO_INPUT else inputs[mount.input]
            source = self._source(number, mount, snapshot, prepared, stack, work)
            if source is not None:
                # A cache's selector was resolved when the cache was filled: nothing that a step can change meanwhile is
                # resolved while mounting (CVE-2024-23651).
                selector = mount.selector if mount.kind == "bind" else ""
                prepared.points.append(MountPoint(mount.dest, source, selector, mount.readonly))
        return prepared

    def _source(
        self, number: int, mount: Mount, snapshot: Snapshot, prepared: Prepared, stack: ExitStack, work: Work
    ) -> MountSource | None:
        match mount.kind:
            case "bind":
                return self._bind(number, mount, snapshot, prepared, stack)
            case "cache":
                return self._cache(mount, snapshot, prepared, stack, work)
            case "tmpfs":
                return Tmpfs(mount.tmpfs.size if mount.tmpfs else 0, None)
            case "secret":
                return self._secret(mount)
            case "ssh":
                return self._ssh(mount, stack)

    def _bind(self, number: int, mount: Mount, snapshot: Snapshot, prepared: Prepared, stack: ExitStack) -> MountSource:
        layers = self._store.layers
        if mount.output != NO_OUTPUT:
            snapshot = layers.kept(snapshot)
        if mount.readonly and mount.output != NO_OUTPUT:
            prepared.unchanged[mount.output] = snapshot
        if mount.readonly and snapshot:
            return Overlay(tuple(map(str, layers.directories(snapshot))))
        # Also where nothing is kept: writes go to a layer that is thrown away, never to what was mounted
        # (CVE-2025-4953). An overlay of nothing but that is what scratch is mounted as: there is none without a layer.
        draft = stack.enter_context(layers.draft(snapshot))
        prepared.written[number] = (snapshot, draft)
        if mount.output != NO_OUTPUT and not mount.readonly:
            prepared.drafts[mount.output] = (snapshot, draft)
        return Overlay(tuple(map(str, draft.lowers)), str(draft.upper), str(draft.work))

    def _cache(self, mount: Mount, snapshot: Snapshot, prepared: Prepared, stack: ExitStack, work: Work) -> MountSource:
        options = mount.cache
        if options is None:
            raise InvalidInput(f"the cache mount at {mount.dest} has no options")
        prepare = None
        base = ""
        if mount.input != NO_INPUT:
            base = digest_of((snapshot, mount.selector))

            def prepare(directory: Path) -> None:
                self._fill(directory, snapshot, mount.selector)

        id = cache_id(mount)
        if (id, base) not in prepared.caches:  # else this step holds it already, and would wait for itself
            used = self._store.cache_mounts.use(id, options.sharing, base=base, prepare=prepare, cancel=work.cancel)
            prepared.caches[id, base] = HostPath(str(stack.enter_context(used)))
        return prepared.caches[id, base]

    def _fill(self, directory: Path, snapshot: Snapshot, selector: str) -> None:
        """What a new cache begins with: the content of the selected directory, and its owner and mode."""
        from kedge.kernel.paths import open_in_root
        from kedge.model.ops import Copy
        from kedge.storage.copy import copy

        selector = selector or "/"
        with self._store.layers.mounted(snapshot) as tree, _opened(directory) as fd:
            copy(Copy(selector, "/", follow_symlinks=True, contents_only=True, create_dest_path=True), tree, fd)
            try:
                source = open_in_root(tree.fd, selector, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                return  # a file: it became the cache's only content
            try:
                _take_owner(source, fd)
            finally:
                os.close(source)

    def _secret(self, mount: Mount) -> MountSource | None:
        options = mount.secret
        if options is None:
            raise InvalidInput(f"the secret mount at {mount.dest} has no options")
        data = self._session.secret(options.id)
        if data is None:
            if options.optional:
                return None
            raise missing_secret(options.id)
        return Content(data, options.mode, options.uid, options.gid)

    def _ssh(self, mount: Mount, stack: ExitStack) -> MountSource | None:
        options = mount.ssh
        if options is None:
            raise InvalidInput(f"the ssh mount at {mount.dest} has no options")
        path = stack.enter_context(self._session.ssh(options.id, options.uid, options.gid, options.mode))
        if path is None:
            if options.optional:
                return None
            raise NotFound(
                f"no SSH agent was lent under the id {options.id!r}", hint=f"Run the build with --ssh {options.id}."
            )
        return SocketAt(str(path))


def cache_id(mount: Mount) -> str:
    """The id of a cache mount: its own, else where it is mounted."""
    return (mount.cache.id if mount.cache else "") or mount.dest


def caches_of(vertices: Iterable[Vertex]) -> set[str]:
    """The ids of the caches that these vertices mount."""
    ops = (vertex.op for vertex in vertices)
    return {cache_id(mount) for op in ops if isinstance(op, Exec) for mount in op.mounts if mount.kind == "cache"}


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _take_owner(source: int, target: int) -> None:
    from kedge.storage import ownership

    status, how = os.fstat(source), ownership.policy()
    uid, gid = status.st_uid, status.st_gid
    with suppress(OSError):
        kept = ownership.decode(os.getxattr(source, ownership.OWNER_XATTR), uid, gid, how)
        uid, gid = (kept.uid, kept.gid) if kept else (uid, gid)
    ownership.give(target, uid, gid, how)
    os.fchmod(target, stat.S_IMODE(status.st_mode))


def missing_secret(id: str) -> NotFound:
    """The error for a secret that a step needs and nobody lent."""
    return NotFound(f"no secret was lent under the id {id!r}", hint=f"Run the build with --secret id={id},src=FILE.")
