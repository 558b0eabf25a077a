"""Git sources as ADD, contexts and named contexts spell them: `https://host/x.git?ref=v1#main:sub`, `git@host:x.git`.

Owns the grammar of BuildKit's git references and the Source op they lower to. Fetches nothing.
"""

import re

from kedge.model.errors import DockerfileError
from kedge.model.ops import Source
from kedge.model.value import dataclass, replace

_PROTOCOL = r"([a-zA-Z0-9]+)://"
_SCP = (
    r"(?P<user>[a-zA-Z0-9_-]+)@(?P<host>[a-zA-Z0-9.-]+):(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?"
)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_WITHOUT_VALUE = frozenset({"submodules", "keep-git-dir", "fetch-by-commit"})


@dataclass(frozen=True, slots=True)
class GitReference:
    """A repository and what of it: `remote` is what git is given, `host` and `path` what names it for the cache."""

    remote: str
    scheme: str
    host: str
    path: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None
    mtime: str = ""
    fetch_by_commit: bool = False

    def source(self) -> Source:
        """The Source op."""
        identifier = "git://" + self.host + _join("/", self.path)
        if self.ref or self.subdir:
            identifier += f"#{self.ref}" + (f":{self.subdir}" if self.subdir else "")
        attrs = {
            "git.authheadersecret": "GIT_AUTH_HEADER",
            "git.authtokensecret": "GIT_AUTH_TOKEN",
            "git.fullurl": self.remote,
            "git.keepgitdir": "true" if self.keep_git_dir else "",
            "git.checksum": self.checksum,
            "git.skipsubmodules": "true" if self.submodules is False else "",
            "git.mtime": self.mtime,
            "git.fetchbycommit": "true" if self.fetch_by_commit else "",
            "git.mountsshsock": "default" if self.scheme == "ssh" else "",
        }
        return Source(identifier, tuple(sorted((key, value) for key, value in attrs.items() if value)))


def parse_git_reference(text: str, *, context: bool = False) -> GitReference | None:
    """The git source that `text` is, None if it is something else (a path, another URL).

    An http(s) URL is a git source when its path ends in `.git`. `github.com/…` is one only as a `context`. Raises
    DockerfileError for a git source with a bad query.
    """
    if text.startswith(("./", "../")):
        return None
    if text.startswith("github.com/"):
        return _from_url("https://" + text) if context else None
    if re.match(_PROTOCOL, text):
        return _from_url(text)
    match = re.fullmatch(_SCP, text)
    if match is None:
        return None
    remote = f"{match['user']}@{match['host']}:{match['path']}"
    bare = GitReference(remote, "ssh", match["host"], match["path"])
    return _with_options(bare, match["query"] or "", match["fragment"] or "")


def _from_url(text: str) -> GitReference | None:
    from urllib.parse import urlsplit, urlunsplit

    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https", "ssh", "git"):
        return None
    if scheme in ("http", "https") and not parts.path.endswith(".git"):
        return None
    remote = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    bare = GitReference(remote, scheme, parts.netloc.rpartition("@")[2], parts.path)
    return _with_options(bare, parts.query, parts.fragment)


def _with_options(bare: GitReference, query: str, fragment: str) -> GitReference:
    from urllib.parse import parse_qs

    ref, _, subdir = fragment.partition(":")
    found = replace(bare, ref=ref, subdir=_join("/", subdir).lstrip("/"))
    qualified: dict[str, str] = {}
    for key, values in parse_qs(query, keep_blank_values=True).items():
        value = _single(key, values)
        if key in ("tag", "branch"):
            prefix = "refs/tags/" if key == "tag" else "refs/heads/"
            qualified[key] = prefix + value.removeprefix(prefix)
        else:
            found = _with_option(found, key, value)
    if len(qualified) == 2:
        raise DockerfileError("a git reference has a tag or a branch, not both")
    for value in qualified.values():
        found = _with_ref(found, value)
    return found


def _single(key: str, values: list[str]) -> str:
    if len(values) > 1:
        raise DockerfileError(f"the git option {key[:100]!r} is given more than once")
    if not values[0] and key not in _WITHOUT_VALUE:
        raise DockerfileError(f"the git option {key[:100]!r} has no value")
    return values[0]


def _with_option(found: GitReference, key: str, value: str) -> GitReference:
    if key == "ref":
        return _with_ref(found, value)
    if key == "subdir":
        if found.subdir and found.subdir != value:
            raise DockerfileError(f"the git reference names two subdirectories, {found.subdir!r} and {value!r}")
        return replace(found, subdir=value)
    if key in ("checksum", "commit"):
        return replace(found, checksum=value)
    if key == "mtime" and value in ("checkout", "commit"):
        return replace(found, mtime=value)
    if key in _WITHOUT_VALUE and (not value or value in _TRUE or value in _FALSE):
        on = value not in _FALSE
        if key == "submodules":
            return replace(found, submodules=on)
        return replace(found, keep_git_dir=on) if key == "keep-git-dir" else replace(found, fetch_by_commit=on)
    known = "ref, tag, branch, subdir, checksum, commit, keep-git-dir, submodules, mtime, fetch-by-commit"
    raise DockerfileError(f"invalid git option {key[:100]}={value[:100]}", hint=f"Options are {known}.")


def _with_ref(found: GitReference, ref: str) -> GitReference:
    if found.ref and found.ref != ref:
        raise DockerfileError(f"the git reference names two refs, {found.ref!r} and {ref!r}")
    return replace(found, ref=ref)


def _join(*parts: str) -> str:
    """Parts joined and cleaned, `..` never above the root: a subdirectory cannot leave its repository."""
    stack: list[str] = []
    for part in "/".join(parts).split("/"):
        if part == "..":
            del stack[-1:]
        elif part not in ("", "."):
            stack.append(part)
    return "/" + "/".join(stack)
