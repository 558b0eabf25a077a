"""What a bill of materials is made from, beside the final image: other stages, the context, what a scanner image wrote.

Owns which trees are scanned (BUILDKIT_SBOM_SCAN_STAGE, BUILDKIT_SBOM_SCAN_CONTEXT) and the graph of a scanner's run
(BuildKit's docs/attestations/sbom-protocol.md), which the solver solves like any other. Does not know what a scan finds
(`exporters.sbom`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from kedge.builder.images import resolve
from kedge.builder.parts import Parts
from kedge.builder.remote import RemoteRequest
from kedge.builder.request import BuildRequest
from kedge.dockerfile.contexts import image_name
from kedge.dockerfile.options import ImageRequest, ResolvedImage
from kedge.dockerfile.target import Target
from kedge.exporters.attest import AttestationOptions
from kedge.exporters.sbom.bundle import CORE, EXTRA
from kedge.model.errors import InvalidInput
from kedge.model.graph import Edge, Hints, Snapshot, Vertex
from kedge.model.ops import Exec, Mount, Pairs, Source, TmpfsOptions
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from kedge.model.value import dataclass, replace
from kedge.solver.solver import Solver

# Where BuildKit has them; directories with a slash behind, as it says them.
_CORE: Final = f"/run/src/core/{CORE}"
_EXTRAS: Final = "/run/src/extras/"
_RESULTS: Final = "/run/out/"


@dataclass(frozen=True, slots=True)
class Scan:
    """The trees of one target's bill of materials. `extras` by name, where Kedge scans itself.

    Otherwise `bundle` is what the scanner wrote; `scanner` is its image, one more thing that the build used.
    """

    extras: tuple[tuple[str, Snapshot], ...] = ()
    bundle: Snapshot | None = None
    scanner: Vertex | None = None


async def scan(
    parts: Parts, asked: Sequence[AttestationOptions], targets: Sequence[Target], solver: Solver | None = None
) -> tuple[Scan, ...]:
    """Have all of it for every target. Raises KedgeError: a scanner that fails is a step that failed."""
    wanted = next((one for one in asked if one.kind == "sbom"), None)
    if wanted is None:
        return tuple(Scan() for _ in targets)
    solver = solver or parts.solver()
    try:
        if wanted.generator:
            return tuple(await _run_scanner(parts, solver, wanted, targets))
        return tuple([await _solve_extras(solver, parts.request, target) for target in targets])
    except BaseException as error:
        solver.abandon(error)
        raise


async def _solve_extras(solver: Solver, request: BuildRequest, target: Target) -> Scan:
    extras = _extras(request, target)
    return Scan(tuple([(name, await solver.solve(edge) if edge else ()) for name, edge in extras.items()]))


async def _run_scanner(
    parts: Parts, solver: Solver, wanted: AttestationOptions, targets: Sequence[Target]
) -> list[Scan]:
    name = parse_reference(wanted.generator)
    title = f"[internal] load metadata for {name}"
    image = await resolve(parts, ImageRequest(str(name), parts.host, title=title))
    edges = [scanner_run(name.familiar, image, parts.host, wanted.parameters, parts.request, one) for one in targets]
    for edge in edges:
        parts.entitlements.require_all(edge)
    bundles = await parts.trunk.gather(solver.solve(edge) for edge in edges)
    return [Scan((), bundle, edge.vertex.inputs[0].vertex) for edge, bundle in zip(edges, bundles, strict=True)]


def scanner_run(
    name: str, image: ResolvedImage, host: Platform, parameters: Pairs, request: BuildRequest, target: Target
) -> Edge:
    """The run of a scanner image over a target, for the directory that it writes to. Raises InvalidInput.

    The scanner is for the machine it runs on, whatever the target is for, and runs as root, as in BuildKit.
    """
    args = (*(image.config.entrypoint or ()), *(image.config.cmd or ()))
    if not args:
        raise InvalidInput(f"the SBOM scanner {name} has no command", hint="It needs an ENTRYPOINT or CMD.")
    extras = _extras(request, target)
    scanned = [(_CORE, target.edge), *((f"{_EXTRAS}{EXTRA}{extra}", edge) for extra, edge in extras.items())]
    source = image.source or Source(f"docker-image://{image_name(name, image)}")
    scanner = Vertex(source, (), host, Hints(f"[internal] FROM {name}", internal=True))
    inputs = [Edge(scanner)]
    mounts = [Mount("/", 0), Mount("/tmp", kind="tmpfs", tmpfs=TmpfsOptions()), Mount(_RESULTS, output=0)]
    for place, edge in scanned:
        mounts.append(Mount(place, len(inputs), readonly=True) if edge else Mount(place, readonly=True))
        inputs += [edge] if edge else []
    env = _environment(image, parameters, bool(extras))
    op = Exec(args, tuple(mounts), env, image.config.working_dir or "/")
    title = f"[{target.config.platform}] generating sbom using {name}"
    return Edge(Vertex(op, tuple(inputs), host, Hints(title, no_cache=_ignores_cache(request, target))))


def _environment(image: ResolvedImage, parameters: Pairs, has_extras: bool) -> tuple[str, ...]:
    """The image's own variables and the protocol's."""
    env = dict(entry.partition("=")[::2] for entry in image.config.env)
    env |= {"BUILDKIT_SCAN_DESTINATION": _RESULTS, "BUILDKIT_SCAN_SOURCE": _CORE}
    env |= {"BUILDKIT_SCAN_SOURCE_EXTRAS": _EXTRAS} if has_extras else {}
    env |= {f"BUILDKIT_SCAN_{key}": value for key, value in parameters}
    return tuple("=".join(pair) for pair in env.items())


def _extras(request: BuildRequest, target: Target) -> Mapping[str, Edge | None]:
    """What else is scanned, by name: the context, and stages that the target needs."""
    context = {"context": _as_used(request, target.context)} if target.scan_context else {}
    return context | {stage.name: stage.edge for stage in target.stages if stage.scan}


def _as_used(request: BuildRequest, context: Edge | None) -> Edge | None:
    """The context as far as the build takes files from it: that is what a client lends, but not what is read in
    place.
    """
    op = context.vertex.op if context else None
    if not context or not isinstance(op, Source) or op.scheme != "local" or _is_lent(request):
        return context
    names = {"local.followpaths": "local.includepattern"}
    attrs = tuple(sorted((names.get(name, name), value) for name, value in op.attrs))
    return Edge(replace(context.vertex, op=replace(op, attrs=attrs)))


def _is_lent(request: BuildRequest) -> bool:
    """Does the context stay on the client's side?"""
    return isinstance(request, RemoteRequest) and bool(request.context_lent)


def _ignores_cache(request: BuildRequest, target: Target) -> bool:
    """Is a stage that is scanned to be built anew? Then it is scanned anew."""
    names = {target.name, *_extras(request, target)}
    return request.no_cache or any(name in names for name in request.no_cache_filter)
