"""What was solved, on its way out: into the store, to registries, or back to the client.

Owns the exporters' names and attributes, and the answer that clients read. Does not know formats (`exporters`).
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from kedge.builder import course
from kedge.builder.request import BuildRequest, CacheSpec, Output
from kedge.daemon.buildkit.jobs import Job, Outcome, Result
from kedge.daemon.buildkit.solving import BASE_CONFIG, CONFIG, EPOCH, empty_target, platform_of
from kedge.daemon.sessions.send import ByteSink, send_directory
from kedge.dockerfile.target import Target
from kedge.model.errors import InvalidInput, KedgeError
from kedge.model.image import ImageConfig
from kedge.model.platform import Platform
from kedge.model.value import replace

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


def export(job: Job, result: Result, exporters: Sequence[Any], cache_to: tuple[CacheSpec, ...]) -> dict[str, str]:
    """Make every output that is asked for; the answer is the exporters' response. Raises KedgeError."""
    for one in exporters:
        if one.Type not in _KINDS:
            raise InvalidInput(f"exporter {one.Type[:40]!r} could not be found")
    response: dict[str, str] = {}
    wanted = [(number, one) for number, one in enumerate(exporters) if _KINDS[one.Type] != "cacheonly"]
    if wanted or cache_to:
        solved = _solved(job, result)
        for number, one in wanted:
            response |= _export(job, solved, number, _KINDS[one.Type], dict(one.Attrs))
    response |= {k: v.decode(errors="replace") for k, v in result.metadata.items() if k.startswith("frontend.")}
    return response


def _export(job: Job, solved: course.Solved, number: int, kind: str, attrs: dict[str, str]) -> dict[str, str]:
    with _destination(job, number, kind, attrs) as destination:
        output = Output(kind, tuple(sorted(attrs.items())), destination)
        with job.parts(BuildRequest(outputs=(output,))) as parts:
            made = course.export_solved(parts, solved)
    return _response(made.metadata)


@contextmanager
def _destination(job: Job, number: int, kind: str, attrs: Mapping[str, str]) -> Iterator[Path | BinaryIO | None]:
    """Where an output is written to; what is there goes to the client when all is well."""
    metadata = (("buildkit-attachable-exporter-id", str(number)), ("buildkit-exporter-multi-platform", "1"))
    if kind in _TO_CLIENT:
        sink = ByteSink(job.lent.session.channel, metadata)
        try:
            yield cast(BinaryIO, sink)
        except BaseException:
            sink.abort()
            raise
        sink.close()
    elif kind == "local":
        with job.store.layers.draft() as draft:
            folder = Path(draft.upper)
            yield folder
            send_directory(job.lent.session.channel, metadata, folder)
    else:
        yield None


def _response(metadata: Mapping[str, Any]) -> dict[str, str]:
    response = {}
    for key, value in metadata.items():
        if isinstance(value, dict):
            response[key] = base64.b64encode(json.dumps(value).encode()).decode()
        else:
            response[key] = str(value)
    return response


# ---- results as stages -----------------------------------------------------------------------------------------------


def _solved(job: Job, result: Result) -> course.Solved:
    host = job.config.worker_platforms[0]
    targets, snapshots = [], []
    for key, outcome in sorted(result.outcomes.items()):
        targets.append(_target(result, key, outcome, host))
        snapshots.append(outcome.snapshot if outcome else ())
    if not targets:
        targets, snapshots = [_target(result, "", None, host)], [()]
    return course.Solved(tuple(targets), tuple(snapshots))


def _target(result: Result, key: str, outcome: Outcome | None, host: Platform) -> Target:
    """The stage as solved, with the config that the client returned for it, which may be another than ours."""
    target = outcome.target if outcome else empty_target(platform_of(key, host))
    suffix = f"/{key}" if key else ""
    data = result.metadata.get(CONFIG + suffix)
    if data is None or data == target.config.to_bytes():
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
    text = result.metadata.get(EPOCH + suffix, b"").decode("ascii", "replace")
    if not text:
        return None
    if not text.isdecimal() or len(text) > 12:
        raise InvalidInput(f"invalid {EPOCH}: {text[:40]}")
    return int(text)
