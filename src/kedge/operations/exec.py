"""Exec ops: a process in a root file system with mounts.

Owns what such a step is cached by, its environment and user, its output on the way to log and screen, and how its end
is judged. Does not know namespaces or overlays: that is the sandbox.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING

from kedge.model.cachekey import CacheMap, Selection, Selections
from kedge.model.digest import digest_of
from kedge.model.errors import InvalidInput, StepFailed
from kedge.model.event import Report
from kedge.model.graph import Snapshot, Vertex
from kedge.model.ops import NO_INPUT, NO_OUTPUT, Exec, Mount, SecretEnv
from kedge.model.remains import Remains
from kedge.model.value import dataclass, replace
from kedge.operations.entitlements import Entitlements
from kedge.operations.machine import Machine
from kedge.session.session import Session
from kedge.solver.trunk import Trunk
from kedge.sources.handler import Work
from kedge.sources.once import Once

if TYPE_CHECKING:
    from kedge.operations.exec_mounts import Prepared, Preparer
    from kedge.sandbox.process import Executor, Limits, Process
    from kedge.storage.logs import LogWriter
    from kedge.storage.store import Store
    from kedge.storage.users import User

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TAIL = 16 << 10  # bytes of a failed step's output that its error carries


@dataclass(frozen=True, slots=True)
class StepPolicy:
    """What all steps of a build are held to: the limits of each, how many run at once (0: any number), and whether the
    tree of one that failed is kept, for one who looks into it.
    """

    limits: "Limits | None" = None
    most: int = 0
    keeps_remains: bool = False


class ExecOperation:
    """Operation for Exec. Without a policy any number of steps run at once, since they wait more than they compute."""

    def __init__(
        self,
        trunk: Trunk,
        store: "Store",
        executor: "Executor",
        session: Session,
        report: Report,
        entitlements: Entitlements,
        machine: Machine,
        policy: "StepPolicy | None" = None,
    ) -> None:
        policy = policy or StepPolicy()
        self._trunk, self._store, self._executor, self._session = trunk, store, executor, session
        self._report, self._entitlements, self._limits = report, entitlements, policy.limits
        self._machine = machine
        self._users = Once["User"]()  # stages side by side have one base, and one user in it
        self._keeps_remains = policy.keeps_remains
        self._turns = threading.Semaphore(policy.most) if policy.most else None

    async def cache_map(self, vertex: Vertex) -> CacheMap:
        """By the command and all that it can see; inputs that leave no trace in a result count by content."""
        op = _exec(vertex)
        inputs = tuple(_selections(op, index) for index in range(len(vertex.inputs)))
        return CacheMap(digest_of((_essence(op), vertex.platform)), inputs, tuple(_labels(op)))

    async def run(self, vertex: Vertex, inputs: Sequence[Snapshot]) -> list[Snapshot]:
        """Run the process; its outputs' snapshots. Raises StepFailed, and then keeps nothing but the log."""
        return await self._trunk.call(self._run, vertex, list(inputs))

    def _run(self, vertex: Vertex, inputs: list[Snapshot]) -> list[Snapshot]:
        op, work = _exec(vertex), Work(vertex.digest, self._report, self._trunk.cancel)
        self._entitlements.require(vertex)
        self._machine.require(vertex.platform, lambda: self._starts_own_program(op, inputs))
        with ExitStack() as stack:
            if self._turns:
                _wait_for_turn(self._turns, work)
                stack.callback(self._turns.release)
            user = self._user(op, inputs)
            prepared = self._preparer.prepare(op, inputs, stack, work)
            process = self._process(op, user)
            if op.devices:
                from kedge.operations.devices import edits_for

                edits = edits_for(op.devices)
                prepared.points += edits.mounts
                process = replace(process, env=(*process.env, *edits.env))
            log = stack.enter_context(self._store.logs.writer(vertex.digest, vertex.hints.name))
            code, tail = self._execute(process, prepared, log, work)
            if code not in op.valid_exit_codes:
                failure = _failure(vertex, op, code, tail)
                if self._keeps_remains:
                    failure.remains = self._remains(vertex, inputs, prepared)
                raise failure
            return prepared.commit(vertex.hints.name)

    @cached_property
    def _preparer(self) -> "Preparer":
        from kedge.operations.exec_mounts import Preparer  # not for a cached build

        return Preparer(self._store, self._session)

    def _remains(self, vertex: Vertex, inputs: list[Snapshot], prepared: "Prepared") -> Remains:
        kept = [self._store.layers.kept(snapshot) for snapshot in inputs]
        before = tuple(None if m.input == NO_INPUT else kept[m.input] for m in _exec(vertex).mounts)
        return Remains(vertex, before, prepared.left(before))

    def _execute(self, process: "Process", prepared: "Prepared", log: "LogWriter", work: Work) -> tuple[int, bytes]:
        from kedge.sandbox.process import Stdio

        tail = bytearray()

        def output(stream: int, data: bytes) -> None:
            log.write(data)
            work.log(data, stream)
            tail.extend(data)
            del tail[: max(0, len(tail) - TAIL)]

        def note(text: str) -> None:
            output(2, f"kedge: {text}\n".encode())

        stdio = Stdio(output=output, note=note, on_oom=lambda: note(process.limits.exhausted))
        with ExitStack() as watches:
            for _, draft in prepared.drafts.values():
                watches.enter_context(draft.watched(work.cancel.set))
            code = self._executor.run(process, tuple(prepared.points), stdio, work.cancel)
        work.check()
        return code, bytes(tail)

    def _user(self, op: Exec, inputs: Sequence[Snapshot]) -> "User":
        """Who runs the step, read from the image by our own parser before anything of it is entered."""
        from kedge.storage.users import resolve_user

        if op.root.input == NO_INPUT:
            return resolve_user(None, op.user)
        root = inputs[op.root.input]

        def resolve() -> "User":
            with self._store.layers.mounted(root) as tree:
                return resolve_user(tree, op.user)

        return self._users.ask((root, op.user), resolve)

    def _starts_own_program(self, op: Exec, inputs: Sequence[Snapshot]) -> bool:
        from kedge.operations.programs import starts_own_program

        if op.root.input == NO_INPUT:
            return False
        with self._store.layers.mounted(inputs[op.root.input]) as tree:
            return starts_own_program(tree.fd, op, DEFAULT_PATH)

    def _process(self, op: Exec, user: "User") -> "Process":
        from kedge.sandbox.process import Process

        process = Process(
            args=op.args,
            env=self._environment(op, user),
            cwd=op.cwd or "/",
            uid=user.uid,
            gid=user.gid,
            groups=_groups(user),
            hostname=op.hostname,
            network=op.network,
            security=op.security,
            extra_hosts=op.extra_hosts,
            ulimits=op.ulimits,
            shm_size=op.shm_size,
            cgroup_parent=op.cgroup_parent,
            # Root has nothing to gain from a set-user-id program. Others get what Docker gives them: `sudo` in a RUN
            # after USER is common, and makes no more of a step than USER root would.
            no_new_privileges=user.uid == 0,
        )
        return replace(process, limits=self._limits) if self._limits else process

    def _environment(self, op: Exec, user: "User") -> tuple[str, ...]:
        """The op's own, then proxies, defaults and secrets. The order is BuildKit's: a later entry of a name counts."""
        env = [*op.env]
        names = {entry.partition("=")[0] for entry in env}
        env += [f"{name}={value}" for name, value in op.proxy_env if name not in names]
        env += [f"{name}={value}" for name, value in (("PATH", DEFAULT_PATH), ("HOME", user.home)) if name not in names]
        return (*env, *secret_variables(self._session, op.secret_env))


def secret_variables(session: "Session", asked: "Iterable[SecretEnv]") -> "Iterator[str]":
    """Secrets as entries of an environment. Raises NotFound for one that is required, InvalidInput for a NUL byte.

    One that nobody lent is set to nothing, as in BuildKit: it hides what the image may have there.
    """
    for secret in asked:
        data = session.secret(secret.id)
        if data is None and not secret.optional:
            from kedge.operations.exec_mounts import missing_secret

            raise missing_secret(secret.id)
        if data is not None and b"\0" in data:
            raise InvalidInput(f"the secret {secret.id!r} has a NUL byte and cannot be a variable")
        yield f"{secret.name}={(data or b'').decode('utf-8', 'surrogateescape')}"


def _groups(user: "User") -> tuple[int, ...]:
    """The supplementary groups end with the user's own, as in BuildKit."""
    return tuple(dict.fromkeys((*user.groups, user.gid)))


def _wait_for_turn(turns: threading.Semaphore, work: Work) -> None:
    while not turns.acquire(timeout=0.05):
        work.check()


def _failure(vertex: Vertex, op: Exec, code: int, tail: bytes) -> StepFailed:
    command = " ".join(op.args)
    hint = "It was killed: memory may have run out." if code == 137 else ""
    return StepFailed(
        f'process "{command}" did not complete successfully: exit code: {code}',
        exit_code=code,
        tail=tail,
        location=vertex.hints.location,
        stage=vertex.hints.stage,
        hint=hint,
    )


# ---- what a step is known by -----------------------------------------------------------------------------------------


def _essence(op: Exec) -> Exec:
    """The op without what must not decide: proxies, the addresses of hosts, ids of caches (as in BuildKit)."""
    mounts = tuple(replace(mount, cache=None, by_content=False) for mount in op.mounts)
    return replace(op, proxy_env=(), mounts=mounts, extra_hosts=tuple((name, "") for name, _ in op.extra_hosts))


def _selections(op: Exec, index: int) -> Selections | None:
    """The files of input `index` that decide: all mounted paths, unless it is the root or becomes part of a result."""
    mounts = [mount for mount in op.mounts if mount.input == index]
    if not mounts or not all(map(_leaves_no_trace, mounts)):
        return None
    return tuple(dict.fromkeys(Selection("/" + mount.selector.lstrip("/"), follow=True) for mount in mounts))


def _leaves_no_trace(mount: Mount) -> bool:
    return mount.kind == "bind" and mount.dest != "/" and mount.output == NO_OUTPUT


def _labels(op: Exec) -> list[tuple[str, str]]:
    labels = [("command", " ".join(op.args)), ("user", op.user), ("working directory", op.cwd), ("network", op.network)]
    for entry in op.env:
        name, _, value = entry.partition("=")
        # Only the digest of a value: build arguments may be tokens, and these labels are kept in the store.
        labels.append((f"variable {name}", f"value {digest_of(value)[7:15]}"))
    labels += [
        (f"mount {mount.dest}", f"{mount.kind} {mount.selector}".strip()) for mount in op.mounts if mount.dest != "/"
    ]
    return [(name, text) for name, text in labels if text]


def _exec(vertex: Vertex) -> Exec:
    assert isinstance(vertex.op, Exec)
    return vertex.op
