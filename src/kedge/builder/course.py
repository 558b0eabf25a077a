"""The course of a build, from request to result.

Owns the order: definition, base images, graph, solving, outputs. Everything that blocks for long runs on leaves of the
trunk, so that one failure or one stop ends it all. Does not know what any part does.
"""

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

from kedge.builder.definition import Definition, load_definition
from kedge.builder.parts import Parts
from kedge.builder.request import Answer, BuildRequest, BuildResult
from kedge.builder.steps import step
from kedge.dockerfile.directives import find_directive, require_own_frontend
from kedge.dockerfile.findings import Findings
from kedge.dockerfile.lint_options import CheckOptions, check_options
from kedge.dockerfile.lower import Target, lower
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage
from kedge.dockerfile.parser import Dockerfile, parse
from kedge.dockerfile.stages import StagedFile, read_stages
from kedge.model.digest import digest_of
from kedge.model.errors import Cancelled, Excluded, IntegrityError, KedgeError, SourceFile, StepFailed
from kedge.model.event import Report, WarningEvent, silent
from kedge.model.graph import Edge, Snapshot, Vertex, uncached
from kedge.model.platform import Platform, meant_by, parse_platform
from kedge.model.suggest import nearest
from kedge.model.value import dataclass, field, replace
from kedge.session.session import Session
from kedge.solver.explain import Scope
from kedge.solver.solver import Solver

if TYPE_CHECKING:
    from kedge.builder.outputs import Built
    from kedge.builder.scans import Scan
    from kedge.exporters.attest import Predicate

Stopper: TypeAlias = Callable[[Callable[[], None]], None]


def build(
    request: BuildRequest, session: Session, report: Report = silent, stopper: Stopper | None = None
) -> BuildResult:
    """Build what is asked. Blocks. Raises KedgeError; the store then holds what earlier steps made, and no new name.

    Reports may come from several threads. Who may not mount must have called `kernel.identity.enter_user_namespace`
    before. A KeyboardInterrupt stops every step and is raised again. `stopper` is given a function that stops the
    build from any thread, which is then raised as Cancelled.
    """
    broken: set[str] = set()  # caches that did not keep what they promised; each costs one more try at most
    while True:
        with Parts(request, session, report, broken) as parts:
            if stopper:
                stopper(parts.trunk.stop)
            course = _Course(parts)
            solver = parts.solver(course.scopes)
            try:
                return parts.trunk.run(course.run(solver))
            except BaseException as error:
                course.explain(error)
                solver.abandon(error)
                if isinstance(error, KedgeError):
                    error.misses = _misses(solver)
                if not _lost_a_cache(parts, error) or not can_start_again(request):
                    raise
                tell_restart(report)


def tell_restart(report: Report) -> None:
    """Tell that the build starts again, without a cache that has not what it promised."""
    with step(report, threading.Event(), "[internal] a cache broke its promise: starting again"):
        pass


def _lost_a_cache(parts: Parts, error: BaseException) -> bool:
    """Did the build end because a cache does not have what it promised? Then what hangs on that is forgotten."""
    if not isinstance(error, KedgeError) or isinstance(error, (Cancelled, StepFailed)):
        return False
    lost = parts.unkept or (parts.relied_on if isinstance(error, IntegrityError) else set())
    if not lost - parts.broken:
        return False
    parts.store.forget_origins(lost)
    parts.broken |= lost
    return True


def can_start_again(request: BuildRequest) -> bool:
    """Not with a context that is a stream: it is read once."""
    return isinstance(request.context, (str, bytes, PurePath, type(None)))


@dataclass(frozen=True, slots=True)
class Solved:
    """A build's stages and their files, before any output is made. `answer` is that of a call other than build.

    `error` is why the Dockerfile cannot be built, found by a check. `given` are attestations that came with each stage.
    """

    targets: tuple[Target, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    warnings: tuple[WarningEvent, ...] = ()
    answer: Answer | None = None
    solver: Solver | None = None
    error: KedgeError | None = None
    given: "tuple[tuple[Predicate, ...], ...]" = ()


def solve(parts: Parts, told_later: bool = False) -> Solved:
    """Only solve what the parts' request asks; as `build` otherwise. For a service that exports later, or never.

    A check also answers for a Dockerfile that cannot be built. If it is to be `told_later`, a failure of a step is not
    raised: what is returned has the stages without their files, and the error.
    """
    course, checking = _Course(parts), parts.request.call in ("check", "lint")
    solver = parts.solver(course.scopes)
    try:
        solved = parts.trunk.run(course.solve(solver))
        return replace(solved, error=course.breach(solved.warnings)) if checking else solved
    except BaseException as error:
        warnings = course.explain(error)
        solver.abandon(error)
        _lost_a_cache(parts, error)  # so that the caller's next try does without it
        if checking and isinstance(error, KedgeError) and error.location:
            return Solved(warnings=warnings, error=error)
        if told_later and course.lowered and isinstance(error, KedgeError) and not isinstance(error, Cancelled):
            return Solved(course.lowered, warnings=warnings, error=error)
        raise


def solve_graphs(parts: Parts, edges: Sequence[Edge]) -> list[Snapshot]:
    """Solve graphs that came without a Dockerfile, with the caches from and to elsewhere of the parts' request."""
    for edge in edges:
        parts.entitlements.require_all(edge)
        if steps := uncached(edge):
            _empty_caches(parts, steps)
    solver = parts.solver()
    try:
        return parts.trunk.run(_solve_graphs(parts, solver, edges))
    except BaseException as error:
        solver.abandon(error)
        _lost_a_cache(parts, error)  # so that the caller's next try does without it
        raise


async def _solve_graphs(parts: Parts, solver: Solver, edges: Sequence[Edge]) -> list[Snapshot]:
    travels = bool(parts.request.cache_from or parts.request.cache_to)
    if travels:
        parts.caches.read_targets()
        await parts.caches.prepare(solver, parts.sources)
    snapshots = await parts.trunk.gather(map(solver.solve, edges))
    if travels:
        await parts.caches.collect(edges)
    return snapshots


def export_solved(parts: Parts, solved: Solved) -> BuildResult:
    """Make the outputs of the parts' request from what was solved before, in the same store."""
    try:
        built = parts.trunk.run(_export(parts, solved))
    except BaseException as error:
        _lost_a_cache(parts, error)  # so that the caller's next try does without it
        raise
    made = BuildResult(built.images, built.names, solved.warnings, built.metadata, None, built.target)
    return replace(made, exported=tuple(built.exported))


async def _export(parts: Parts, solved: Solved, solver: Solver | None = None) -> "Built":
    """Make the outputs, and beside them the caches; `solver` if it still runs."""
    from kedge.builder.outputs import attested, export

    caching = parts.trunk.spawn(_export_caches(parts, solved))
    scans: tuple[Scan, ...] = ()
    if asked := attested(parts.request):
        from kedge.builder.scans import scan

        scans = await scan(parts, asked, solved.targets, solver)
    built = await parts.trunk.call(export, parts, solved.targets, solved.snapshots, scans, solved.given)
    await _record_stages(parts, solved, built)
    built.metadata |= await caching
    return built


async def _export_caches(parts: Parts, solved: Solved) -> dict[str, Any]:
    """Write the caches that were asked for, beside the outputs."""
    request, metadata = parts.request, dict[str, Any]()
    if request.cache_to:
        metadata |= await parts.trunk.call(parts.caches.export, solved.targets, solved.snapshots)
    if request.cache_mount_to:
        from kedge.builder.mount_caches import MountCaches

        await parts.trunk.call(MountCaches(parts).export)
    return metadata


@dataclass
class _Course:
    """What is known so far."""

    parts: Parts
    findings: Findings = field(default_factory=Findings)
    checks: CheckOptions = field(default_factory=CheckOptions)
    parsed: Dockerfile | None = None
    lowered: tuple[Target, ...] = ()  # once nothing but steps can fail
    warned: bool = False

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Name builds of the same thing, so that a miss is explained by the last one of them: of this Dockerfile in
        this context, else of the same image wherever it was built.
        """
        request = self.parts.request
        context = (
            request.context if isinstance(request.context, str) else str(getattr(request.context, "absolute", str)())
        )
        own = Scope(digest_of((context, request.dockerfile, request.target))[7:23])
        if not request.tags:
            return (own,)
        image = re.sub(r":[^:/]*$", "", request.tags[0])  # tags often differ by build
        return own, Scope(digest_of(("image", image, request.target))[7:23], f"the last build of {image}")

    async def run(self, solver: Solver) -> BuildResult:
        """The build itself, as the trunk's main task."""
        solved = await self.solve(solver)
        if self.parts.request.call != "build":
            return BuildResult(warnings=solved.warnings, answer=solved.answer)
        built = await _export(self.parts, solved, solver)
        if "caches" in self.parts.__dict__:
            solved = replace(solved, warnings=(*solved.warnings, *self.parts.caches.warnings))
        for origin in sorted(self.parts.broken):
            told = WarningEvent("", f"a cache did not have what it promised, the build started again: {origin}")
            solved = replace(solved, warnings=(*solved.warnings, told))
        return _result(built, solved.warnings, solver)

    async def solve(self, solver: Solver) -> Solved:
        """From the request to the files of its targets, or to the answer of its call."""
        parts, request = self.parts, self.parts.request
        parts.entitlements  # noqa: B018 - a wrong word is told before anything is done
        if request.call == "build":
            from kedge.builder.outputs import read_outputs

            read_outputs(request)
        if request.attestations:
            from kedge.exporters.attest import read_attestations

            read_attestations(request.attestations)
        travels = bool(request.cache_from or request.cache_to) and request.call == "build"
        if request.cache_mount_from or request.cache_mount_to:
            from kedge.builder.mount_caches import MountCaches

            MountCaches(parts).prepare()
        if travels:
            parts.caches.read_targets()
            prepared = parts.trunk.spawn(parts.caches.prepare(solver, parts.sources))
        platforms = _platforms(request, parts.host)
        unknown = self._unknown_platforms(platforms)
        definition = await parts.trunk.call(load_definition, parts)
        parts.definition = definition
        file = self._read(definition)
        if request.call == "targets":
            from kedge.dockerfile.targets import list_targets

            return Solved(answer=list_targets(file))
        common = await parts.trunk.call(_lower_options, parts, definition, file, len(platforms) > 1)
        options = [replace(common, target_platform=platform) for platform in platforms]
        # As in BuildKit, advice is about the first platform; what the others lack, their final images tell.
        findings = [self.findings, *(Findings() for _ in options[1:])]
        targets = await parts.trunk.gather(map(self._lower, [file] * len(options), options, findings))
        warnings = self.warn()
        if request.call == "build":
            self._require_clean(warnings)
            warnings += unknown + self._unknown_stages(file)
        if request.call != "build":
            return Solved(warnings=warnings, answer=targets[0].outline if request.call == "outline" else None)
        edges = [target.edge for target in targets if target.edge]
        for edge in edges:
            parts.entitlements.require_all(edge)
        if steps := set().union(*map(uncached, edges)):
            await parts.trunk.call(_empty_caches, parts, steps)
        if travels:
            await prepared
        self.lowered = tuple(targets)
        snapshots = await parts.trunk.gather(_solve(solver, target) for target in targets)
        if travels:
            await parts.caches.collect(edges)
        warnings += await self._check_images(solver, file, targets, snapshots)
        return Solved(tuple(targets), tuple(snapshots), warnings, solver=solver)

    def _read(self, definition: Definition) -> StagedFile:
        # A text for another frontend need not be a Dockerfile at all: its syntax line is looked at before it is read.
        require_own_frontend(find_directive(SourceFile(definition.name, definition.text), "syntax"))
        file = parse(definition.text, definition.name)
        self.checks = check_options(file, dict(self.parts.request.build_args))
        self.parsed = file  # what is found before a line that cannot be read is told, too
        staged = read_stages(file, self.findings)
        if self.parts.request.build_args:
            from kedge.dockerfile.lint_build_args import check_build_args

            check_build_args(staged, (name for name, _ in self.parts.request.build_args), self.findings)
        return staged

    async def _lower(self, file: StagedFile, options: LowerOptions, findings: Findings) -> Target:
        """The graph for one platform. Base images are asked for until lowering needs no more of them."""
        from kedge.dockerfile.lower import needed_images

        known: dict[ImageRequest, ResolvedImage] = {}
        while needed := needed_images(file, options, known, findings):
            from kedge.builder.images import resolve

            asked = sorted(needed, key=lambda request: (request.reference, str(request.platform)))
            answers = await self.parts.trunk.gather(resolve(self.parts, request) for request in asked)
            known |= dict(zip(asked, answers, strict=True))
        return lower(file, options, known, findings)

    def warn(self) -> tuple[WarningEvent, ...]:
        """Tell what reading and lowering found, as far as it is not silenced; once."""
        if self.warned or self.parsed is None or not (self.findings.found or self.parsed.warnings):
            return ()
        self.warned = True
        from kedge.dockerfile.lint import lint

        warnings = lint(self.parsed, self.findings.found, self.checks)
        for warning in warnings:
            self.parts.report(warning)
        return warnings

    async def _check_images(
        self, solver: Solver, file: StagedFile, targets: list[Target], snapshots: list[Snapshot]
    ) -> tuple[WarningEvent, ...]:
        """Tell what the final images lack or carry, before any of them gets a name."""
        from kedge.builder.image_checks import check_images, makes_image

        if not makes_image(self.parts.request):
            return ()
        found = await self.parts.trunk.call(check_images, self.parts.store, solver, file, targets, snapshots)
        if not found.found:
            return ()
        from kedge.dockerfile.lint import lint_image

        warnings = lint_image(found.found, self.checks)
        for warning in warnings:
            self.parts.report(warning)
        self._require_clean(warnings)
        return warnings

    def _unknown_stages(self, file: StagedFile) -> tuple[WarningEvent, ...]:
        """Names that no stage has and whose cache was to be left alone: told, since a slip would go unnoticed."""
        known = {stage.name.lower(): stage.name for stage in file.stages if stage.name}
        return tuple(
            self._told(f"no stage is named {name}, whose cache was not to be used", nearest(name, known.values()))
            for name in self.parts.request.no_cache_filter
            if name.lower() not in known
        )

    def _unknown_platforms(self, platforms: Iterable[Platform | None]) -> tuple[WarningEvent, ...]:
        """Platforms of words that nobody knows are built for, and told: mostly they are slips."""
        found = ((platform, meant_by(platform)) for platform in platforms if platform)
        return tuple(
            self._told(f"{platform} is no platform that is known", meant)
            for platform, meant in found
            if meant is not None
        )

    def _told(self, text: str, meant: str | None) -> WarningEvent:
        told = WarningEvent("", f"{text} (did you mean {meant}?)" if meant else text)
        self.parts.report(told)
        return told

    def explain(self, error: BaseException) -> tuple[WarningEvent, ...]:
        """Tell what may explain the end of the build: what was found on the way, and the line that hid a file."""
        if isinstance(error, Excluded):
            lines = [(file.line_of(error.pattern), file.name) for file in self.parts.ignore_files.values()]
            places = [f"line {number} of {name}" for number, name in lines if number]
            if places:
                error.hint = f"It is excluded by {' or '.join(places)}: {error.pattern}"
        return self.warn()

    def breach(self, warnings: tuple[WarningEvent, ...]) -> KedgeError | None:
        """What a build would raise for its warnings."""
        try:
            self._require_clean(warnings)
        except KedgeError as error:
            return error
        return None

    def _require_clean(self, warnings: tuple[WarningEvent, ...]) -> None:
        if warnings and self.checks.error:
            from kedge.dockerfile.lint import require_clean

            require_clean(warnings, self.checks)


async def _record_stages(parts: Parts, solved: Solved, built: "Built") -> None:
    if built.images and solved.solver:
        from kedge.builder.image_checks import record_stages

        await parts.trunk.call(
            record_stages, parts.store, solved.solver, solved.targets, solved.snapshots, built.images
        )


async def _solve(solver: Solver, target: Target) -> Snapshot:
    return await solver.solve(target.edge) if target.edge else ()


def _empty_caches(parts: Parts, steps: Iterable[Vertex]) -> None:
    """Steps that must not use what earlier builds made begin with empty cache mounts, as in BuildKit."""
    from kedge.operations.exec_mounts import caches_of

    parts.store.cache_mounts.empty(caches_of(steps))


def _platforms(request: BuildRequest, host: Platform) -> list[Platform | None]:
    """The platforms asked for; None alone for the machine's own, or what a base image decides."""
    if not request.platforms:
        return [None]
    return list(dict.fromkeys(parse_platform(text, host) for text in request.platforms))


def _lower_options(parts: Parts, definition: Definition, file: StagedFile, several: bool) -> LowerOptions:
    """What lowering for each platform has in common: what files and clients are asked for, they are asked for once."""
    request = parts.request
    from kedge.builder.contexts import named_contexts

    contexts, ignores = named_contexts(parts)
    parts.ignore_files = {"context": definition.ignore} | ignores
    inputs = {one.name: one.edge for one in parts.remote.inputs}
    build_args = _build_args(request)
    return LowerOptions(
        target=request.target,
        build_args=build_args,
        epochs=_epochs(parts, file, build_args),
        labels=dict(request.labels),
        build_platform=parts.host,
        multi_platform=request.multi_platform or several,
        all_stages=request.call in ("check", "lint"),
        no_cache=request.no_cache or frozenset(request.no_cache_filter),
        network=request.network if request.network in ("none", "host") else "sandbox",
        add_hosts=request.add_hosts,
        contexts=contexts,
        ignore={name: file.patterns for name, file in parts.ignore_files.items()},
        main_context=inputs.get("context"),
        inputs=inputs,
        ulimits=request.ulimits,
        shm_size=request.shm_size,
        cgroup_parent=request.cgroup_parent,
        hostname=request.hostname,
        resolve_mode="pull" if request.pull else "default",
    )


def _epochs(parts: Parts, file: StagedFile, build_args: Mapping[str, str]) -> Mapping[str, int | None]:
    """Seconds for a SOURCE_DATE_EPOCH that is a word; asked only where there may be one."""
    declared = any(entry.key == "SOURCE_DATE_EPOCH" for instruction in file.args for entry in instruction.args)
    if not declared and "SOURCE_DATE_EPOCH" not in build_args:
        return {}
    from kedge.builder.epochs import resolve_epochs

    return resolve_epochs(parts, file, build_args)


def _build_args(request: BuildRequest) -> Mapping[str, str]:
    """The build arguments, over the client's proxies (which reach steps but no cache key) and SOURCE_DATE_EPOCH."""
    args = {name: value for name, value in request.env if name.lower().endswith("_proxy")}
    if request.source_date_epoch is not None:
        args["SOURCE_DATE_EPOCH"] = str(request.source_date_epoch)
    return args | dict(request.build_args)


def _result(built: "Built", warnings: tuple[WarningEvent, ...], solver: Solver) -> BuildResult:
    return BuildResult(built.images, built.names, warnings, built.metadata, None, built.target, _misses(solver))


def _misses(solver: Solver) -> dict[str, tuple[str, ...]]:
    return {miss.name: miss.reasons for miss in solver.explained if miss.name}
