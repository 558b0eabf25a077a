"""Builds under way: who asked, what they tell, what they made so far, and how they are stopped.

Owns the life of a build from request to record. Does not know how anything is solved (`solving`), exported
(`exporting`) or asked (`control`, `gateway`).
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from kedge.builder.course import Solved
from kedge.builder.parts import GoesOut, Late, Parts
from kedge.builder.request import BuildRequest
from kedge.daemon.buildkit.attributes import cache_spec
from kedge.daemon.buildkit.bridge import Bridge
from kedge.daemon.buildkit.caches import LentCaches
from kedge.daemon.buildkit.config import ServiceConfig
from kedge.daemon.buildkit.definition import decode_edge
from kedge.daemon.buildkit.errors import NotGranted, Refused, UnknownRef
from kedge.daemon.buildkit.given import Given
from kedge.daemon.buildkit.makers import Makers
from kedge.daemon.buildkit.policy import Policy, read_policies
from kedge.daemon.buildkit.progress import EventLog
from kedge.daemon.buildkit.told import Told
from kedge.daemon.buildkit.verdicts import Verdicts
from kedge.daemon.peer import Peer
from kedge.daemon.sessions.layouts import LentLayouts
from kedge.daemon.sessions.lent import LentSession
from kedge.daemon.sessions.registry import Sessions
from kedge.daemon.wire import policysession
from kedge.daemon.wire.calls import Calls
from kedge.dockerfile.outline import Outline
from kedge.dockerfile.target import Target
from kedge.model.errors import Cancelled, Conflict
from kedge.model.graph import Snapshot
from kedge.model.image import ImageConfig
from kedge.model.platform import Platform
from kedge.model.value import dataclass, field, replace
from kedge.sandbox.process import Executor
from kedge.solver.trunk import Trunk
from kedge.sources.git import Named
from kedge.sources.http import Found
from kedge.sources.once import Once
from kedge.storage.store import Store

_LONGEST_REF: Final = 128
_KEPT: Final = 64  # finished builds whose events can still be heard, if they are no more than so many
_KEPT_BYTES: Final = 64 << 20
_WRITTEN: Final = ("oci", "docker", "tar", "local")  # exporters that take the bytes of every layer
_NOTHING: Final = Outline("", "", (), (), (), "")
_PATIENCE: Final = 10.0  # seconds that a listener waits for a build to be asked for


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stage or graph, number `index` of the request that it is a part of, and its files. `definition` is the graph as
    a driver gave it, where one did.
    """

    target: Target
    origin: "Origin"
    index: int = 0
    definition: Any = None

    @property
    def snapshot(self) -> Snapshot:
        """The files: solved when they are first asked for. Raises what the solving raises."""
        return self.origin.solved.snapshots[self.index]

    @property
    def store(self) -> Store:
        """The store to read the files from: what a client lends is known to the one that received it only."""
        self.origin.solved  # noqa: B018 - by which parts is known from then on
        return self.origin.parts.store


class Origin:
    """One request: its parts, still open, and all that it comes to once somebody needs it. Thread-safe."""

    def __init__(self, parts: Parts, solve: Callable[["Origin"], Solved]) -> None:
        self.parts, self._solve = parts, solve  # solving may take other parts
        self._lock = threading.Lock()
        self._solved: Solved | None = None
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None

    @property
    def solved(self) -> Solved:
        """What it came to; solved once, and an error is raised to everybody who asks."""
        with self._lock:
            if self._error is not None:
                raise self._error.with_traceback(self._trace)  # else each raising would make it longer
            if self._solved is None:
                try:
                    self._solved = self._solve(self)
                except BaseException as error:
                    self._error, self._trace = error, error.__traceback__
                    raise
                finally:
                    rest(self.parts)
            return self._solved


def rest(parts: Parts) -> None:
    """Let the parts hold no more than they must until their next use: a driver may have solved a thousand times."""
    made = vars(parts)
    if "store" in made:
        parts.store.rest()
    if "registry" in made:
        parts.registry.close()  # its idle connections


def outcome_of(parts: Parts, snapshot: Snapshot) -> Outcome:
    """Files of which nothing more is known."""
    target = empty_target(parts.host)
    return Outcome(target, Origin(parts, lambda origin: Solved((target,), (snapshot,))))


def empty_target(platform: Platform) -> Target:
    """A stage of which nothing is known but its platform."""
    return Target(None, ImageConfig(platform), _NOTHING)


@dataclass
class Result:
    """What a frontend or a graph came to. `outcomes` by platform, by "" if there is only one; None is scratch.

    `attestations` are by the same keys.
    """

    outcomes: dict[str, Outcome | None] = field(default_factory=dict)
    metadata: dict[str, bytes] = field(default_factory=dict)
    attestations: dict[str, tuple[Given, ...]] = field(default_factory=dict)

    @property
    def is_single(self) -> bool:
        return set(self.outcomes) <= {""}

    def evaluate(self) -> None:
        """Solve what was only promised so far. Raises what the solving raises."""
        for outcome in self.outcomes.values():
            if outcome is not None:
                outcome.snapshot  # noqa: B018 - asking for it makes it


class Job:
    """One build."""

    def __init__(
        self, config: ServiceConfig, sessions: Sessions, request: Any, peer: Peer, registry: Callable[[], None]
    ) -> None:
        self.ref: str = request.Ref
        self.request, self.peer, self.config = request, peer, config
        self.created = time.time()
        self.log = EventLog()
        self.makers = Makers()  # the service's, once the build is known to it
        self.granted = self._grant(request.Entitlements)
        self.cache_to = tuple(cache_spec(one.Type, one.Attrs) for one in request.Cache.Exports)
        self.cache_from = tuple(cache_spec(one.Type, one.Attrs) for one in request.Cache.Imports)
        self.told = Told()  # what its record tells of the result
        self._changed = threading.Condition()
        self._stopped, self._finished = False, False
        self._parts: list[Parts] = []
        self._sessions, self._on_finish = sessions, registry
        session = sessions.get(request.Session, peer) if request.Session else None  # before anything needs a close
        self.store = _protecting_store(config)
        self.lent = LentSession(session, self.store, lambda other: sessions.get(other, peer))
        self.broken: set[str] = set()  # caches that did not keep what they promised
        self._urls: Once[Found] = Once()
        self._refs: Once[Named] = Once()
        self._policies = (request.SourcePolicy,) if request.HasField("SourcePolicy") else ()
        self.bridge = Bridge(self, request.FrontendInputs)  # the client's, if it drives
        self._bridges = [self.bridge]
        self.caches = LentCaches(self.store, lambda: self.lent.session, self.cache_to)
        self._executor = Late(self._new_executor)  # one for all parts: each has a process of its own
        self._leave_session = session.on_close(self.stop) if session else lambda: None

    def _grant(self, wanted: Any) -> tuple[str, ...]:
        for name in wanted:
            if not self.config.grants(name):
                raise NotGranted(f"granting entitlement {name[:60]} is not allowed by build daemon configuration")
        return tuple(dict.fromkeys(wanted))

    def _new_executor(self) -> Executor:
        from kedge.sandbox.linux import LinuxExecutor

        return LinuxExecutor(self.store.root / "sandbox", self.config.settings.sandbox.process_sandbox)

    # ---- solving -----------------------------------------------------------------------------------------------------

    def parts(self, request: BuildRequest, policies: Sequence[Any] = (), policed: bool = True) -> Parts:
        """The parts of one piece of the build, open until the build ends; `stop` stops them. Raises Cancelled.

        Those that are not `policed` are for who decides about sources.
        """
        request = replace(
            request,
            store=self.store.root,
            entitlements=self.granted,
            max_parallelism=self.config.max_parallelism,
        )
        parts = Parts(request, self.lent, self.log.report, self.broken)
        parts.goes_out = self._goes_out()
        parts.settings = self.config.settings
        parts.decode = decode_edge
        parts.trust = "none" if self.config.images_are_cache else "names"
        parts.recorded_times = self.config.recorded_times
        parts.keeps_replaced = any(one.Type == "moby" for one in self.request.Exporters)  # Docker's: its clients prune
        parts.urls, parts.refs = self._urls, self._refs
        if policed:
            parts.policy = self._policy(policies)
        layouts: Any = LentLayouts(self.store, parts.host, self.lent.lender)
        parts.layouts = parts.lent_blobs = layouts
        executor: Any = self._executor
        parts.executor = executor
        with self._changed:
            if self._stopped or self._finished:
                raise Cancelled("the build was stopped")
            self._parts.append(parts)
        return parts

    def _goes_out(self) -> GoesOut:
        told = self.request
        asked = [(one.Type, one.Attrs) for one in told.Exporters]
        asked = asked or [(told.ExporterDeprecated, told.ExporterAttrsDeprecated)]
        if any(kind in _WRITTEN for kind, _ in asked):
            return "whole"
        return "to a registry" if any(attrs.get("push", "") for _, attrs in asked) else "not"

    def _policy(self, policies: Sequence[Any]) -> Policy | None:
        """What holds for sources: the request's rules, these, and what the client's session decides."""
        rules = read_policies((*self._policies, *policies))
        id = self.request.SourcePolicySession
        if not id:
            return rules
        from kedge.daemon.buildkit.metadata import resolve_source

        def calls() -> Calls:
            return self._sessions.get(id, self.peer).calls(policysession.services["PolicyVerifier"])

        return Verdicts(calls, rules, lambda request: resolve_source(self, request, policed=False))

    def again(self, parts: Parts, request: BuildRequest) -> Parts:
        """The same parts, for one more run with another request."""
        with self._changed:
            if self._stopped:
                raise Cancelled("the build was stopped")
            parts.trunk = Trunk(parts.trunk.cancel)
            parts.request = request
        return parts

    def add(self, bridge: Bridge) -> None:
        """One more driver, which ends with the build. Raises Cancelled."""
        with self._changed:
            if self._stopped or self._finished:
                raise Cancelled("the build was stopped")
            self._bridges.append(bridge)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop everything; from any thread, idempotent. Nothing happens to a build that has ended."""
        with self._changed:
            if self._finished:
                return
            self._stopped = True
            parts, bridges = list(self._parts), list(self._bridges)
        for bridge in bridges:
            bridge.stop()
        for one in parts:
            one.trunk.stop()

    def finish(self) -> None:
        """The build has ended: listeners hear so, directories and the store are free."""
        with self._changed:
            if self._finished:
                return
            self._finished = True
            parts, self._parts = self._parts, []
        with ExitStack() as ending:  # the last one first; what fails on a full disk keeps none of the others
            ending.callback(self._on_finish)
            ending.callback(self.log.close)
            ending.callback(self.store.close)
            ending.callback(self.lent.close)
            ending.callback(self.caches.close)
            ending.callback(self._executor.close)
            for one in parts:
                ending.callback(one.__exit__)
            for bridge in self._bridges:
                ending.callback(bridge.close)
            ending.callback(self._leave_session)

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes when it has ended."""
        return self.log.size + int(self.request.ByteSize())


def _protecting_store(config: ServiceConfig) -> Store:
    """The store, which keeps from now on what the build will use."""
    store = Store.open(config.root)
    try:
        store.protect()
    except BaseException:
        store.close()
        raise
    return store


class Jobs:
    """All builds of the service, and those that ended just now."""

    def __init__(self, config: ServiceConfig, sessions: Sessions, ended: Callable[[], None] = lambda: None) -> None:
        self._config, self._sessions, self._ended = config, sessions, ended
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._running: set[str] = set()
        self._makers = Makers()
        self._changed = threading.Condition()
        self._closed = False

    def start(self, request: Any, peer: Peer) -> Job:
        """A new build; raises Refused, Conflict, NotFound, NotGranted."""
        ref = request.Ref
        if (
            not ref
            or len(ref) > _LONGEST_REF
            or not ref.isascii()
            or not ref.replace("-", "").replace("_", "").isalnum()
        ):
            raise Refused("a build needs a ref of letters, digits, - and _")
        with self._changed:
            if self._closed:
                raise Cancelled("the service is stopping")
            if ref in self._running:
                raise Conflict(f"a build {ref[:40]} is running already")
            if ref in self._jobs and self._jobs[ref].peer.realm != peer.realm:
                raise Conflict(f"a build {ref[:40]} is known already")
            self._running.add(ref)
        try:
            job = Job(self._config, self._sessions, request, peer, lambda: self._end(ref))
        except BaseException:
            self._end(ref)
            raise
        job.makers = self._makers
        with self._changed:
            self._jobs[ref] = job
            self._jobs.move_to_end(ref)
            self._changed.notify_all()
        return job

    def _end(self, ref: str) -> None:
        with self._changed:
            self._running.discard(ref)
            self._forget_old()
            self._changed.notify_all()
        self._ended()

    def _forget_old(self) -> None:
        """Keep some of the builds that ended, for who listens late; their records have what they told, too."""
        size = 0
        finished = [name for name in self._jobs if name not in self._running]
        for number, name in enumerate(reversed(finished)):
            size += self._jobs[name].size
            if number >= _KEPT or (number and size > _KEPT_BYTES):
                del self._jobs[name]

    def get(self, ref: str, peer: Peer, patience: float = _PATIENCE) -> Job:
        """A build under way, or ended just now; waits a little for it to begin. Raises UnknownRef."""
        end = time.monotonic() + patience
        with self._changed:
            while True:
                job = self._jobs.get(ref)
                if job is not None and job.peer.realm == peer.realm:
                    return job
                left = end - time.monotonic()
                if left <= 0:
                    raise UnknownRef(f"no such job {ref[:40]}")
                self._changed.wait(left)

    def running(self) -> list[Job]:
        """Builds under way."""
        with self._changed:
            return [self._jobs[ref] for ref in self._running if ref in self._jobs]

    def close(self, patience: float) -> None:
        """Let builds end for so many seconds, then stop them."""
        end = time.monotonic() + patience
        with self._changed:
            self._closed = True
            while self._running and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
        for job in self.running():
            job.stop()
        end = time.monotonic() + 10
        with self._changed:
            while self._running and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)


def root_of(config: ServiceConfig) -> Path:
    """Where the service keeps what is not the store's."""
    return config.root / "service"
