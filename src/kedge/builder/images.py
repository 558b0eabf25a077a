"""Base images, looked up before lowering: names to configs and digests, each shown as a step.

Owns the question; `sources` knows the answer.
"""

from kedge.builder.parts import Parts
from kedge.builder.steps import step
from kedge.dockerfile.options import ImageRequest, ResolvedImage
from kedge.model.errors import KedgeError, NotFound
from kedge.model.image import ImageConfig
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference


async def resolve(parts: Parts, request: ImageRequest) -> ResolvedImage:
    """The image behind a request; raises KedgeError at the request's line."""
    return await parts.trunk.call(_resolve, parts, request)


def _resolve(parts: Parts, request: ImageRequest) -> ResolvedImage:
    title = request.title or f"[internal] load metadata for {request.reference}"
    if request.scheme == "input":
        return _input(parts, request)
    try:
        with step(parts.report, parts.trunk.cancel, title) as work:
            if request.scheme == "oci-layout":
                image = parts.layouts.resolve(request.reference, request.platform)
                return ResolvedImage(image.config, image.target.digest)
            pull = parts.request.pull
            source = _permitted(parts, request.reference, request.platform)
            if source.scheme != "docker-image":
                return ResolvedImage(ImageConfig(request.platform), source=source)
            name = source.identifier.partition("://")[2]
            reference = parse_reference(name)
            found = parts.images.resolve(reference, request.platform, "pull" if pull else "default", work)
            return ResolvedImage(found.config, found.target.digest, "" if name == request.reference else name)
    except KedgeError as error:
        raise _explained(error, request).at(request.location, request.stage) from None


def _permitted(parts: Parts, reference: str, platform: Platform | None) -> Source:
    """What to use instead, if a policy says so. Raises InvalidInput for what is denied."""
    source = Source(f"docker-image://{reference}")
    return parts.policy(source, platform) if parts.policy else source


def _input(parts: Parts, request: ImageRequest) -> ResolvedImage:
    for one in parts.remote.inputs:
        if one.name == request.reference:
            return ResolvedImage(one.config or ImageConfig(request.platform))
    raise NotFound(f"no input {request.reference[:80]!r} is given").at(request.location, request.stage)


def _explained(error: KedgeError, request: ImageRequest) -> KedgeError:
    """Name the image, and the stage it may have meant: a mistyped stage name reads like an image's."""
    name = parse_reference(request.reference).familiar if request.scheme == "docker-image" else request.reference
    if name not in error.message:
        error.message = f"{name}: {error.message}"
    error.hint = request.suggestion() or error.hint
    return error
