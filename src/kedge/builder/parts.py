"""The real parts of one build, made on first need: a fully cached build needs few of them.

Owns construction and lifetime. Does not know the order of a build.
"""

import os
import threading
import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from kedge.builder.remote import RemoteRequest
from kedge.builder.request import BuildRequest
from kedge.model.errors import KedgeError, NotFound
from kedge.model.event import Report
from kedge.model.ops import Build, Diff, Exec, File, Merge, Op, Passthrough, Source
from kedge.model.platform import Platform, of_machine
from kedge.model.trust import Trust
from kedge.model.value import replace
from kedge.operations.build import BuildOperation, Decode
from kedge.operations.content import Content
from kedge.operations.diff import DiffOperation
from kedge.operations.entitlements import Entitlements
from kedge.operations.file import FileOperation
from kedge.operations.merge import MergeOperation
from kedge.operations.passthrough import PassthroughOperation
from kedge.operations.source import SourceOperation
from kedge.session.session import EVERYTHING, Progress, Session, Wanted, untold
from kedge.solver.contracts import Operation
from kedge.solver.explain import Scope
from kedge.solver.solver import Solver
from kedge.solver.trunk import Trunk
from kedge.sources.handler import Pin, SourceHandler
from kedge.sources.once import Once
from kedge.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kedge.builder.caches import Caches
    from kedge.builder.definition import Definition
    from kedge.model.graph import Vertex
    from kedge.model.image import Descriptor
    from kedge.model.patterns import IgnoreFile
    from kedge.model.reference import Reference
    from kedge.model.settings import Settings
    from kedge.registry.client import Registry
    from kedge.sandbox.process import Executor
    from kedge.sources.blob import Blobs
    from kedge.sources.git import Named
    from kedge.sources.http import Found
    from kedge.sources.image import ImageSource
    from kedge.sources.oci_layout import OciLayoutSource
    from kedge.sources.policed import Policy
    from kedge.storage.blobs import BlobWriter
    from kedge.storage.unpacking import FetchProgress


Part = TypeVar("Part")
GoesOut: TypeAlias = Literal["not", "to a registry", "whole"]  # how what was solved leaves the store
_NOT_REMOTE = RemoteRequest()


class Late:
    """Stands for an object until one of its attributes is asked for; then it is made, once."""

    def __init__(self, make: "Callable[[], Any]") -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Any = None

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make()
        return getattr(self._made, name)

    def close(self) -> None:
        """Close the object if it was made."""
        if self._made is not None:
            self._made.close()


class Parts:
    """The parts of one build: a context manager that closes those that were made."""

    def __init__(self, request: BuildRequest, session: Session, report: Report, broken: set[str] | None = None) -> None:
        self.request, self.report = request, report
        self.session = Lending(session)
        self.trunk = Trunk()
        self.host: Platform = of_machine(os.uname().machine)
        self.decode: Decode | None = None  # reads the definition in a Build op, where somebody can
        self.policy: Policy | None = None  # what may be used, and what replaces it
        self.keeps_remains = False  # is a failed vertex's tree to be kept, for one who looks into it
        self.trust: Trust = "all"  # what of the store may be used unasked
        self.urls: Once[Found] = Once()  # what URLs are in this build
        self.refs: Once[Named] = Once()  # what refs of git repositories are
        self.lent_blobs: Blobs | None = None  # those of layouts that a service's client lends
        self.keeps_replaced = self.remote.keeps_replaced
        self.recorded_times = False  # without an epoch, do documents carry when the store came to have their layers?
        self._closing = ExitStack()
        self.started = time.time()
        self.definition: Definition | None = None  # once it is read
        self.ignore_files: dict[str, IgnoreFile] = {}  # by the context's name, once they are read
        self.remote_context: tuple[str, str] | None = None  # the URL of a fetched context, and its commit or digest
        self.broken = set() if broken is None else broken  # origins of caches that are not to be asked
        self.goes_out: GoesOut = "not"  # when the build cannot start again any more without a cache
        self.relied_on: set[str] = set()  # origins of caches that bytes were asked of
        self.unkept: set[str] = set()  # those that did not give them
        self.pins: dict[Vertex, Pin] = {}  # what each source was, in every run of these parts

    @property
    def remote(self) -> RemoteRequest:
        """What a service's client asks besides; nothing, where there is no such client."""
        return self.request if isinstance(self.request, RemoteRequest) else _NOT_REMOTE

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @cached_property
    def invocation(self) -> str:
        """A name for this one build."""
        return os.urandom(16).hex()

    def _late(self, make: "Callable[[], Part]") -> "Part":
        """What stands for a part until somebody needs it; closed with the build."""
        late = Late(make)
        self._closing.callback(late.close)
        return cast("Part", late)  # it has all that the part has

    @cached_property
    def settings(self) -> "Settings":
        """What the configuration files say."""
        from kedge.session.settings import load_settings

        return load_settings()

    @cached_property
    def store(self) -> Store:
        """The store; closed with the build, which ends the protection of what it used."""
        store = Store.open(self.request.store, max_size=self.settings.store.max_size)
        self._closing.callback(store.close)
        store.fetch = self._fetch
        store.images.keeps_replaced = self.keeps_replaced
        return store

    @cached_property
    def registry(self) -> "Registry":
        """All registries. A stand-in until somebody needs the network."""

        def make() -> "Registry":
            from kedge.registry.client import Registry

            return Registry(self.settings, self.session.credential, self.trunk.cancel)

        return self._late(make)

    def insecure_registry(self, names: "Sequence[Reference]") -> "Registry":
        """Registries for one push whose certificates are not checked (`registry.insecure=true`)."""
        from kedge.registry.client import Registry

        hosts = {name.registry: replace(self.settings.registry(name.registry), insecure=True) for name in names}
        settings = replace(self.settings, registries={**self.settings.registries, **hosts})
        registry = Registry(settings, self.session.credential, self.trunk.cancel)
        self._closing.callback(registry.close)
        return registry

    @cached_property
    def images(self) -> "ImageSource":
        from kedge.sources.image import ImageSource

        return ImageSource(self.store, self.registry, self.host, self.trust)

    @cached_property
    def layouts(self) -> "OciLayoutSource":
        from kedge.sources.oci_layout import OciLayoutSource

        return OciLayoutSource(self.store, self.host)

    def _fetch(self, origin: str, descriptor: "Descriptor", writer: "BlobWriter", progress: "FetchProgress") -> None:
        from kedge.sources.fetch import CACHE_ORIGIN, store_fetch

        if not origin.startswith(CACHE_ORIGIN):
            store_fetch(self.registry)(origin, descriptor, writer, progress)
            return
        from kedge.builder.patience import not_too_slow

        self.relied_on.add(origin)
        try:
            store_fetch(self._cache_registry)(origin, descriptor, writer, not_too_slow(progress))
        except KedgeError:
            self.unkept.add(origin)
            raise

    def require_cached(self, origin: str, blob: "Descriptor") -> None:
        """Ask whether a cache still has a blob that it promised, without taking it. Raises KedgeError."""
        from kedge.model.reference import parse_repository
        from kedge.sources.fetch import CACHE_ORIGIN

        scheme, _, rest = origin.removeprefix(CACHE_ORIGIN).partition("://")
        if scheme != "docker-image" or self.store.blobs.has(blob.digest):
            return
        try:
            if self._cache_registry.has_blob(parse_repository(rest), blob):
                return
        except KedgeError:
            self.unkept.add(origin)
            raise
        self.unkept.add(origin)
        raise NotFound(f"the cache {rest} has lost {blob.digest}")

    @cached_property
    def caches(self) -> "Caches":
        """The caches from and to elsewhere."""
        from kedge.builder.caches import Caches

        return Caches(self)

    @cached_property
    def _cache_registry(self) -> "Registry":
        """Registries that only hold caches: not waited for as long as those that hold what a build needs."""
        from kedge.builder.caches import impatient
        from kedge.registry.client import Registry

        registry = Registry(impatient(self.settings), self.session.credential, self.trunk.cancel)
        self._closing.callback(registry.close)
        return registry

    @cached_property
    def executor(self) -> "Executor":
        def make() -> "Executor":
            from kedge.builder.ahead import imported_ahead
            from kedge.sandbox.linux import LinuxExecutor

            self._closing.enter_context(imported_ahead())
            return LinuxExecutor(self.store.root / "sandbox", self.settings.sandbox.process_sandbox)

        return self._late(make)

    @cached_property
    def entitlements(self) -> Entitlements:
        return Entitlements(self.request.entitlements)

    def solver(self, scopes: tuple[Scope, ...] = (Scope(""),)) -> Solver:
        """The solver over all operations."""
        content = Content(self.store)
        self.sources = SourceOperation(self.trunk, self._handlers(), self.report, self.pins)
        operations: dict[type[Op], Operation] = {
            Source: self.sources,
            File: FileOperation(self.trunk, self.store, content, self.keeps_remains),
            Merge: MergeOperation(self.trunk, self.store.layers),
            Diff: DiffOperation(self.trunk, self.store.layers),
            Passthrough: PassthroughOperation(),
            Exec: self._exec(),
        }
        solver = Solver(self.trunk, operations, self.store.results, content.checksum, self.report, scopes)
        operations[Build] = BuildOperation(self.trunk, self.store.layers, solver.solve, self.decode)
        return solver

    def _exec(self) -> Operation:
        from kedge.operations.exec import ExecOperation, StepPolicy
        from kedge.operations.machine import Machine

        request, limits = self.request, None
        if request.memory or request.cpus:
            from kedge.sandbox.process import Limits

            limits = Limits(request.memory, request.cpus)
        return ExecOperation(
            self.trunk,
            self.store,
            self.executor,
            self.session,
            self.report,
            self.entitlements,
            Machine(self.host, self.store.root),
            StepPolicy(limits, request.max_parallelism, self.keeps_remains),
        )

    def handler(self, scheme: str) -> SourceHandler:
        """The way to one kind of source."""
        return self._handlers()[scheme]

    def _handlers(self) -> dict[str, SourceHandler]:
        from kedge.sources.local import LocalSource

        def http() -> SourceHandler:
            from kedge.sources.http import HttpSource

            return HttpSource(self.store, self.session, self.urls)

        def git() -> SourceHandler:
            from kedge.sources.git import GitSource

            return GitSource(self.store, self.session, trust=self.trust, asked=self.refs)

        def registry_blobs() -> SourceHandler:
            from kedge.sources.blob import BlobSource, RegistryBlobs

            return BlobSource(self.store, RegistryBlobs(self.registry), self.trust)

        web: Any = Late(http)
        handlers: dict[str, Any] = {
            "docker-image": self.images,
            "local": LocalSource(self.session, self.store.layers),
            "http": web,
            "https": web,
            "git": Late(git),
            "oci-layout": Late(lambda: self.layouts),
            "docker-image+blob": Late(registry_blobs),
        }
        if self.lent_blobs:
            from kedge.sources.blob import BlobSource

            handlers["oci-layout+blob"] = BlobSource(self.store, self.lent_blobs, self.trust)
        if self.policy is not None:
            from kedge.sources.policed import Policed

            return {scheme: Policed(handlers, self.policy) for scheme in handlers}
        return handlers


class Lending:
    """A session that also lends what the builder itself has: the request's directories and fetched contexts."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._directories: dict[str, Path] = {}
        self.secret, self.ssh, self.credential = session.secret, session.ssh, session.credential
        self.upload = session.upload

    def lend(self, name: str, directory: Path) -> None:
        """Lend a directory under a name; before the solving starts."""
        self._directories[name] = directory

    def directory(self, name: str, wanted: Wanted = EVERYTHING, progress: Progress = untold) -> Path:
        """The directory lent under a name; raises NotFound."""
        own = self._directories.get(name)
        if own is None:
            return self._session.directory(name, wanted, progress)
        if not own.is_dir():
            raise NotFound(f"{own} is not a directory" if own.exists() else f"{own} does not exist")
        return own
