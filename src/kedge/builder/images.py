"""Base images, looked up before lowering: names to configs and digests, each shown as a step.

Owns the question; `sources` knows the answer.
"""

from kedge.builder.parts import Parts
from kedge.builder.steps import step
from kedge.dockerfile.options import ImageRequest, ResolvedImage
from kedge.model.errors import KedgeError, NotFound
from kedge.model.reference import parse_reference


async def resolve(parts: Parts, request: ImageRequest) -> ResolvedImage:
    """The image behind a request; raises KedgeError at the request's line."""
    return await parts.trunk.call(_resolve, parts, request)


def _resolve(parts: Parts, request: ImageRequest) -> ResolvedImage:
    title = request.title or f"[internal] load metadata for {request.reference}"
    try:
        with step(parts.report, parts.trunk.cancel, title) as work:
            if request.scheme == "oci-layout":
                image = parts.layouts.resolve(request.reference, request.platform)
                return ResolvedImage(image.config, image.target.digest)
            pull = parts.request.pull
            reference = parse_reference(request.reference)
            found = parts.images.resolve(reference, request.platform, "pull" if pull else "default", work)
            return ResolvedImage(found.config, found.target.digest)
    except NotFound as error:
        raise _with_nearest(error, request).at(request.location, request.stage) from None
    except KedgeError as error:
        raise error.at(request.location, request.stage) from None


def _with_nearest(error: NotFound, request: ImageRequest) -> NotFound:
    """A mistyped stage name reads like an image: name the nearest stage."""
    if not error.hint and request.alternatives:
        from kedge.dockerfile.suggest import nearest

        word = parse_reference(request.reference).familiar.partition(":")[0]
        if close := nearest(word, request.alternatives):
            error.hint = f"Did you mean {close}?"
    return error
