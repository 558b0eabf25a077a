"""SLSA provenance v1: what a build was asked, what it was made of, and with `mode=max` how.

Owns the predicate's shape (slsa.dev/spec/v1.1/provenance, with the parameters that BuildKit's build type defines) and
what must not stand in it: values of build arguments, credentials in URLs. Secrets are known by their ids only. Does
not know graphs: steps come as JSON.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from kedge.exporters.attest import package_url
from kedge.model.errors import InvalidReference
from kedge.model.image import Descriptor
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from kedge.model.value import dataclass, field, replace

PREDICATE: Final = "https://slsa.dev/provenance/v1"
# The build type names how parameters are to be read; ours are BuildKit's, so that its readers understand them.
BUILD_TYPE: Final = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
PREDICATE_02: Final = "https://slsa.dev/provenance/v0.2"
BUILD_TYPE_02: Final = "https://mobyproject.org/buildkit@v1"
REDACTED: Final = "<redacted>"
_SHORTEST: Final = 4  # characters of a value that is looked for in other texts; shorter ones are everywhere
_CREDENTIALS = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@\"':]*(:?)[^/\s@\"']*@")
_QUERY = re.compile(r"\b(https?://[^\s?#\"']+)\?[^\s#\"']*")


@dataclass(frozen=True, slots=True)
class Material:
    """Something from outside that was used: an image by its full name, or a URL; `digest` is `sha256:…` or `sha1:…`."""

    uri: str
    digest: str
    is_image: bool = False
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """What a provenance tells of one platform's image.

    `build_args` and `labels` as given; `secrets` and `ssh` are (id, optional). `config_uri` and `config_digest` name a
    remote context. `steps`, `dockerfile` (name, bytes) and `layers` are told with mode=max only. Times are RFC 3339 or
    empty.
    """

    builder_platform: Platform
    path: str
    target: str = ""
    build_args: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, bool], ...] = ()
    ssh: tuple[tuple[str, bool], ...] = ()
    locals: tuple[str, ...] = ()
    contexts: tuple[tuple[str, str], ...] = ()
    materials: tuple[Material, ...] = ()
    config_uri: str = ""
    config_digest: str = ""
    hermetic: bool = False
    started: str = ""
    finished: str = ""
    invocation: str = ""
    vcs: tuple[tuple[str, str], ...] = ()
    steps: tuple[Mapping[str, Any], ...] = ()
    dockerfile: tuple[str, bytes] | None = None
    layers: tuple[tuple[str, tuple[Descriptor, ...]], ...] = ()  # step and output -> what it comes to in the image
    step_digests: Mapping[str, str] = field(default_factory=dict)
    step_locations: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    language: str = ""  # the version of the Dockerfile language
    told_args: tuple[tuple[str, str], ...] = ()  # told as they are, but for credentials
    inputs: "tuple[tuple[str, BuildFacts], ...]" = ()  # name -> what asked for the graph that was given
    root: "BuildFacts | None" = None  # what a client asked that then asked for this
    frontend: str = "dockerfile.v0"


def provenance(
    facts: BuildFacts, *, full: bool = False, builder_id: str = "", reproducible: bool = False, show_args: bool = False
) -> dict[str, Any]:
    """The predicate. `full` is mode=max; `show_args` tells the values of build arguments."""
    hidden = (
        []
        if show_args
        else sorted((value for _, value in facts.build_args if len(value) >= _SHORTEST), key=len, reverse=True)
    )
    internal: dict[str, Any] = {"builderPlatform": str(facts.builder_platform)}
    if facts.language:
        internal["dockerfileVersion"] = facts.language
    if full and facts.steps:
        internal["buildConfig"] = {
            "llbDefinition": _cleaned(facts.steps, hidden),
            "digestMapping": dict(facts.step_digests),
        }
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"configSource": _config_source(facts), "request": _request(facts, full, show_args)},
            "internalParameters": internal,
            "resolvedDependencies": [_material(one, hidden) for one in _unique(facts.materials)],
        },
        "runDetails": {
            "builder": {"id": builder_id} | ({"version": {"kedge": facts.version}} if facts.version else {}),
            "metadata": _metadata(facts, full, reproducible, show_args) | _details(facts, full, hidden),
        },
    }


def as_slsa02(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same predicate in the older form (slsa.dev/spec/v0.2/provenance), which says the same elsewhere."""
    definition, run = value["buildDefinition"], value["runDetails"]
    asked, internal, metadata = (
        definition["externalParameters"],
        dict(definition["internalParameters"]),
        run["metadata"],
    )
    config = dict(asked["configSource"])
    completeness = metadata["buildkit_completeness"]
    old = {
        "builder": run["builder"],
        "buildType": BUILD_TYPE_02,
        "materials": definition["resolvedDependencies"],
        "invocation": {
            "configSource": config | {"entryPoint": config.pop("path", "")},
            "parameters": asked["request"],
            "environment": {"platform": internal.pop("builderPlatform")}
            | {key: internal.pop(key) for key in ("dockerfileVersion",) if key in internal},
        },
        "metadata": {
            "completeness": {
                "parameters": completeness["request"],
                "environment": True,
                "materials": completeness["resolvedDependencies"],
            },
            "reproducible": metadata["buildkit_reproducible"],
            f"{BUILD_TYPE_02}#hermetic": metadata["buildkit_hermetic"],
            f"{BUILD_TYPE_02}#metadata": metadata.get("buildkit_metadata", {}),
        },
    }
    names = (("invocationID", "buildInvocationID"), ("startedOn", "buildStartedOn"), ("finishedOn", "buildFinishedOn"))
    old["metadata"] |= {older: metadata[newer] for newer, older in names if newer in metadata}
    return old | internal


def without_credentials(text: str) -> str:
    """A text whose URLs have lost user names, passwords, tokens and queries; that there were some is still seen."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub(_struck, text))


def _struck(found: re.Match[str]) -> str:
    return f"{found[1]}xxxxx:xxxxx@" if found[2] else f"{found[1]}xxxxx@"


def _config_source(facts: BuildFacts) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if facts.config_uri:
        out["uri"] = without_credentials(facts.config_uri)
    if facts.config_digest:
        out["digest"] = _digest_set(facts.config_digest)
    return out | {"path": facts.path}


def _request(facts: BuildFacts, full: bool, show_args: bool) -> dict[str, Any]:
    args = {f"build-arg:{name}": value if show_args else REDACTED for name, value in facts.build_args}
    args |= {f"label:{name}": value for name, value in facts.labels}
    args |= {f"context:{name}": without_credentials(value) for name, value in facts.contexts}
    args |= {name: without_credentials(value) for name, value in facts.told_args}
    if facts.target:
        args["target"] = facts.target
    out: dict[str, Any] = {"frontend": facts.frontend} if facts.frontend else {}
    out["args"] = dict(sorted(args.items()))
    out["locals"] = [{"name": name} for name in facts.locals]
    if facts.inputs:
        shown = [(name, one if full else _without_arguments(one)) for name, one in facts.inputs]
        out["inputs"] = {name: {"request": _request(one, full, show_args)} for name, one in shown}
    if facts.root:
        out["root"] = {"request": _request(facts.root, full, show_args)}
    if full:
        out["secrets"] = [_use(*use) for use in facts.secrets]
        out["ssh"] = [_use(*use) for use in facts.ssh]
    return out


def _without_arguments(facts: BuildFacts) -> BuildFacts:
    """What mode=min tells of another request: whose it was, not what it was given."""
    return replace(facts, build_args=(), labels=())


def _is_whole(facts: BuildFacts, full: bool, show_args: bool) -> bool:
    """Is all told that the request and those of its inputs were given?"""
    inputs = [one for _, one in facts.inputs]
    if not full and any(one.build_args or one.labels for one in inputs):
        return False
    return (show_args or not facts.build_args) and all(_is_whole(one, full, show_args) for one in inputs)


def _use(id: str, optional: bool) -> dict[str, Any]:
    return {"id": id} | ({"optional": True} if optional else {})


def _metadata(facts: BuildFacts, full: bool, reproducible: bool, show_args: bool) -> dict[str, Any]:
    times = {"invocationID": facts.invocation, "startedOn": facts.started, "finishedOn": facts.finished}
    remote = not facts.locals and bool(facts.config_digest or not facts.frontend)
    whole = bool(facts.frontend) and _is_whole(facts, full, show_args)  # of a graph nobody knows what was asked
    return {key: value for key, value in times.items() if value} | {
        "buildkit_hermetic": facts.hermetic,
        "buildkit_completeness": {"request": whole, "resolvedDependencies": remote},
        "buildkit_reproducible": reproducible,
    }


def _where_it_was(name: str) -> list[Any]:
    """The Dockerfile's own steps: one file of a directory of the client's."""
    source = {"identifier": "local://dockerfile", "attrs": {"local.followpaths": json.dumps([name])}}
    return [{"id": "step0", "op": {"op": {"source": source}}}, {"id": "step1", "op": {"op": {}}, "inputs": ["step0:0"]}]


def _details(facts: BuildFacts, full: bool, hidden: Sequence[str]) -> dict[str, Any]:
    import base64

    details: dict[str, Any] = {}
    if facts.vcs:
        details["vcs"] = {key: without_credentials(value) for key, value in facts.vcs}
    if full and facts.layers:
        # BuildKit's form: for each result the chains of layers it has been seen as; here there is one.
        details["layers"] = {result: [[layer.to_json() for layer in layers]] for result, layers in facts.layers}
    if full and facts.dockerfile:
        name, data = facts.dockerfile
        for value in hidden:
            data = data.replace(value.encode("utf-8", "surrogateescape"), REDACTED.encode())
        info: dict[str, Any] = {"filename": name, "language": "Dockerfile", "data": base64.b64encode(data).decode()}
        info["llbDefinition"] = _where_it_was(name)
        details["source"] = {"infos": [info], "locations": dict(facts.step_locations)}
    return {"buildkit_metadata": details} if details else {}


def _unique(materials: Iterable[Material]) -> list[Material]:
    return sorted(dict.fromkeys(materials), key=lambda one: (one.uri, str(one.platform)))


def _material(material: Material, hidden: Sequence[str]) -> dict[str, Any]:
    uri = material.uri if material.is_image else str(_cleaned(material.uri, hidden))
    if material.is_image:
        try:
            name = parse_reference(material.uri)
            uri = package_url(
                name, material.platform or Platform("linux", "amd64"), "" if name.tag else material.digest
            )
        except InvalidReference:
            pass  # a layout's path stays as it is
    return {"uri": uri} | ({"digest": _digest_set(material.digest)} if material.digest else {})


def _digest_set(digest: str) -> dict[str, str]:
    algorithm, colon, text = digest.partition(":")
    return {algorithm: text} if colon else {"sha1" if len(digest) == 40 else "sha256": digest}


# ---- what must not be told -------------------------------------------------------------------------------------------


def _cleaned(value: Any, hidden: Sequence[str]) -> Any:
    """A copy in which no string has one of the hidden values, nor a URL credentials."""
    if isinstance(value, Mapping):
        return {key: _cleaned(each, hidden) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(each, hidden) for each in value]
    if not isinstance(value, str):
        return value
    for word in hidden:
        value = value.replace(word, REDACTED)
    return without_credentials(value) if "://" in value and not value.startswith("pkg:") else value
