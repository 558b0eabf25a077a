"""What a source is, without bringing it: image configs, commits, checksums.

Owns the translation; `sources` knows the answers.
"""

from collections.abc import Sequence
from typing import Any

from kedge.builder.request import BuildRequest
from kedge.daemon.buildkit.definition import read_platform
from kedge.daemon.buildkit.jobs import Job
from kedge.daemon.buildkit.ops import read_source
from kedge.daemon.sessions.layouts import LentLayouts
from kedge.daemon.wire import gateway
from kedge.model.errors import Unsupported
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from kedge.model.value import dataclass


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image's full name, digest and config."""

    reference: str
    digest: str
    config: bytes


def resolve_image(
    job: Job, name: str, platform: Platform | None, mode: str, title: str, policies: Sequence[Any] = ()
) -> FoundImage:
    """The config of an image for a platform. Raises KedgeError."""
    from kedge.builder.steps import step

    reference = parse_reference(name)
    parts = job.parts(BuildRequest(), policies)
    if parts.policy is not None:
        source = parts.policy(Source(f"docker-image://{reference}"))
        if source.scheme != "docker-image":
            raise Unsupported(f"a policy replaces the image {reference} by what is none")
        reference = parse_reference(source.identifier.partition("://")[2])
    with step(parts.report, parts.trunk.cancel, title or f"resolve image config for {reference}") as work:
        found = parts.images.resolve(reference, platform or parts.host, "pull" if mode == "pull" else "default", work)
        return FoundImage(str(reference), found.target.digest, found.config_data)


def resolve_layout(job: Job, name: str, platform: Platform | None, store: str, session: str) -> FoundImage:
    """The config of an image in a layout that the client lends. Raises KedgeError."""
    layouts = LentLayouts(job.store, job.config.worker_platforms[0], job.lent.lender)
    digest = name.rpartition("@")[2]
    found = layouts.resolve(f"{store}@{digest}", platform or job.config.worker_platforms[0], session)
    return FoundImage(name, found.target.digest, found.config_data)


def resolve_source(job: Job, request: Any) -> Any:
    """The answer of ResolveSourceMeta. Raises KedgeError."""
    source = read_source(request.Source, 0)
    response = gateway.ResolveSourceMetaResponse(Source=request.Source)
    platform = read_platform(request.Platform) if request.HasField("Platform") else None
    if source.scheme == "docker-image":
        name = source.identifier.partition("://")[2]
        found = resolve_image(job, name, platform, request.ResolveMode, request.LogName, request.SourcePolicies)
        response.Image.Digest = found.digest
        if not request.Image.NoConfig:
            response.Image.Config = found.config
        return response
    if source.scheme == "oci-layout":
        name = source.identifier.partition("://")[2]
        store = source.attr("oci.store") or name.partition("@")[0]
        found = resolve_layout(job, name, platform, store, source.attr("oci.session"))
        response.Image.Digest, response.Image.Config = found.digest, found.config
        return response
    if source.scheme == "local":
        return response  # the client knows better
    pin = _pin(job, source, platform, request.LogName)
    labels = dict(pin.labels)
    if source.scheme == "git":
        response.Git.Checksum = labels.get("commit", "")
        response.Git.Ref = labels.get("ref", "")
        return response
    if source.scheme in ("http", "https"):
        response.HTTP.Checksum = labels.get("content", "")
        response.HTTP.Filename = source.attr("http.filename")
        return response
    raise Unsupported(f"sources of the kind {source.scheme} cannot be resolved without bringing them")


def _pin(job: Job, source: Source, platform: Platform | None, title: str) -> Any:
    from kedge.builder.steps import step

    parts = job.parts(BuildRequest())
    with step(parts.report, parts.trunk.cancel, title or f"resolve {source.identifier[:100]}") as work:
        return parts.handler(source.scheme).pin(source, platform, work)
