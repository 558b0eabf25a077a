"""A build's caches from and to elsewhere: `--cache-from` and `--cache-to`.

Owns when they are read and written, and that neither ever fails a build: what goes wrong becomes a warning. Does not
know formats (`sources.cache`, `exporters.cache`) nor keys (`operations.travelling`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from kedge.builder.patience import STALL, Patient
from kedge.builder.request import CacheSpec
from kedge.builder.steps import step
from kedge.model.cache_document import INLINE_FIELD, Step
from kedge.model.errors import Cancelled, InvalidInput, KedgeError
from kedge.model.event import WarningEvent
from kedge.model.graph import Edge, Snapshot
from kedge.model.value import replace
from kedge.operations.source import SourceOperation
from kedge.operations.travelling import Travelling
from kedge.solver.solver import Solver
from kedge.sources.cache import Cache, open_cache, title
from kedge.sources.fetch import CACHE_ORIGIN
from kedge.sources.handler import Work

if TYPE_CHECKING:
    from kedge.builder.parts import Parts
    from kedge.dockerfile.lower import Target
    from kedge.exporters.assemble import Stage
    from kedge.exporters.cache import CacheTarget
    from kedge.model.settings import Settings
    from kedge.registry.client import Registry

IMPORT_LIMIT = 30.0  # seconds for a cache's documents, all together
_AT_ONCE = 8


class Caches:
    """The caches of one build. `warnings` says what went wrong with them."""

    def __init__(self, parts: "Parts") -> None:
        self._parts = parts
        self.warnings: list[WarningEvent] = []
        self._travelling: Travelling | None = None
        self._steps: list[Step] = []
        self._targets: list[CacheTarget] = []

    # ---- before the solving ------------------------------------------------------------------------------------------

    def read_targets(self) -> None:
        """Check what was asked for. Raises InvalidInput, Unsupported: a mistake is told before anything is done."""
        request = self._parts.request
        for spec in (*request.cache_from, *request.cache_to):
            if spec.kind == "s3":
                from kedge.sources.s3_cache import require_library

                require_library()
        for spec in request.cache_from:
            attributes, needed = dict(spec.attrs), {"local": "src", "s3": "bucket"}.get(spec.kind, "ref")
            if spec.kind not in ("registry", "inline", "local", "s3"):
                raise InvalidInput(f"unknown cache type {spec.kind[:40]!r}")
            if needed != "bucket" and not attributes.get(needed):
                raise InvalidInput(f"a cache of type {spec.kind} needs {needed}=… to be read from")
        if request.cache_to:
            from kedge.exporters.cache import read_target

            self._targets = [read_target(spec.kind, dict(spec.attrs)) for spec in request.cache_to]

    async def prepare(self, solver: Solver, sources: SourceOperation) -> None:
        """Read the caches to import, all at once, and let the solver ask them."""
        caches: list[Cache] = []
        if self._parts.request.cache_from:
            caches = await self._parts.trunk.call(self._import_all)
        self._travelling = Travelling(self._parts.trunk, self._parts.store, sources, self._parts.host, caches)
        self._travelling.bind(solver)
        if caches:
            solver.elsewhere = self._travelling

    def _import_all(self) -> list[Cache]:
        with ThreadPoolExecutor(_AT_ONCE, "cache-from") as pool:
            found = list(pool.map(self._import, self._parts.request.cache_from))
        return [cache for caches in found for cache in caches if cache.origin not in self._parts.broken]

    def _import(self, spec: CacheSpec) -> list[Cache]:
        attributes = dict(spec.attrs)

        def read(work: Work, patient: "Patient[list[Cache]]") -> list[Cache]:
            with self.registry(attributes, patient) as registry:
                return open_cache(spec.kind, attributes, registry)

        return self.attempt(title(spec.kind, attributes), attributes, read, IMPORT_LIMIT) or []

    # ---- after it ----------------------------------------------------------------------------------------------------

    async def collect(self, edges: Sequence[Edge]) -> None:
        """Note what the solved graph has to tell, if anything is to be exported. Keep what will not be there later."""
        if self._travelling and self._parts.request.cache_from:
            await self._parts.trunk.call(self._keep_passing, self._travelling)
        if self._targets and self._travelling:
            self._steps = await self._travelling.steps(edges)

    def _keep_passing(self, travelling: Travelling) -> None:
        """Have the bytes of caches that are here only while the build is: what a service's client lends. Of the others,
        find out what they have lost while the build can still start again without them.
        """
        inside = f"{CACHE_ORIGIN}oci-layout://{self._parts.store.root}/"
        asked = []
        for cache, blob in travelling.used.values():
            if self._parts.goes_out == "whole" or cache.origin.startswith(inside):
                self._parts.store.layers.fetch_blob(blob)
            elif self._parts.goes_out == "to a registry":
                asked.append((cache.origin, blob))
        if asked:
            with ThreadPoolExecutor(_AT_ONCE, "cache-from") as pool:
                list(pool.map(lambda one: self._parts.require_cached(*one), asked))

    def with_inline(self, stage: "Stage") -> "Stage":
        """The stage with a cache in its image's config if one was asked for, without a base's in any case."""
        kept = tuple((name, text) for name, text in stage.config.extra if name != INLINE_FIELD)
        if kept != stage.config.extra:
            stage = replace(stage, config=replace(stage.config, extra=kept))
        if any(target.kind == "inline" for target in self._targets):
            from kedge.exporters.cache import inline

            if text := inline(self._steps, stage.snapshot):
                stage = replace(stage, extra_config=(*stage.extra_config, (INLINE_FIELD, text)))
        return stage

    def export(self, targets: "Sequence[Target]", snapshots: Sequence[Snapshot]) -> dict[str, Any]:
        """Write all caches but inline ones, at the same time. Returns metadata of the build.

        Raises what went wrong only for a cache with ignore-error=false.
        """
        from kedge.exporters.assemble import DEFAULT_EPOCH

        epochs = [target.epoch for target in targets if target.epoch is not None]
        clamp = epochs[0] if epochs else DEFAULT_EPOCH
        written = [target for target in self._targets if target.kind != "inline"]
        if not written:
            return {}
        with ThreadPoolExecutor(len(written), "cache-to") as pool:
            jobs = [pool.submit(self._export, target, snapshots, clamp) for target in written]
            return {key: value for job in jobs for key, value in job.result().items()}

    def _export(self, target: "CacheTarget", snapshots: Sequence[Snapshot], clamp: int) -> dict[str, Any]:
        from kedge.exporters.cache import pack, place_of, send

        def write(work: Work, patient: "Patient[dict[str, Any]]") -> dict[str, Any]:
            packed = pack(self._parts.store, self._steps, snapshots, target, clamp, work)
            if not packed.layers:
                work.status("skipping cache export for empty result", done=True)
                return {}
            if target.kind == "s3":
                from kedge.exporters.s3_cache import send_s3

                send_s3(self._parts.store, packed, target, work, patient.stop)
                return {}
            with self.registry(target.attributes, patient) as registry:
                root = send(self._parts.store, packed, target, place_of(target, registry), work, patient.stop)
            return {"cache.manifest": root.to_json()}

        return self.attempt(target.title, target.attributes, write, 0.0, target.must_succeed) or {}

    # ---- never failing -----------------------------------------------------------------------------------------------

    def attempt(
        self, name: str, attributes: Any, do: Callable[[Work, Any], Any], limit: float, must_succeed: bool = False
    ) -> Any:
        """What `do` returns; None, and a warning, when it fails or does not answer. It is shown as a step."""
        stall = _seconds(attributes.get("timeout", ""), STALL)
        patient: Patient[Any] = Patient(self._parts.trunk.cancel, stall, limit)
        try:
            with step(self._parts.report, self._parts.trunk.cancel, name) as work:
                watched = patient.watched(work)
                return patient.run(lambda: do(watched, patient))
        except Cancelled:
            if self._parts.trunk.cancel.is_set():
                raise
            self._warn(name, "given up")
        except (KedgeError, OSError) as error:
            if must_succeed:
                raise
            self._warn(name, str(error))
        return None

    def _warn(self, name: str, why: str) -> None:
        warning = WarningEvent("", f"{name} failed, the build goes on without: {why}")
        self.warnings.append(warning)
        self._parts.report(warning)

    def registry(self, attributes: Any, patient: "Patient[Any]") -> "Registry":
        """Registries for something a build can do without: a client of its own, which ends when it is given up."""
        from kedge.registry.client import Registry

        settings = impatient(self._parts.settings)
        if attributes.get("registry.insecure", "").lower() in ("1", "t", "true"):
            settings = _insecure(settings, attributes.get("ref", ""))
        return Registry(settings, self._parts.session.credential, patient.stop)


def impatient(settings: "Settings") -> "Settings":
    """Settings for a registry that one can do without."""
    network = settings.network
    return replace(
        settings,
        network=replace(
            network,
            attempts=min(network.attempts, 3),
            connect_timeout=min(network.connect_timeout, 5.0),
            timeout=min(network.timeout, 20.0),
            longest_pause=min(network.longest_pause, 5.0),
        ),
    )


def _insecure(settings: "Settings", ref: str) -> "Settings":
    from kedge.model.reference import parse_reference

    host = parse_reference(ref).registry
    changed = replace(settings.registry(host), insecure=True, http=True)
    return replace(settings, registries={**settings.registries, host: changed})


def _seconds(text: str, default: float) -> float:
    try:
        return float(text) if text else default
    except ValueError:
        return default
