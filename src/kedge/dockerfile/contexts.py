"""Contexts: the client's directory, git repositories, URLs and images that a build is given by name.

Owns how a context's specifier lowers to a source. Does not know stages. Behaviour is BuildKit's frontend/dockerui.
"""

import json
from collections.abc import Callable, Iterable

from kedge.dockerfile.drafts import DraftEdge, Drafts
from kedge.dockerfile.gitref import parse_git_reference
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage
from kedge.model.errors import DockerfileError, KedgeError, Location
from kedge.model.graph import Hints
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from kedge.model.value import dataclass

MAIN = "context"
_NEVER_REPLACED = frozenset({"scratch", "context"})


@dataclass(frozen=True, slots=True)
class NamedContext:
    """A context that `--build-context key=specifier` gives. `key` may end in `::platform`."""

    key: str
    specifier: str

    @property
    def scheme(self) -> str:
        scheme = self.specifier.partition(":")[0]
        return "git" if scheme.startswith("git@") else scheme

    @property
    def rest(self) -> str:
        return self.specifier.partition(":")[2].removeprefix("//")

    def request(self, platform: Platform, location: Location, stage: str) -> ImageRequest | None:
        """The image to resolve before it can be used, None if it is none; raises InvalidReference, DockerfileError."""
        if self.scheme == "docker-image" and self.rest != "scratch":
            reference = str(parse_reference(self.rest))
            title = f"[context {self.key}] load metadata for {self.rest}"
            return ImageRequest(reference, platform, "docker-image", title, location, stage)
        if self.scheme == "oci-layout":
            title = f"[context {self.key}] load metadata for {self.rest}"
            return ImageRequest(self.rest, platform, "oci-layout", title, location, stage)
        if self.scheme == "input":
            return ImageRequest(self.rest, platform, "input", location=location, stage=stage)
        if self.scheme not in ("docker-image", "git", "http", "https", "local"):
            hint = "It is docker-image://, oci-layout://, local:NAME, or a git or http(s) URL."
            raise DockerfileError(f"unknown kind of build context {self.specifier[:100]!r} for {self.key}", hint=hint)
        return None


def find(options: LowerOptions, name: str, platform: Platform | None) -> NamedContext | None:
    """The named context that replaces a stage or image `name`, if the caller gave one."""
    if not options.contexts or name.lower() in _NEVER_REPLACED:
        return None
    wanted = _normal(name)
    known = {_normal(key): key for key in options.contexts}
    for candidate in (f"{wanted}::{platform or options.platform}", wanted):
        if candidate in known:
            return NamedContext(known[candidate], options.contexts[known[candidate]])
    return None


def _normal(name: str) -> str:
    name, separator, platform = name.partition("::")
    try:
        name = parse_reference(name).familiar.removesuffix(":latest")
    except KedgeError:
        name = name.lower()
    return name + separator + platform


def main_context(drafts: Drafts, options: LowerOptions, paths: Callable[[], Iterable[str]]) -> DraftEdge:
    """The build context, of which only `paths` are looked at."""
    if options.main_context:
        return DraftEdge(None, 0, options.main_context)
    hints = Hints("[internal] load build context", internal=True)
    return drafts.add(lambda: _local(MAIN, MAIN, options, paths()), hints=hints)


def lower_context(
    context: NamedContext,
    drafts: Drafts,
    options: LowerOptions,
    platform: Platform,
    image: ResolvedImage | None,
    paths: Callable[[], Iterable[str]],
) -> DraftEdge | None:
    """The root file system a named context stands for; None if it is empty."""
    prefix = f"[context {context.key}] "
    if context.scheme == "docker-image":
        if image is None:
            return None
        if image.source:
            return drafts.add(image.source, hints=Hints(prefix + image.source.identifier))
        name = image_name(context.rest, image)
        return drafts.add(Source(f"docker-image://{name}"), platform=platform, hints=Hints(prefix + name))
    if context.scheme == "oci-layout":
        source = oci_layout(context.rest, image)
        return drafts.add(source, platform=platform, hints=Hints(prefix + "OCI load from client"))
    if context.scheme == "input":
        edge = options.inputs.get(context.rest)
        return DraftEdge(None, 0, edge) if edge else None
    if context.scheme == "local":
        hint = f"context:{context.key}-"
        return drafts.add(
            lambda: _local(context.rest, hint, options, paths()), hints=Hints(prefix + "load from client")
        )
    git = parse_git_reference(context.specifier, context=True)
    if git:
        title = f"[internal] load git source {without_credentials(context.specifier)}"
        return drafts.add(git.source(), hints=Hints(title, internal=True))
    if context.scheme == "git":
        raise DockerfileError(f"invalid git context {context.specifier[:100]!r}")
    source = Source(context.specifier, (("http.filename", "context"),))
    return drafts.add(source, hints=Hints(prefix + without_credentials(context.specifier)))


def image_name(reference: str, image: ResolvedImage | None) -> str:
    """The full name to take an image by: pinned to the digest that it was resolved to."""
    parsed = parse_reference(image.reference if image and image.reference else reference)
    return str(parsed.with_digest(image.digest) if image and image.digest else parsed)


def oci_layout(rest: str, image: ResolvedImage | None) -> Source:
    """The source of an image in the client's OCI layout; `rest` is STORE@DIGEST or STORE:TAG."""
    store, _, digest = rest.partition("@")
    pinned = (image and image.digest) or digest
    return Source(f"oci-layout://{store}" + (f"@{pinned}" if pinned else ""), (("oci.store", store),))


def _local(name: str, key_hint: str, options: LowerOptions, paths: Iterable[str]) -> Source:
    attrs = {"local.sharedkeyhint": key_hint}
    ignored = options.ignore.get(name, ())
    if ignored:
        attrs["local.excludepatterns"] = json.dumps(list(ignored), separators=(",", ":"), ensure_ascii=False)
    followed = sorted({path.strip("/") for path in paths})
    if followed and "" not in followed:
        attrs["local.followpaths"] = json.dumps(followed, separators=(",", ":"), ensure_ascii=False)
    return Source(f"local://{name}", tuple(sorted(attrs.items())))


def without_credentials(url: str) -> str:
    """`url` without the user and password in it."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return scheme + separator + authority.rpartition("@")[2] + slash + path if separator else url
