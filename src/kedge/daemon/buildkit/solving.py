"""From a request to something solved: a graph, or a frontend's attributes.

Owns which frontends there are: our own, under the names that BuildKit's has. Does not know what becomes of the results.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from kedge.builder import course
from kedge.builder.parts import Parts
from kedge.builder.remote import Input, RemoteRequest
from kedge.builder.request import BuildRequest, CacheSpec, Output
from kedge.daemon.buildkit.advice import advice
from kedge.daemon.buildkit.attributes import read_attributes
from kedge.daemon.buildkit.bridge import Bridge
from kedge.daemon.buildkit.definition import decode
from kedge.daemon.buildkit.describe import describe
from kedge.daemon.buildkit.errors import Refused, show_places
from kedge.daemon.buildkit.frontends import run_frontend
from kedge.daemon.buildkit.jobs import Job, Origin, Outcome, Result, empty_target, rest
from kedge.daemon.buildkit.platforms import PLATFORMS
from kedge.daemon.buildkit.reading import read_file
from kedge.daemon.buildkit.remains import offered
from kedge.daemon.buildkit.wording import worded
from kedge.daemon.wire import control
from kedge.dockerfile.directives import ForeignFrontend
from kedge.model.errors import DockerfileError, InvalidInput, KedgeError, Location
from kedge.model.event import WarningEvent
from kedge.model.graph import Edge
from kedge.model.image import ImageConfig, platform_json
from kedge.model.platform import Platform
from kedge.model.value import replace

_OWN_FRONTENDS: Final = ("docker/dockerfile", "docker/dockerfile-upstream", "docker.io/docker/dockerfile")
_IMAGES: Final = ("image", "moby", "oci", "docker")
_LARGEST_DOCKERFILE: Final = 16 << 20
CONFIG, BASE_CONFIG, EPOCH = "containerimage.config", "containerimage.base.config", "source.date.epoch"


def solve_definition(
    job: Job,
    definition: Any,
    policies: Sequence[Any] = (),
    caches: Sequence[CacheSpec] = (),
    bridge: Bridge | None = None,
) -> Result:
    """A graph, solved when its files are asked for, with these caches beside those of the build."""
    decoded = decode(definition)
    job.log.names |= decoded.names
    if decoded.edge is None:
        return Result({"": None})
    outcome = solve_edge(job, decoded.edge, policies, caches, bridge, decoded.places)
    return Result({"": replace(outcome, definition=definition)})


def solve_edge(
    job: Job,
    edge: Edge,
    policies: Sequence[Any] = (),
    caches: Sequence[CacheSpec] = (),
    bridge: Bridge | None = None,
    places: Mapping[Location, tuple[Any, ...]] = MappingProxyType({}),
) -> Outcome:
    """A graph, without an image config of its own; solved when its files are asked for."""
    request = BuildRequest(cache_to=job.caches.targets, cache_from=job.caches.sources((*job.cache_from, *caches)))
    parts = job.parts(request, policies)
    parts.entitlements.require_all(edge)

    target = replace(empty_target(edge.vertex.platform or parts.host), edge=edge)

    def solve(origin: Origin) -> course.Solved:
        try:
            while True:
                before = len(job.broken)
                try:
                    with offered(bridge, origin.parts):
                        return course.Solved((target,), tuple(course.solve_graphs(origin.parts, [edge])))
                except KedgeError:
                    if len(job.broken) == before:
                        raise
                rest(origin.parts)
                course.tell_restart(job.log.report)
                origin.parts = job.parts(request, policies)
        except KedgeError as error:
            if error.location is not None and (told := places.get(replace(error.location, columns=None))):
                show_places(error, told)
            raise

    return Outcome(target, Origin(parts, solve))


def solve_frontend(
    job: Job,
    name: str,
    attrs: Mapping[str, str],
    inputs: Mapping[str, Any],
    policies: Sequence[Any] = (),
    bridge: Bridge | None = None,
) -> Result:
    """What a frontend makes of its attributes: ours, or an image's. Raises KedgeError."""
    if name == "gateway.v0":
        if not _is_own(attrs.get("source", "")):
            return run_frontend(job, attrs["source"], attrs, inputs, policies, bridge)
        if attrs.get("source") == "dockerfile.v0":
            attrs = {key: value for key, value in attrs.items() if key not in ("source", "cmdline")}
    elif name != "dockerfile.v0":
        raise Refused(f"unknown frontend {name[:60]!r}")
    syntax = attrs.get("build-arg:BUILDKIT_SYNTAX", "").strip()
    if syntax and "cmdline" not in attrs and not _is_own(image := syntax.split()[0]):
        return run_frontend(job, image, {**attrs, "source": image, "cmdline": syntax}, inputs, policies, bridge)
    frontend = read_attributes(attrs)
    if frontend.describe:
        return Result({"": None}, describe())
    told = tuple(sorted((key, value) for key, value in attrs.items() if key.startswith("input-metadata:")))
    request = replace(frontend.request, inputs=_read_inputs(job, attrs, inputs), told_args=told, root=_root(job))
    job.lent.session_of |= frontend.sessions
    request = _with_inputs(job, request)
    request = replace(
        request, cache_to=job.caches.targets, cache_from=job.caches.sources((*job.cache_from, *request.cache_from))
    )
    if not any(one.Type in _IMAGES for one in exporters(job.request)):
        request = replace(request, outputs=(Output("cacheonly"),))  # what is no image need not start
    if frontend.upload:
        request = replace(request, context=job.lent.upload(frontend.upload))
    try:
        parts, solved = _solve_dockerfile(job, request, policies, bridge)
    except ForeignFrontend as foreign:
        if "cmdline" in attrs:  # this one was asked for by name: what the text says is not asked again
            raise
        chosen = {"source": foreign.image, "cmdline": foreign.command_line}
        try:
            return run_frontend(job, foreign.image, {**attrs, **chosen}, inputs, policies, bridge)
        except KedgeError as error:
            raise error.at(foreign.location) from None
    for edge in (target.edge for target in solved.targets if target.edge):
        job.makers.note(job.peer, edge, request)
    if request.call != "build":
        return _answer(request, solved)

    def files(origin: Origin) -> course.Solved:
        if solved.error is not None:
            with offered(bridge, parts):
                raise solved.error
        return solved

    return _result(Origin(parts, files), solved)


def _solve_dockerfile(
    job: Job, request: RemoteRequest, policies: Sequence[Any], bridge: Bridge | None
) -> tuple[Parts, course.Solved]:
    """Solve, and once more without each cache that has not what it promised; returned with the parts that did it."""
    while True:
        parts, before = job.parts(request, policies), len(job.broken)
        try:
            with offered(bridge, parts):
                solved = course.solve(parts, told_later=bridge is not None)  # who drives asks for the files later
            if solved.error is None or len(job.broken) == before or not course.can_start_again(request):
                return parts, solved
        except KedgeError:
            if len(job.broken) == before or not course.can_start_again(request):
                raise
        finally:
            rest(parts)
        course.tell_restart(job.log.report)


def exporters(request: Any) -> list[Any]:
    """What a Solve request wants made of its result."""
    if request.Exporters:
        return list(request.Exporters)
    if request.ExporterDeprecated:
        return [control.Exporter(Type=request.ExporterDeprecated, Attrs=request.ExporterAttrsDeprecated)]
    return []


def _is_own(source: str) -> bool:
    """Is it the frontend that is built in, by any of its names? Raises Refused for none."""
    from kedge.model.reference import parse_reference

    if not source:
        raise Refused("no source specified for gateway")
    if source == "dockerfile.v0":
        return True
    return parse_reference(source).familiar.partition(":")[0].partition("@")[0] in _OWN_FRONTENDS


def _read_inputs(job: Job, attrs: Mapping[str, str], inputs: Mapping[str, Any]) -> tuple[Input, ...]:
    found = []
    for name, definition in sorted(inputs.items()):
        if not definition.ByteSize():
            raise InvalidInput("invalid nil input definition to definition op")
        decoded = decode(definition)
        job.log.names |= decoded.names
        config = _input_config(attrs.get(f"input-metadata:{name}", ""))
        found.append(Input(name, decoded.edge, config, job.makers.find(job.peer, decoded.edge)))
    return tuple(found)


def _root(job: Job) -> RemoteRequest | None:
    """What the client asked that drives this build by itself."""
    if job.request.Frontend or not (job.request.FrontendAttrs or job.request.FrontendInputs):
        return None
    attrs = dict(job.request.FrontendAttrs)
    inputs = _read_inputs(job, attrs, dict(job.request.FrontendInputs))
    return RemoteRequest(context=None, told_args=tuple(sorted(attrs.items())), inputs=inputs)


def _input_config(text: str) -> ImageConfig | None:
    """The image config in an input's metadata, whose values are bytes in Go's JSON."""
    import base64
    import binascii

    if not text:
        return None
    try:
        data = json.loads(text).get(CONFIG)
        return ImageConfig.from_bytes(base64.b64decode(data, validate=True)) if data else None
    except (ValueError, AttributeError, TypeError, RecursionError, binascii.Error, KedgeError):
        raise InvalidInput(f"failed to parse input metadata {text[:80]}") from None


def _with_inputs(job: Job, request: RemoteRequest) -> RemoteRequest:
    """The context and the Dockerfile out of graphs of the same names, where the client gave them."""
    edges = {one.name: one.edge for one in request.inputs}
    if not request.context_lent:
        return replace(request, inputs=tuple(one for one in request.inputs if one.name != "context"))
    if "context" in edges:
        request = replace(request, context_lent="")
    if (edge := edges.get("dockerfile")) is not None:
        outcome = solve_edge(job, edge)
        with outcome.store.layers.mounted(outcome.snapshot) as tree:
            data = read_file(tree.fd, request.dockerfile, 0, _LARGEST_DOCKERFILE)
        request = replace(request, dockerfile_text=data, dockerfile_lent=request.dockerfile_lent or "dockerfile")
    return request


def _result(origin: Origin, solved: course.Solved) -> Result:
    """The stages by platform, with the metadata that frontends give (exporter/containerimage/exptypes)."""
    request = origin.parts.request
    several = request.multi_platform or len(solved.targets) > 1
    result, platforms = Result(), []
    for index, target in enumerate(solved.targets):
        key = target.config.platform.full
        suffix = f"/{key}" if several else ""
        result.outcomes[key if several else ""] = Outcome(target, origin, index)
        result.metadata[CONFIG + suffix] = target.config.to_bytes()
        if target.base:
            result.metadata[BASE_CONFIG + suffix] = target.base.to_bytes()
        if target.epoch is not None:
            result.metadata[EPOCH + suffix] = str(target.epoch).encode()
        platforms.append({"ID": key, "Platform": platform_json(target.config.platform)})
    result.metadata[PLATFORMS] = json.dumps({"Platforms": platforms}).encode()
    return result


def _answer(request: BuildRequest, solved: course.Solved) -> Result:
    """The result of a subrequest: the same answer for programs and for people."""
    if request.call in ("check", "lint"):
        from kedge.dockerfile.lint_report import report_json

        warnings, error = tuple(map(advice, solved.warnings)), solved.error
        if error is not None:
            error = DockerfileError(worded(error, advised=False), location=error.location)
        text = report_json(warnings, error)
        metadata = {
            "result.json": text.encode("utf-8", "surrogateescape"),
            "result.txt": _lint_text(warnings).encode("utf-8", "surrogateescape"),
            "result.statuscode": b"1" if warnings or error else b"0",
            "version": b"1.0.0",
        }
        return Result({"": None}, metadata)
    answer = solved.answer
    assert answer is not None, "every other call has one"
    return Result(
        {"": None},
        {
            "result.json": answer.to_json().encode("utf-8", "surrogateescape"),
            "result.txt": answer.to_text().encode("utf-8", "surrogateescape"),
            "version": b"1.0.0",
        },
    )


def _lint_text(warnings: tuple[WarningEvent, ...]) -> str:
    lines = []
    for warning in warnings:
        lines.append(f"WARNING: {warning.rule}" + (f" - {warning.url}" if warning.url else ""))
        lines.append(warning.detail or warning.message)
        if warning.location:
            lines += [warning.message, "", f"{warning.location}"]
        lines.append("")
    return "\n".join(lines)


def platform_of(key: str, default: Platform) -> Platform:
    """The platform that a key of a result names."""
    from kedge.model.platform import parse_platform

    return parse_platform(key, default) if key else default
