"""The frontend attributes of a Dockerfile build as a BuildRequest.

Owns their names and syntax, which are those of BuildKit's `dockerfile.v0` (frontend/dockerui). Pure: what must be
fetched for a context is left to the caller.
"""

import csv
import ipaddress
import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from kedge.builder.remote import RemoteRequest
from kedge.builder.request import CacheSpec
from kedge.daemon.buildkit.errors import UnknownFrontendCap, UnknownSubrequest
from kedge.dockerfile.gitref import parse_git_reference
from kedge.exporters.attest import read_fields, write_fields
from kedge.model.errors import InvalidInput
from kedge.model.ops import Pairs, Ulimit
from kedge.model.value import dataclass, field

Call = Literal["build", "check", "outline", "targets", "lint"]
_CALLS: Final[dict[str, Call]] = {
    "frontend.outline": "outline",
    "frontend.targets": "targets",
    "frontend.lint": "lint",
}
DESCRIBE: Final = "frontend.subrequests.describe"
UPLOAD: Final = "http://buildkit-session/"
_FRONTEND_CAPS: Final = frozenset(
    "moby.buildkit.frontend.inputs moby.buildkit.frontend.subrequests moby.buildkit.frontend.contexts "
    "moby.buildkit.frontend.gitquerystring".split()
)
_NETWORKS: Final[dict[str, Literal["", "none", "host"]]] = {"": "", "none": "none", "host": "host", "sandbox": ""}


@dataclass(frozen=True, slots=True)
class Frontend:
    """What the attributes ask for. `upload` is the URL of a context that the client streams."""

    request: RemoteRequest
    describe: bool = False
    upload: str = ""
    sessions: Mapping[str, str] = field(default_factory=dict)  # local directory -> id of the session that lends it


def read_attributes(attrs: Mapping[str, str]) -> Frontend:
    """The request that `attrs` spell; raises InvalidInput, Unsupported."""
    _check_caps(attrs.get("frontend.caps", ""))
    request_id = attrs.get("requestid", "")
    if request_id and request_id not in _CALLS and request_id != DESCRIBE:
        raise UnknownSubrequest(request_id)
    args = _prefixed(attrs, "build-arg:")
    context, lent, upload = _context(attrs)
    lent_file = attrs.get("dockerfilekey", "") or ("dockerfile" if lent else "")
    everything, stages = _no_cache(attrs)
    request = RemoteRequest(
        context=context,
        context_lent=lent,
        context_subdirectory=attrs.get("contextsubdir", ""),
        dockerfile=attrs.get("filename", "") or "Dockerfile",
        dockerfile_lent=lent_file,
        target=attrs.get("target", ""),
        build_args=tuple(sorted(args.items())),
        labels=tuple(sorted(_prefixed(attrs, "label:").items())),
        platforms=tuple(text for text in attrs.get("platform", "").split(",") if text),
        multi_platform=_multi_platform(attrs, args),
        named_contexts=tuple(sorted(_named_contexts(_prefixed(attrs, "context:")).items())),
        no_cache=everything,
        no_cache_filter=stages,
        pull=_pull(attrs.get("image-resolve-mode", "")),
        network=_network(attrs.get("force-network-mode", "")),
        add_hosts=_hosts(attrs.get("add-hosts", "")),
        shm_size=_number(attrs, "shm-size"),
        ulimits=_ulimits(attrs.get("ulimit", "")),
        memory=_number(attrs, "memory"),
        cpus=_cpus(attrs),
        cgroup_parent=attrs.get("cgroup-parent", ""),
        hostname=attrs.get("hostname", ""),
        cache_from=_cache_imports(attrs),
        vcs=tuple(sorted(_prefixed(attrs, "vcs:").items())),
        attestations=read_attestations(attrs),
        call=_CALLS.get(request_id, "build"),
    )
    return Frontend(request, request_id == DESCRIBE, upload, _prefixed(attrs, "local-sessionid:"))


def _prefixed(attrs: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key[len(prefix) :]: value for key, value in attrs.items() if key.startswith(prefix) and key != prefix}


def _check_caps(text: str) -> None:
    for cap in filter(None, text.split(",")):
        name = cap.removesuffix("+forward")
        if name not in _FRONTEND_CAPS:
            raise UnknownFrontendCap(name)


def _context(attrs: Mapping[str, str]) -> tuple[str | None, str, str]:
    """The context's URL, else the name it is lent under, else where the client streams it."""
    text = attrs.get(attrs.get("contextkey", "context"), "")
    if text.startswith(UPLOAD):
        return None, "", text
    if not text:
        return None, "context", ""
    if not text.startswith(("http://", "https://")) and parse_git_reference(text, context=True) is None:
        raise InvalidInput(f"invalid context {text[:100]!r}: expected a git or http(s) URL")
    return text, "", ""


# What a named context may be. A bare path would be one of this machine's, which no client has any right to.
_CONTEXT_KINDS: Final = ("docker-image", "oci-layout", "http", "https", "git", "ssh", "local", "input")


def _named_contexts(contexts: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, text in contexts.items():
        kind, colon, rest = text.partition(":")
        if not colon or (kind not in _CONTEXT_KINDS and parse_git_reference(text, context=True) is None):
            raise InvalidInput(f"invalid context specifier {text[:100]} for {name[:100]}")
        if kind in ("docker-image", "oci-layout", "local", "input"):
            text = (
                f"{kind}:{rest.removeprefix('//')}"
                if kind in ("local", "input")
                else f"{kind}://{rest.removeprefix('//')}"
            )
        found[name] = text
    return found


def _no_cache(attrs: Mapping[str, str]) -> tuple[bool, tuple[str, ...]]:
    if "no-cache" not in attrs:
        return False, ()
    stages = tuple(name for name in attrs["no-cache"].split(",") if name)
    return not stages, stages


def _multi_platform(attrs: Mapping[str, str], args: Mapping[str, str]) -> bool:
    text = args.get("BUILDKIT_MULTI_PLATFORM") or attrs.get("multi-platform", "")
    value = read_bool(text, "multi-platform") if text else False
    if text and not value and "," in attrs.get("platform", ""):
        raise InvalidInput("conflicting config: returning multiple target platforms is not allowed")
    return value


def read_bool(text: str, what: str) -> bool:
    """A yes or no as Go's strconv.ParseBool takes it; raises InvalidInput."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise InvalidInput(f"invalid boolean value for {what}: {text[:40]}")


def _pull(text: str) -> bool:
    if text not in ("", "default", "pull", "local"):
        raise InvalidInput(f"invalid image-resolve-mode: {text[:40]}")
    return text == "pull"


def _network(text: str) -> Literal["", "none", "host"]:
    if text not in _NETWORKS:
        raise InvalidInput(f"invalid netmode {text[:40]}")
    return _NETWORKS[text]


def _fields(text: str, what: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), []) if text else []
    except csv.Error:
        raise InvalidInput(f"invalid {what}: {text[:80]}") from None


def _hosts(text: str) -> Pairs:
    hosts = []
    for entry in _fields(text, "add-hosts"):
        name, equals, address = entry.lower().partition("=")
        if not equals or not name:
            raise InvalidInput(f"invalid key-value pair {entry[:80]}")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidInput(f"failed to parse IP {address[:60]}") from None
        hosts.append((name, address))
    return tuple(hosts)


def _ulimits(text: str) -> tuple[Ulimit, ...]:
    limits = []
    for entry in _fields(text, "ulimit"):
        name, equals, values = entry.partition("=")
        soft, _, hard = values.partition(":")
        try:
            limits.append(Ulimit(name.lower(), int(soft), int(hard or soft)))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise InvalidInput(f"invalid ulimit argument: {entry[:80]}")
    return tuple(limits)


def _number(attrs: Mapping[str, str], key: str) -> int:
    text = attrs.get(key, "")
    if not text:
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidInput(f"invalid {key} value: {text[:40]}")
    return int(text)


def _cpus(attrs: Mapping[str, str]) -> float:
    quota = _number(attrs, "cpuquota")
    return quota / (_number(attrs, "cpuperiod") or 100_000) if quota else 0.0


def _cache_imports(attrs: Mapping[str, str]) -> tuple[CacheSpec, ...]:
    found = [CacheSpec("registry", (("ref", ref),)) for ref in attrs.get("cache-from", "").split(",") if ref]
    if text := attrs.get("cache-imports", ""):
        try:
            entries = json.loads(text)
            found += [cache_spec(str(one.get("Type", "")), one.get("Attrs") or {}) for one in entries]
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise InvalidInput(f"failed to unmarshal cache-imports ({text[:80]!r})") from None
    return tuple(found)


def cache_spec(kind: str, attrs: Mapping[str, Any]) -> CacheSpec:
    """One cache import or export. One of type local names a directory of the client's: see `caches`."""
    return CacheSpec(kind, tuple(sorted((str(key), str(value)) for key, value in attrs.items())))


def read_attestations(attrs: Mapping[str, str]) -> Pairs:
    """`attest:KIND=…`, and the older spelling `build-arg:BUILDKIT_ATTEST_KIND`. `disabled=true` stays as it is."""
    found = _prefixed(attrs, "build-arg:BUILDKIT_ATTEST_") | _prefixed(attrs, "attest:")
    return tuple(sorted((key.lower(), _attestation(key.lower(), value)) for key, value in found.items()))


def _attestation(kind: str, text: str) -> str:
    """One attestation's attributes. Clients repeat its type among them."""
    words = [word for word in read_fields(text) if not word.startswith("type=")]
    if kind == "provenance":
        words = _asked_of_provenance(words)
    if not any(word.startswith("form=") for word in words):
        words.append("form=index")  # BuildKit's place for attestations is the index, where its clients look for them
    return write_fields(words)


def _asked_of_provenance(words: list[str]) -> list[str]:
    """BuildKit's attributes as ours: there, nothing said is mode=max, and that asks for build arguments' values."""
    if not any(word.startswith("mode=") or word in ("min", "max") for word in words):
        words.append("mode=max")
    if ("mode=max" in words or "max" in words) and not any(word.startswith("build-args") for word in words):
        words.append("build-args=true")
    return words
