"""Image names: Docker's grammar and normal form.

Owns the syntax (distribution reference grammar) and the rules that fill in what people leave out. Does not know
whether an image exists, nor at which address a registry answers.
"""

import re
from typing import Final

from kedge.model.digest import Digest, parse_digest
from kedge.model.errors import InvalidDigest, InvalidReference
from kedge.model.value import dataclass, replace

DOCKER_HUB: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
_LONGEST_REPOSITORY: Final = 255

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")
_PATH_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """The full name of an image: `registry/repository[:tag][@digest]`.

    `registry` is a host with an optional port (`docker.io` for Docker Hub, whatever host serves it). A reference with
    neither tag nor digest names a repository; `parse_reference` never returns one.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        """`registry/repository`: the image's name without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The short form people use: without `docker.io/` and `library/`."""
        return self.familiar_name + str(self)[len(self.name) :]

    @property
    def familiar_name(self) -> str:
        """The short form of `name`."""
        if self.registry != DOCKER_HUB:
            return self.name
        short = self.repository.removeprefix("library/")
        return self.repository if "/" in short else short

    @property
    def repository_only(self) -> "Reference":
        """The repository this names something in."""
        return Reference(self.registry, self.repository)

    def with_tag(self, tag: str) -> "Reference":
        """This repository's `tag`, without digest; raises InvalidReference for what is no tag."""
        return Reference(self.registry, self.repository, parse_tag(tag))

    def with_digest(self, digest: Digest) -> "Reference":
        """This name pinned to `digest`; the tag stays, for people to read."""
        return replace(self, digest=digest)


def parse_tag(text: str) -> str:
    """`text`, if it is a tag; raises InvalidReference."""
    if not _TAG.fullmatch(text):
        raise InvalidReference(
            f"invalid tag {text[:140]!r}",
            hint="A tag has at most 128 letters, digits, '_', '.' and '-', and starts with none of '.-'.",
        )
    return text


def parse_reference(text: str) -> Reference:
    """The image that `text` names, in normal form; raises InvalidReference.

    `golang` is `docker.io/library/golang:latest`; the first part is a registry if it has a dot, a colon or an upper-
    case letter, or is `localhost`. With a digest no tag is filled in.
    """
    shown = repr(text[:300])
    if not text or text != text.strip():
        raise InvalidReference(f"invalid image name {shown}: it is empty or has spaces around it")
    if _IMAGE_ID.fullmatch(text):
        raise InvalidReference(f"invalid image name {shown}: 64 hexadecimal digits are an image id, not a name")
    rest, at, digest_text = text.partition("@")
    digest = _digest(digest_text, shown) if at else None
    path, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # the colon, if any, belongs to the registry's port
        path, tag, colon = rest, "", ""
    if colon:
        parse_tag(tag)
    registry, repository = _split_registry(path)
    _check_name(registry, repository, shown)
    return Reference(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest)


def parse_repository(text: str) -> Reference:
    """The repository that `text` names, without tag or digest; raises InvalidReference if it has one."""
    if "@" in text or ":" in text.rpartition("/")[2]:
        raise InvalidReference(f"invalid repository name {text[:300]!r}: a tag or digest is not allowed here")
    return parse_reference(text).repository_only


def parse_registry(text: str) -> str:
    """A registry's host with optional port in normal form (`index.docker.io` is `docker.io`), or InvalidReference."""
    if not _HOST.fullmatch(text):
        raise InvalidReference(f"invalid registry {text[:300]!r}: expected a host name, with a port if need be")
    host = text.lower()
    return DOCKER_HUB if host in ("index.docker.io", "registry-1.docker.io") else host


def _digest(text: str, shown: str) -> Digest:
    try:
        return parse_digest(text)
    except InvalidDigest as error:
        raise InvalidReference(f"invalid image name {shown}: {error.message}") from None


def _split_registry(path: str) -> tuple[str, str]:
    first, slash, rest = path.partition("/")
    if not slash or not (set(first) & set(".:") or first == "localhost" or first != first.lower()):
        first, rest = DOCKER_HUB, path
    if first == "index.docker.io":
        first = DOCKER_HUB
    if first == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def _check_name(registry: str, repository: str, shown: str) -> None:
    if not _HOST.fullmatch(registry):
        raise InvalidReference(f"invalid image name {shown}: {registry[:300]!r} is no registry host")
    if repository != repository.lower() and all(_PATH_PART.fullmatch(part) for part in repository.lower().split("/")):
        raise InvalidReference(f"invalid image name {shown}: a repository name must be lowercase")
    if not all(_PATH_PART.fullmatch(part) for part in repository.split("/")):
        raise InvalidReference(
            f"invalid image name {shown}: {repository.removeprefix('library/')[:300]!r} is no repository name",
            hint="A name is [registry/]path[:tag][@digest]; a path has lower-case letters and digits.",
        )
    if len(repository) > _LONGEST_REPOSITORY:
        raise InvalidReference(
            f"invalid image name {shown}: its repository is longer than {_LONGEST_REPOSITORY} characters"
        )
