"""Variables that exist before the first stage: the platform's, and the global ARGs.

Owns predefined arguments and how global ARGs see each other. Does not know stages' own variables (that is `state`).
"""

from collections.abc import Mapping

from kedge.dockerfile.findings import Findings
from kedge.dockerfile.instructions import ArgEntry
from kedge.dockerfile.options import LowerOptions
from kedge.dockerfile.stages import StagedFile
from kedge.dockerfile.words import Expansion, expand
from kedge.model.epoch import in_range, read_epoch
from kedge.model.errors import DockerfileError, KedgeError, Location, NotFound
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from kedge.model.suggest import nearest
from kedge.model.value import dataclass, field

EPOCH = "SOURCE_DATE_EPOCH"
SBOM_CONTEXT = "BUILDKIT_SBOM_SCAN_CONTEXT"
SBOM_STAGE = "BUILDKIT_SBOM_SCAN_STAGE"
NOT_IN_ENVIRONMENT = frozenset({SBOM_CONTEXT, SBOM_STAGE})
_PROXIES = ("all_proxy", "ftp_proxy", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class ArgValue:
    """An ARG with the value it got. `needs` are the arguments its default reads."""

    entry: ArgEntry
    value: str
    location: Location
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Globals:
    """The variables FROM may use, and stages may take over by ARG. `declared` are the global ARGs by name.

    `build_args` are the caller's; `epoch` is SOURCE_DATE_EPOCH in seconds, if the build has one.
    """

    values: Mapping[str, str]
    declared: Mapping[str, ArgValue]
    build_args: Mapping[str, str]
    epoch: int | None = None
    names: frozenset[str] = field(default=frozenset())


def platform_args(options: LowerOptions, target: str) -> dict[str, str]:
    """BUILDPLATFORM, TARGETPLATFORM and their parts; a build argument of the same name wins."""
    build, wanted = options.build_platform, options.platform
    values = {
        "BUILDPLATFORM": str(build),
        "BUILDOS": build.os,
        "BUILDOSVERSION": build.os_version,
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": platform_text(wanted),
        "TARGETOS": wanted.os,
        "TARGETOSVERSION": wanted.os_version,
        "TARGETARCH": wanted.architecture,
        "TARGETVARIANT": wanted.variant,
        "TARGETSTAGE": target or "default",
    }
    return values | {name: options.build_args[name] for name in values if name in options.build_args}


def platform_text(platform: Platform) -> str:
    """A platform with its OS version, as vertex names show it."""
    return platform.full


def proxy_env(build_args: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The proxy variables among the build arguments, in both spellings: every step gets them, no cache key has them."""
    found: dict[str, str] = {}
    for name in sorted(build_args):
        if name.lower() in _PROXIES and build_args[name]:
            found[name.lower()] = found[name.upper()] = build_args[name]
    return tuple(sorted(found.items()))


def read_globals(file: StagedFile, options: LowerOptions, findings: Findings) -> Globals:
    """The global variables of a build; raises DockerfileError."""
    target = options.target or file.stages[-1].name
    start = platform_args(options, target)
    _check_defaults(file, start, findings)
    values, declared = _evaluate(file, start, options.build_args)
    build_args = dict(options.build_args)
    epoch = None
    text = build_args.get(EPOCH, values.get(EPOCH, ""))
    if text:
        epoch = _read_epoch(text, options, declared.get(EPOCH))
        for scope in (build_args, values):
            if EPOCH in scope:
                scope.pop(EPOCH)
                if epoch is not None:
                    scope[EPOCH] = str(epoch)
    return Globals(values, declared, build_args, epoch, frozenset(values) | frozenset(declared))


def _evaluate(
    file: StagedFile, start: Mapping[str, str], build_args: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, ArgValue]]:
    values, declared = dict(start), dict[str, ArgValue]()
    for instruction in file.args:
        for entry in instruction.args:
            value, needs = build_args.get(entry.key), frozenset[str]()
            if value is None and entry.default is not None:
                try:
                    result = expand(entry.default, values, file.file.escape)
                except KedgeError as error:
                    raise error.at(instruction.location) from None
                value, needs = result.text, frozenset(result.matched)
                if entry.key in needs:  # redefined from itself: what the earlier one needed counts
                    older = declared[entry.key].needs if entry.key in declared else frozenset()
                    needs = needs - {entry.key} | older
            if value is not None:
                values[entry.key] = value
            declared[entry.key] = ArgValue(entry, value or "", instruction.location, needs)
    return values, declared


def _read_epoch(text: str, options: LowerOptions, declared: ArgValue | None) -> int | None:
    if (seconds := read_epoch(text)) is not None:
        return seconds
    found = options.epochs.get(text)
    if found is None and (text in options.epochs or (text == "context" and options.main_context is None)):
        return None  # the client's directory has no time of its own
    if found is not None and in_range(found) is not None:
        return found
    raise DockerfileError(
        f"invalid {EPOCH}: {text[:100]!r}",
        location=declared.location if declared else None,
        hint="It is a number of seconds since 1970, `context`, or the name of a stage with one remote ADD.",
    )


def _check_defaults(file: StagedFile, start: Mapping[str, str], findings: Findings) -> None:
    """A Dockerfile should make sense without build arguments: its image names must be names."""
    try:
        values, _ = _evaluate(file, start, {})
        for stage in file.stages:
            name = expand(stage.source.base, values, file.file.escape).text
            if not _could_be_image(name):
                comments = stage.source.comments
                findings.report("InvalidDefaultArgInFrom", stage.location, stage.source.base, comments=comments)
    except DockerfileError:
        return  # the build itself will meet the same error, unless a build argument mends it


def _could_be_image(name: str) -> bool:
    try:
        parse_reference(name)
    except KedgeError:
        return False
    return True


def expand_in_from(text: str, globals_: Globals, escape: str, location: Location, findings: Findings,
                   comments: tuple[str, ...]) -> Expansion:  # fmt: skip
    """A word of FROM with global variables replaced; reports those that do not exist."""
    try:
        result = expand(text, globals_.values, escape)
    except KedgeError as error:
        raise error.at(location) from None
    for name in result.unmatched:
        if name not in globals_.names:
            near = nearest(name, sorted(globals_.names)) or ""
            findings.report("UndefinedArgInFrom", location, name, near, comments=comments)
    return result


def unknown_stage(name: str, known: list[str], location: Location | None = None) -> NotFound:
    """The error for a target that is no stage."""
    near = nearest(name, known)
    hint = f"Did you mean {near}?" if near else (f"Stages are {', '.join(known)}." if known else "No stage has a name.")
    return NotFound(f"target stage {name[:100]!r} could not be found", location=location, hint=hint)
