"""What a source is, without bringing it: image configs, commits, checksums.

Owns the translation; `sources` knows the answers.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final

from kedge.builder.parts import Parts
from kedge.builder.request import BuildRequest
from kedge.builder.steps import step
from kedge.daemon.buildkit.definition import read_platform
from kedge.daemon.buildkit.errors import Refused
from kedge.daemon.buildkit.jobs import Job
from kedge.daemon.buildkit.ops import read_source
from kedge.daemon.sessions.layouts import LentLayouts
from kedge.daemon.wire import gateway, llb
from kedge.model.digest import Digest, parse_digest
from kedge.model.errors import Unsupported
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from kedge.model.value import dataclass
from kedge.sources.handler import Work
from kedge.sources.pick import PickedImage

_LONGEST_SUFFIX: Final = 4096
_ALGORITHMS: Final = ("sha256", "sha384", "sha512")  # by the numbers of ChecksumRequest


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image's full name, digest and config, and what it was picked out of."""

    reference: str
    digest: str
    config: bytes
    picked: PickedImage


def resolve_image(
    job: Job, name: str, platform: Platform | None, mode: str, title: str, policies: Sequence[Any] = ()
) -> FoundImage:
    """The config of an image for a platform. Raises KedgeError."""
    parts = job.parts(BuildRequest(), policies)
    source = Source(f"docker-image://{parse_reference(name)}")
    if parts.policy is not None:
        source = parts.policy(source, platform)
        if source.scheme != "docker-image":
            raise Unsupported(f"a policy replaces the image {name[:200]} by what is none")
    return _image(parts, source, platform, mode, title)


def _image(parts: Parts, source: Source, platform: Platform | None, mode: str, title: str) -> FoundImage:
    reference = parse_reference(source.identifier.partition("://")[2])
    with step(parts.report, parts.trunk.cancel, title or f"resolve image config for {reference}") as work:
        found = parts.images.resolve(reference, platform or parts.host, "pull" if mode == "pull" else "default", work)
        return FoundImage(str(reference), found.target.digest, found.config_data, found)


def resolve_layout(job: Job, name: str, platform: Platform | None, store: str, session: str) -> FoundImage:
    """The config of an image in a layout that the client lends. Raises KedgeError."""
    layouts = LentLayouts(job.store, job.config.worker_platforms[0], job.lent.lender)
    digest = name.rpartition("@")[2]
    found = layouts.resolve(f"{store}@{digest}", platform or job.config.worker_platforms[0], session)
    return FoundImage(name, found.target.digest, found.config_data, found)


def resolve_source(job: Job, request: Any, policed: bool = True) -> Any:
    """The answer of ResolveSourceMeta: about what a policy makes of the source, unless it is asked for one's sake.
    Raises KedgeError.
    """
    parts = job.parts(BuildRequest(), request.SourcePolicies, policed)
    source = read_source(request.Source, 0)
    platform = read_platform(request.Platform) if request.HasField("Platform") else None
    if parts.policy is not None:
        source = parts.policy(source, platform)
        parts.policy = None  # it has spoken
    told = llb.SourceOp(identifier=source.identifier, attrs=dict(source.attrs))
    response = gateway.ResolveSourceMetaResponse(Source=told)
    if source.scheme in ("docker-image", "oci-layout"):
        found = _image_of(job, parts, source, platform, request)
        response.Image.Digest = found.digest
        if not request.Image.NoConfig:
            response.Image.Config = found.config
        if source.scheme == "docker-image" and (request.Image.AttestationChain or request.Image.ResolveAttestations):
            _tell_attested(response.Image, parts, found, request.Image.ResolveAttestations)
    elif source.scheme != "local":  # of its directories the client knows better
        with step(parts.report, parts.trunk.cancel, request.LogName or f"resolve {source.identifier[:100]}") as work:
            if source.scheme == "git":
                _tell_git(response.Git, parts, source, work, request.Git.ReturnObject)
            else:
                _tell_http(response.HTTP, parts, source, work, request.HTTP)
    return response


def _tell_attested(told: Any, parts: Parts, found: FoundImage, kinds: Sequence[str]) -> None:
    from kedge.sources.attested import find_chain

    with step(parts.report, parts.trunk.cancel, f"resolve attestations of {found.reference}"):
        chain = find_chain(parts.store, parts.registry, parse_reference(found.reference), found.picked, kinds)
    if chain is None:
        return
    message = told.AttestationChain
    message.Root, message.ImageManifest = chain.root, chain.image
    message.AttestationManifest = chain.attestation or ""
    message.SignatureManifests.extend(chain.signatures)
    for digest, blob in chain.blobs.items():
        one, descriptor = message.Blobs[digest], blob.descriptor
        one.data = blob.data
        one.descriptor.media_type, one.descriptor.digest = descriptor.media_type, digest
        one.descriptor.size = len(blob.data)
        one.descriptor.annotations.update(descriptor.annotations)


def _tell_git(told: Any, parts: Parts, source: Source, work: Work, whole: bool) -> None:
    git: Any = parts.handler("git")
    named = git.describe(source, work)
    told.Ref, told.Checksum = named.ref, named.tag or named.commit
    if named.tag:
        told.CommitChecksum = named.commit
    if whole:
        told.CommitObject, told.TagObject = git.objects(source, work)


def _tell_http(told: Any, parts: Parts, source: Source, work: Work, request: Any) -> None:
    http = parts.handler("http")
    pin = http.pin(source, None, work)
    labels = dict(pin.labels)
    told.Checksum, told.Filename = labels.get("content", ""), labels.get("file", "")
    if modified := labels.get("modified"):
        with suppress(ValueError):
            told.LastModified.FromSeconds(int(parsedate_to_datetime(modified).timestamp()))
    if request.HasField("ChecksumRequest"):
        content = parse_digest(told.Checksum)
        if not parts.store.blobs.has(content):  # its checksum was given, so that nobody has asked for the file yet
            http.fetch(source, None, pin, work)
        told.ChecksumResponse.Digest = _checksum(parts, content, request.ChecksumRequest)
        told.ChecksumResponse.Suffix = request.ChecksumRequest.Suffix


def _checksum(parts: Parts, content: Digest, asked: Any) -> str:
    """The digest of a file and what is to stand behind it, as those sign who sign a file with a note of their own."""
    if not 0 <= asked.Algo < len(_ALGORITHMS):
        raise Refused(f"unsupported checksum algorithm {asked.Algo}")
    name = _ALGORITHMS[asked.Algo]
    if len(asked.Suffix) > _LONGEST_SUFFIX:
        raise Refused(f"http checksum request suffix exceeds max size {_LONGEST_SUFFIX}")
    hasher = hashlib.new(name)
    with parts.store.blobs.open(content) as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    hasher.update(asked.Suffix)
    return f"{name}:{hasher.hexdigest()}"


def _image_of(job: Job, parts: Parts, source: Source, platform: Platform | None, request: Any) -> FoundImage:
    if source.scheme == "docker-image":
        return _image(parts, source, platform, request.ResolveMode, request.LogName)
    name = source.identifier.partition("://")[2]
    store = source.attr("oci.store") or name.partition("@")[0]
    return resolve_layout(job, name, platform, store, source.attr("oci.session"))
