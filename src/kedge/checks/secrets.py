"""Which files hold a private key or a credential: by name first, then by what is in them.

Owns the table of names and contents. Never gives any of a content away: answers are the names of kinds. Bounded: at
most `LONGEST` bytes of a file are read.
"""

import posixpath
import re
from collections.abc import Callable
from typing import Final

from kedge.model.value import dataclass

LONGEST: Final = 64 << 10
INSTEAD: Final = "Lend it to the step that needs it: RUN --mount=type=secret; and replace it, as it has been given away"

# No pattern may take more than linear time: `^[ \t]*` and not `^\s*`, no two classes side by side that overlap.
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----\s+\S")
_NETRC = re.compile(rb"(?m)^[ \t]*(?:machine\s{1,20}\S{1,255}|default)\b[\s\S]{0,400}?\bpassword\s+\S")
_NPMRC = re.compile(rb"(?m)^[^#;\n]*:?_(?:authToken|auth|password)\s*=\s*[^\s$]")
_PYPIRC = re.compile(rb"(?m)^[ \t]*password\s*[=:]\s*[^\s$]")
_AWS = re.compile(rb"(?m)^[ \t]*aws_secret_access_key\s*=\s*[^\s$]", re.IGNORECASE)
_DOCKER = re.compile(rb"\"(?:auth|identitytoken|registrytoken)\"\s*:\s*\"[^\"]+\"")
_GIT_CREDENTIALS = re.compile(rb"(?m)^https?://[^\s:/@]+:[^\s@]+@")
_GIT_CONFIG = re.compile(
    rb"(?m)^[ \t]*(?:url[ \t]*=[ \t]*https?://(?:[^\s:/@]*:[^\s@/]+|gh[pousr]_\w+)@"
    rb"|extraheader[ \t]*=[ \t]*authorization:)",
    re.IGNORECASE,
)
_SERVICE_ACCOUNT = re.compile(rb"\"private_key\"\s*:\s*\"-----BEGIN")
_KUBECONFIG = re.compile(rb"(?m)^[ \t]*(?:- )?(?:client-key-data|token|password)\s*:\s*[^\s\"'{]")
_AWS_KEY = re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")
_TOKENS = re.compile(
    rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}|glpat-[A-Za-z0-9_-]{20,}|xox[baprs]-[A-Za-z0-9-]{20,}"
    rb"|sk_live_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{36})\b"
)


@dataclass(frozen=True, slots=True)
class Secret:
    """A kind of secret: its name in a sentence, and what its files have in them."""

    what: str
    content: re.Pattern[bytes]


_KEY = Secret("a private key", _PRIVATE_KEY)
_EXACT: Final[dict[str, Secret]] = {
    "id_rsa": _KEY,
    "id_dsa": _KEY,
    "id_ecdsa": _KEY,
    "id_ed25519": _KEY,
    "identity": _KEY,
    ".netrc": Secret("a password in .netrc", _NETRC),
    "_netrc": Secret("a password in .netrc", _NETRC),
    ".npmrc": Secret("an npm token", _NPMRC),
    ".pypirc": Secret("a password in .pypirc", _PYPIRC),
    ".git-credentials": Secret("a Git password", _GIT_CREDENTIALS),
    ".dockercfg": Secret("a registry's credentials", _DOCKER),
    ".env": Secret("an access token", _TOKENS),
    "application_default_credentials.json": Secret(
        "Google Cloud credentials", re.compile(rb"\"refresh_token\"|PRIVATE KEY")
    ),
}
_IN_DIRECTORY: Final[dict[tuple[str, str], Secret]] = {  # (name of the directory, name)
    (".aws", "credentials"): Secret("an AWS secret key", _AWS),
    (".aws", "config"): Secret("an AWS secret key", _AWS),
    (".docker", "config.json"): Secret("a registry's credentials", _DOCKER),
    (".kube", "config"): Secret("a Kubernetes credential", _KUBECONFIG),
    (".git", "config"): Secret("a Git password", _GIT_CONFIG),
}
_SUFFIXES: Final[dict[str, Secret]] = {
    ".pem": _KEY,
    ".key": _KEY,
    "_rsa": _KEY,
    "_ed25519": _KEY,
    "_ecdsa": _KEY,
    "_key": _KEY,
    ".asc": _KEY,
    ".ppk": Secret("a private key", re.compile(rb"PuTTY-User-Key-File-")),
}
_ENVIRONMENT = Secret("an AWS access key", _AWS_KEY)
# Keys that are known to all the world, and those that come with packages for their tests.
_HARMLESS: Final = frozenset({"ssl-cert-snakeoil.key"})
_ELSEWHERE: Final = frozenset(
    "node_modules site-packages dist-packages vendor gems test tests testdata testing fixtures examples example doc "
    "docs __tests__ spec third_party".split()
)


# One look at a name, so that nearly all files cost no more than that.
_SUSPECT = re.compile(
    r"(?:id_(?:rsa|dsa|ecdsa|ed25519)|identity|credentials|config|_netrc|\.(?:netrc|npmrc|pypirc|git-credentials|dockercfg))\Z"
    r"|\.env|.*(?:\.(?:pem|key|asc|ppk|json)|_(?:rsa|ed25519|ecdsa|key))\Z"
)


def is_suspect(name: str) -> bool:
    """Whether a file of that name may be worth a closer look; False for nearly all names."""
    return _SUSPECT.match(name) is not None


def candidate(path: str) -> list[Secret]:
    """The kinds of secret that a file of this path may hold; [] for nearly all paths."""
    directory, _, name = path.rpartition("/")
    found = [row for row in (_EXACT.get(name), _IN_DIRECTORY.get((posixpath.basename(directory), name))) if row]
    if not found:
        found = [row for suffix, row in _SUFFIXES.items() if name.endswith(suffix)]
    if name == ".env" or name.startswith(".env."):
        found = [_EXACT[".env"], _ENVIRONMENT]
    if not found and name.endswith(".json") and ("account" in name or "credential" in name):
        found = [Secret("a service account's private key", _SERVICE_ACCOUNT)]
    if not found or name in _HARMLESS or _ELSEWHERE.intersection(directory.split("/")):
        return []
    return found


def secret_in(path: str, read: Callable[[], bytes]) -> str:
    """What kind of secret the file holds, empty for none; `read` gives its first LONGEST bytes."""
    rows = candidate(path)
    if not rows:
        return ""
    data = read()
    return next((row.what for row in rows if row.content.search(data)), "")
