"""kedge build: an image from a Dockerfile.

Owns the way from flags to a BuildRequest and from a BuildResult to files and lines. Does not know how anything is
built.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kedge.cli.build_flags import FLAGS, flatten
from kedge.cli.command import Argument, Command, Options
from kedge.cli.console import Console
from kedge.cli.parse import UsageError
from kedge.model.errors import InvalidInput, KedgeError
from kedge.model.event import Event, WarningEvent
from kedge.model.ops import Pairs

if TYPE_CHECKING:
    from kedge.builder import BuildRequest, BuildResult, CacheSpec, Output
    from kedge.session.local import LocalSession

# What of the client's environment a build may see: proxies become predefined build arguments (never part of an image).
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")


def work(options: Options, console: Console) -> int:
    from kedge.builder import build
    from kedge.progress.display import Screen, choose

    request = request_of(options, console)
    session = session_of(options, console)
    mode = "quiet" if options.quiet else options.progress or console.environment.get("BUILDKIT_PROGRESS") or "auto"
    if request.call != "build" and not options.progress:
        mode = "quiet"
    told: list[WarningEvent] = []

    def report(event: Event) -> None:
        if isinstance(event, WarningEvent) and not event.vertex:  # the others stand with their step
            told.append(event)
        screen(event)

    try:
        with Screen(choose(mode, console.stderr)) as screen:
            result = build(request, session, report)
    except KedgeError as error:
        if mode not in ("quiet", "rawjson"):  # what a failure follows from may well be among them
            known = explanation(error.misses) if options.explain and error.misses else ()
            for line in (*warning_lines(tuple(told)), *known):
                console.complain(line)
        raise
    if request.call != "build":
        from kedge.cli.answers import show_answer

        return show_answer(result, options.format == "json", console)
    _write_files(options, result)
    if options.quiet:
        if result.images:  # of files alone there is no id to show
            console.print(result.id)
    elif mode != "rawjson":
        for line in (*warning_lines(result.warnings), *(explanation(result.misses) if options.explain else ())):
            console.complain(line)
    return 0


def request_of(options: Options, console: Console) -> "BuildRequest":
    """The build that the flags ask for; raises InvalidInput for flags that exclude each other."""
    from kedge.builder import BuildRequest

    call: Any = "check" if options.check else options.call
    if options.push and options.load:
        raise UsageError("--push and --load exclude each other: use --output several times", "build")
    text = None
    if options.file == "-":
        if options.context == "-":
            raise UsageError("the Dockerfile and the context cannot both come from standard input", "build")
        text = console.stdin.read()
    return BuildRequest(
        context=_context(options.context, console),
        dockerfile="" if options.file == "-" else options.file,
        dockerfile_text=text,
        target=options.target,
        tags=tuple(options.tag),
        build_args=_build_args(options.build_arg, console),
        labels=_pairs(options.label),
        annotations=_pairs(options.annotation),
        platforms=flatten(options.platform),
        named_contexts=_pairs(options.build_context),
        no_cache=options.no_cache,
        no_cache_filter=flatten(options.no_cache_filter),
        pull=options.pull,
        network=options.network,
        add_hosts=tuple(options.add_host),
        shm_size=options.shm_size,
        ulimits=tuple(options.ulimit),
        memory=options.memory,
        cpus=options.cpus,
        cgroup_parent=options.cgroup_parent,
        outputs=_outputs(options, console),
        cache_from=tuple(map(_cache, options.cache_from)),
        cache_to=tuple(map(_cache, options.cache_to)),
        cache_mount_from=tuple(map(_cache, options.cache_mount_from)),
        cache_mount_to=tuple(map(_cache, options.cache_mount_to)),
        attestations=_attestations(options),
        entitlements=tuple(options.allow),
        call=call,
        source_date_epoch=_epoch(console.environment.get("SOURCE_DATE_EPOCH", "")),
        store=console.root,
        env=_client_environment(console),
    )


def session_of(options: Options, console: Console) -> "LocalSession":
    """What this client lends."""
    from kedge.session.local import LocalSession

    secrets, agents = [], []
    if options.secret:
        from kedge.session.secrets import check_secret, parse_secret

        secrets = [parse_secret(text, console.environment) for text in options.secret]
        for secret in secrets:
            check_secret(secret)
    if options.ssh:
        from kedge.session.ssh import check_agent, parse_ssh

        agents = [parse_ssh(text, console.environment) for text in options.ssh]
        for agent in agents:
            check_agent(agent)
    return LocalSession(secrets=secrets, ssh=agents, credentials=console.credential, environ=console.environment)


def warning_lines(warnings: tuple[WarningEvent, ...]) -> list[str]:
    """The summary behind a build."""
    if not warnings:
        return []
    from kedge.dockerfile.lint_image_rules import IMAGE_RULES

    count = f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''} found"
    more = any(one.rule and one.rule not in IMAGE_RULES for one in warnings)  # those need files, which --check has not
    lines = ["", f" {count}{' (`kedge build --check` tells more)' if more else ''}:"]
    for warning in warnings:
        rule = f"{warning.rule}: " if warning.rule else ""
        where = f" (line {warning.location.start})" if warning.location else ""
        lines.append(f" - {rule}{warning.message}{where}")
    return lines


def explanation(misses: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Why the steps ran that did, as the keys say that decided it."""
    if not misses:
        return ["", " Every step was cached."]
    return ["", " Why steps ran:", *(f" - {name}: {'; '.join(reasons)}" for name, reasons in misses.items())]


def _epoch(told: str) -> int | None:
    if not told:
        return None
    from kedge.model.epoch import read_epoch

    if (epoch := read_epoch(told)) is None:
        raise InvalidInput(f"SOURCE_DATE_EPOCH={told[:40]!r} is no number of seconds before the year 2262")
    return epoch


def _context(text: str, console: Console) -> "Path | str | BinaryIO":
    if text == "-":
        if console.stdin.isatty():
            raise UsageError("the context - is a tar on standard input, which is a terminal", "build")
        return console.stdin
    if "://" in text or text.startswith(("git@", "github.com/")):
        return text
    return Path(text)


def _pairs(items: list[tuple[str, str]]) -> Pairs:
    return tuple(sorted(dict(items).items()))


def _attributes(spec: dict[str, str]) -> Pairs:
    return tuple(sorted((key, value) for key, value in spec.items() if key not in ("type", "dest")))


def _cache(spec: dict[str, str]) -> "CacheSpec":
    from kedge.builder import CacheSpec

    return CacheSpec(spec["type"], tuple(sorted((key, value) for key, value in spec.items() if key != "type")))


def _build_args(texts: list[str], console: Console) -> Pairs:
    """`NAME` alone takes the value from the environment, and nothing if it is not set there."""
    args: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"invalid argument {text!r} for --build-arg: the name before = is empty", "build")
        if equals:
            args[name] = value
        elif name in console.environment:
            args[name] = console.environment[name]
    return tuple(sorted(args.items()))


def _outputs(options: Options, console: Console) -> "tuple[Output, ...]":
    from kedge.builder import Output

    specs: list[dict[str, str]] = list(options.output)
    if options.push:
        images = [spec for spec in specs if spec["type"] in ("image", "registry")]
        specs = [spec | {"push": "true"} if spec in images else spec for spec in specs] or specs
        specs += [] if images else [{"type": "registry"}]
    if options.load:
        specs.append({"type": "docker"})
    return tuple(Output(spec["type"], _attributes(spec), _destination(spec, console)) for spec in specs)


def _destination(spec: dict[str, str], console: Console) -> Path | BinaryIO | None:
    place = spec.get("dest", "")
    if place != "-":
        return Path(place) if place else None
    if spec["type"] == "local":
        raise UsageError("an output of type local cannot go to standard output: use type=tar", "build")
    if console.stdout.isatty():
        raise UsageError(
            "an archive is not written to a terminal: use dest=PATH, or send the output elsewhere", "build"
        )
    return console.stdout.buffer


def _attestations(options: Options) -> Pairs:
    chosen = dict(options.attest)
    for kind in ("provenance", "sbom"):
        value = getattr(options, kind)
        if value is not None and value != "false":
            chosen[kind] = "" if value == "true" else value
        elif value == "false":
            chosen[kind] = "disabled=true"
    return tuple(sorted(chosen.items()))


def _client_environment(console: Console) -> Pairs:
    names = {name for proxy in _PROXIES for name in (proxy, proxy.lower())} | {"DOCKER_CONFIG"}
    return tuple(sorted((name, value) for name, value in console.environment.items() if name in names))


def _write_files(options: Options, result: "BuildResult") -> None:
    try:
        if options.iidfile and result.images:
            Path(options.iidfile).write_text(result.id)
        if options.metadata_file:
            import json

            Path(options.metadata_file).write_text(json.dumps(_plain(result.metadata), indent=2) + "\n")
    except OSError as error:
        raise InvalidInput(f"cannot write {error.filename}: {error.strerror}") from None


def _plain(value: Any) -> Any:
    return dict(value)


COMMAND = Command(
    "build",
    "Build an image from a Dockerfile",
    work,
    FLAGS,
    (Argument("CONTEXT", complete="directory"),),
    description="""
    CONTEXT is a directory, a Git URL (with #ref:directory), the URL of a tar, or - for a tar on standard input.

    Without --output, the image is put into Kedge's store, where `kedge run`, `kedge push` and `kedge save` find it.
    """,
    examples=(
        ("kedge build -t hello .", "build ./Dockerfile and name the image"),
        ("kedge build --target test .", "stop at a stage"),
        ("kedge build -o type=oci,dest=hello.tar .", "write an OCI archive"),
        ("kedge build -o out .", "write the final stage's files into a directory"),
        ("kedge build --secret id=token,env=TOKEN .", "lend a secret from the environment"),
        ("kedge build --check .", "look for mistakes, build nothing"),
    ),
)
