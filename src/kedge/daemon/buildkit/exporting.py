"""What was solved, on its way out: into the store, to registries, or back to the client.

Owns the exporters' names and attributes, and the answer that clients read. Does not know formats (`exporters`).
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from kedge.builder import course
from kedge.builder.parts import Parts
from kedge.builder.request import BuildRequest, Output
from kedge.daemon.buildkit.attributes import read_attestations
from kedge.daemon.buildkit.chosen import chosen_exporters, tell_exported
from kedge.daemon.buildkit.given import predicates
from kedge.daemon.buildkit.jobs import Job, Outcome, Result, empty_target
from kedge.daemon.buildkit.platforms import ordered, told_platforms, warn_of_others
from kedge.daemon.buildkit.solving import BASE_CONFIG, CONFIG, EPOCH, platform_of
from kedge.daemon.buildkit.told import tell
from kedge.daemon.sessions.layouts import send_blobs
from kedge.daemon.sessions.send import ByteSink, send_directory
from kedge.daemon.wire.channel import Metadata
from kedge.dockerfile.target import Target
from kedge.exporters.image import Exported
from kedge.model.epoch import read_epoch
from kedge.model.errors import InvalidInput, KedgeError
from kedge.model.graph import looked_up
from kedge.model.image import ImageConfig
from kedge.model.platform import Platform
from kedge.model.value import replace

if TYPE_CHECKING:
    from kedge.exporters.options import Destination

_KINDS: Final = {
    "image": "image",
    "moby": "image",
    "oci": "oci",
    "docker": "docker",
    "local": "local",
    "tar": "tar",
    "cacheonly": "cacheonly",
    "": "cacheonly",
}
_TO_CLIENT: Final = ("oci", "docker", "tar")
_IMAGES: Final = ("image", "oci", "docker")


def export(job: Job, result: Result, exporters: Sequence[Any]) -> dict[str, str]:
    """Make every output that is asked for; the answer is the exporters' response. Raises KedgeError."""
    exporters = [*exporters, *chosen_exporters(job, result)]
    for one in exporters:
        if one.Type not in _KINDS:
            raise InvalidInput(f"exporter {one.Type[:40]!r} could not be found")
    warn_of_others(job, result)
    response: dict[str, str] = {}
    images: dict[int, Exported] = {}
    wanted = [(number, one) for number, one in enumerate(exporters) if _KINDS[one.Type] != "cacheonly"]
    if wanted or job.cache_to:
        response |= _export(job, result, wanted, images)
    job.told = tell(job, result.outcomes, images)
    response |= {k: v.decode(errors="replace") for k, v in result.metadata.items() if k.startswith("frontend.")}
    tell_exported(job, response)
    return response


def _export(job: Job, result: Result, wanted: Sequence[tuple[int, Any]], images: dict[int, Exported]) -> dict[str, str]:
    parts, solved = _solved(job, result)
    for _, one in wanted:
        if "source-date-epoch" in one.Attrs:
            epoch = _read_epoch(one.Attrs["source-date-epoch"])
            solved = replace(solved, targets=tuple(replace(target, epoch=epoch) for target in solved.targets))
        if len(solved.targets) == 1 and one.Attrs.get(CONFIG):  # how a graph without a driver comes to have a config
            (target,) = solved.targets
            config = _config(one.Attrs[CONFIG].encode(), target.config.platform)
            solved = replace(solved, targets=(replace(target, config=config),))
    with ExitStack() as stack:
        outputs = []
        for number, one in wanted:
            attrs, kind = dict(one.Attrs), _KINDS[one.Type]
            if kind in _IMAGES:
                attrs = _annotations(result) | attrs
                if attrs.get("name") == "*":  # what the frontend calls it
                    attrs["name"] = result.metadata.get("image.name", b"").decode("utf-8", "replace")
            destination = stack.enter_context(_destination(job, number, kind, attrs))
            outputs.append(Output(kind, tuple(sorted(attrs.items())), destination))
        request = replace(
            parts.request,
            outputs=tuple(outputs) or (Output("cacheonly"),),
            multi_platform=not result.is_single,
            cache_to=job.caches.targets,
            attestations=parts.request.attestations or read_attestations(job.request.FrontendAttrs),
        )
        given = tuple(predicates(result.attestations.get(key, ())) for key in ordered(result) or [""])
        made = course.export_solved(job.again(parts, request), replace(solved, given=given))
        job.caches.send(job.log.report)
    images |= {number: one for (number, _), one in zip(wanted, made.exported, strict=False) if one}
    return _response(made.metadata)


def _annotations(result: Result) -> dict[str, str]:
    """Annotations that came with the result, as an output's attributes have them."""
    return {
        key: value.decode("utf-8", "replace")
        for key, value in result.metadata.items()
        if key.startswith(("annotation.", "annotation-", "annotation["))
    }


@contextmanager
def _destination(job: Job, number: int, kind: str, attrs: Mapping[str, str]) -> "Iterator[Destination | None]":
    """Where an output is written to; what is there goes to the client when all is well."""
    if kind in ("oci", "docker") and attrs.get("tar", "").lower() in ("false", "0", "f"):
        with job.store.layers.draft() as draft:
            folder = Path(draft.upper) / "layout"
            yield folder
            send_blobs(job.lent.session, "export", folder)
        return
    metadata = (("buildkit-attachable-exporter-id", str(number)), ("buildkit-exporter-multi-platform", "1"))
    if kind in _TO_CLIENT:
        with _to_client(job, metadata) as destination:
            yield destination
    elif kind == "local":
        with job.store.layers.draft() as draft:
            folder = Path(draft.upper)
            yield folder
            send_directory(job.lent.session.channel, metadata, folder)
    else:
        yield None


@contextmanager
def _to_client(job: Job, metadata: Metadata) -> "Iterator[Destination]":
    """A file of the client's, which is told what comes: it may decline what it has already."""
    with ExitStack() as stack:

        def destination(told: Mapping[str, Any]) -> BinaryIO:
            headers = [(f"exporter-md-{key}", value) for key, value in _response(told).items()]
            sink = stack.enter_context(ByteSink(job.lent.session.channel, (*metadata, *headers)))
            return cast(BinaryIO, sink)

        yield destination


def _response(metadata: Mapping[str, Any]) -> dict[str, str]:
    response = {}
    for key, value in metadata.items():
        if key.startswith("buildx."):
            continue  # the client's own names: it fills them in
        if isinstance(value, dict) and key == "cache.manifest":
            response[key] = json.dumps(value)
        elif isinstance(value, dict):
            response[key] = base64.b64encode(json.dumps(value).encode()).decode()
        else:
            response[key] = str(value)
    return response


# ---- results as stages -----------------------------------------------------------------------------------------------


def _solved(job: Job, result: Result) -> tuple[Parts, course.Solved]:
    """The stages to export, and the parts they were solved with, where it was one request that made all of them."""
    host = job.config.worker_platforms[0]
    outcomes = {key: result.outcomes[key] for key in ordered(result)} or {"": None}
    targets = tuple(_with_argument(job, _target(result, key, outcome, host)) for key, outcome in outcomes.items())
    snapshots = tuple(outcome.snapshot if outcome else () for outcome in outcomes.values())
    origins = {outcome.origin if outcome else None for outcome in outcomes.values()}
    origin = origins.pop() if len(origins) == 1 else None
    if origin is not None and len(targets) == len(origin.solved.targets):
        return origin.parts, replace(origin.solved, targets=targets, snapshots=snapshots)
    read = dict.fromkeys(spec for one in outcomes.values() if one for spec in one.origin.parts.request.cache_from)
    request = BuildRequest(multi_platform=not result.is_single, cache_to=job.caches.targets, cache_from=tuple(read))
    parts = job.parts(request)
    for one in filter(None, outcomes.values()):
        parts.pins |= one.origin.parts.pins  # what provenance tells of
    if job.cache_to:  # all of it is known by now: a cache tells what the graphs have in common
        course.solve_graphs(parts, [looked_up(target.edge) for target in targets if target.edge is not None])
    return parts, course.Solved(targets, snapshots)


def _with_argument(job: Job, target: Target) -> Target:
    """SOURCE_DATE_EPOCH as the client gave it, where no frontend has taken it."""
    text = job.request.FrontendAttrs.get("build-arg:SOURCE_DATE_EPOCH", "")
    return replace(target, epoch=read_epoch(text)) if target.epoch is None else target


def _target(result: Result, key: str, outcome: Outcome | None, host: Platform) -> Target:
    """The stage as solved, with the config that the client returned for it, which may be another than ours."""
    target = outcome.target if outcome else empty_target(platform_of(key, host))
    suffix = f"/{key}" if key else ""
    data = result.metadata.get(CONFIG + suffix)
    if data is None:
        platform = told_platforms(result).get(key) or target.config.platform  # of a graph only its driver knows it
        return replace(target, config=replace(target.config, platform=platform))
    if data == target.config.to_bytes():
        return target
    base = result.metadata.get(BASE_CONFIG + suffix)
    config = _config(data, target.config.platform)
    return replace(
        target, config=config, base=_config(base, config.platform) if base else None, epoch=_epoch(result, suffix)
    )


def _config(data: bytes, platform: Platform) -> ImageConfig:
    try:
        config = ImageConfig.from_bytes(data)
    except KedgeError as error:
        raise InvalidInput(f"failed to parse image config: {error.message}") from None
    return config if config.platform.architecture else replace(config, platform=platform)


def _epoch(result: Result, suffix: str) -> int | None:
    return _read_epoch(result.metadata.get(EPOCH + suffix, b"").decode("ascii", "replace"))


def _read_epoch(text: str) -> int | None:
    if not text:
        return None
    seconds = read_epoch(text)
    if seconds is None:
        raise InvalidInput(f"invalid {EPOCH}: {text[:40]}")
    return seconds
