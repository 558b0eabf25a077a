"""kedge run: a process in a fresh container of an image."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kedge.cli.build_flags import cpus, host, ulimit
from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.parse import UsageError
from kedge.cli.spelling import parse_size
from kedge.model.errors import InvalidInput, KedgeError, NotFound

if TYPE_CHECKING:
    from kedge.containers.request import ContainerRequest
    from kedge.images.lookup import StoredImage
    from kedge.model.platform import Platform

FAILED_BEFORE_START: Final = 125


def work(options: Options, console: Console) -> int:
    from kedge.cli.container import run_container
    from kedge.images.lookup import snapshot_of

    try:
        container = container_of(options, console)
        image = _image(options, console)
        console.stdout.flush()
        _require_machine(image.config.platform, console)
        process_sandbox = console.settings().sandbox.process_sandbox
        return run_container(console.store(), snapshot_of(console.store(), image), image, container, process_sandbox)
    except KedgeError as error:
        # Docker's exit code for "the container did not run", so that it is told apart from the program's own.
        console.failure_code = FAILED_BEFORE_START
        raise error


def container_of(options: Options, console: Console) -> "ContainerRequest":
    """The container that the flags describe."""
    from kedge.cli.container import env_entry, read_env_file
    from kedge.containers.request import ContainerRequest, Volume, VolumeMount
    from kedge.sandbox.process import Limits

    if options.detach:
        raise UsageError("kedge run stays in the foreground", "run", "Leave out -d; a shell's & puts it behind.")
    if options.tty and options.interactive and not console.stdin.isatty():
        raise UsageError("-t needs a terminal, and standard input is none", "run", "Leave out -t.")
    env = [entry for path in options.env_file for entry in read_env_file(Path(path), console.environment)]
    env += [entry for text in options.env for entry in env_entry(text, console.environment)]
    return ContainerRequest(
        command=tuple(options.command),
        entrypoint=None if options.entrypoint is None else tuple(filter(None, [options.entrypoint])),
        env=tuple(env),
        user=options.user,
        workdir=options.workdir,
        hostname=options.hostname,
        name=options.name,
        network={"default": "sandbox", "bridge": "sandbox"}.get(options.network, options.network),
        interactive=options.interactive,
        terminal=options.tty,
        readonly=options.read_only,
        volumes=tuple(each for each in options.volume if isinstance(each, Volume)),
        named=tuple(each for each in options.volume if isinstance(each, VolumeMount)),
        published=tuple(options.publish),
        init=options.init,
        tmpfs=tuple(options.tmpfs),
        add_hosts=tuple(options.add_host),
        ulimits=tuple(options.ulimit),
        limits=Limits(options.memory, options.cpus, options.pids_limit),
        shm_size=options.shm_size,
    )


def _require_machine(platform: "Platform", console: Console) -> None:
    """Unsupported, with what would mend it, where programs of that platform do not start."""
    from kedge.model.platform import of_machine
    from kedge.operations.machine import Machine, runs_natively

    host = of_machine(os.uname().machine)
    if not runs_natively(platform, host):
        Machine(host, console.store().root).require(platform)


def _image(options: Options, console: Console) -> "StoredImage":
    """The image in the store; one that is not there is pulled, unless --pull=never."""
    from kedge.images.lookup import open_image
    from kedge.model.platform import of_machine, parse_platform

    platform = parse_platform(options.platform) if options.platform else None
    host_platform = of_machine(os.uname().machine)
    if options.pull != "always":
        try:
            return open_image(console.store(), options.image, platform, host_platform)
        except NotFound:
            if options.pull == "never":
                raise
    from kedge.cli.pull import pull

    pull(console, options.image, platform or host_platform, "auto")
    return open_image(console.store(), options.image, platform, host_platform)


def _volume(text: str) -> object:
    from kedge.cli.container import parse_volume

    return parse_volume(text)


def _tmpfs(text: str) -> object:
    from kedge.cli.container import parse_tmpfs

    return parse_tmpfs(text)


def _publish(text: str) -> object:
    from kedge.cli.container import parse_publish

    return parse_publish(text)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise InvalidInput("expected a number")
    return int(text)


COMMAND = Command(
    "run",
    "Run a command in a fresh container of an image",
    work,
    (
        Flag("add-host", "Add a line to /etc/hosts", metavar="NAME:ADDRESS", many=True, convert=host),
        Flag("cpus", "CPUs that it may use", metavar="N", convert=cpus, default=0.0),
        Flag("entrypoint", "Replace the image's entrypoint; empty for none", metavar="COMMAND"),
        Flag("detach", "Refused with advice", short="d", hidden=True),
        Flag(
            "env", "Set a variable; without =VALUE, from the environment", short="e", metavar="NAME[=VALUE]", many=True
        ),
        Flag("env-file", "Read variables from a file", metavar="PATH", many=True),
        Flag("hostname", "Host name in the container", metavar="NAME", default=""),
        Flag("init", "Put a process before it that passes signals on and waits for orphans"),
        Flag("interactive", "Pass standard input on", short="i"),
        Flag("memory", "Memory that it may use", short="m", metavar="SIZE", convert=parse_size, default=0),
        Flag("name", "A name that no other container may have", metavar="NAME", default=""),
        Flag(
            "network",
            "Its network",
            metavar="MODE",
            default="default",
            choices=("default", "bridge", "none", "host"),
        ),
        Flag("pids-limit", "How many processes it may have", metavar="N", convert=_count, default=0),
        Flag("platform", "Which of an image's platforms", metavar="OS/ARCH", shown_default="this machine's"),
        Flag(
            "pull", "When to pull the image", metavar="WHEN", default="missing", choices=("always", "missing", "never")
        ),
        Flag(
            "publish",
            "Let a port of this machine lead to one of its own",
            short="p",
            metavar="[[ADDRESS:]PORT:]PORT[/udp]",
            many=True,
            convert=_publish,
        ),
        Flag("read-only", "The image's files cannot be changed"),
        Flag("rm", "Remove the container when it ends, which always happens"),
        Flag("shm-size", "Size of /dev/shm", metavar="SIZE", convert=parse_size, default=0, shown_default="64m"),
        Flag("tmpfs", "Mount a tmpfs", metavar="PATH[:size=SIZE]", many=True, convert=_tmpfs),
        Flag("tty", "Give it a terminal", short="t"),
        Flag("ulimit", "Resource limit", metavar="NAME=SOFT[:HARD]", many=True, convert=ulimit),
        Flag("user", "Run as this user", short="u", metavar="USER[:GROUP]"),
        Flag(
            "volume",
            "Mount a host path or a volume",
            short="v",
            metavar="HOST|NAME:CONTAINER[:ro]",
            many=True,
            convert=_volume,
        ),
        Flag("workdir", "Start in this directory", short="w", metavar="DIR"),
    ),
    (Argument("IMAGE", complete="image"), Argument("COMMAND", many=True, optional=True)),
    description="""
    Everything behind IMAGE belongs to the container's command. The exit code is the command's own; 125 means that
    Kedge could not start it, 126 that the command cannot be executed, 127 that there is none. Signals are passed on.
    Kedge keeps no stopped containers.
    """,
    examples=(
        ("kedge run --rm hello", "run the image's own command"),
        ("kedge run --rm -it debian:bookworm-slim bash", "a shell"),
        ("kedge run --rm -v ./src:/src:ro -w /src golang:1.25 go vet ./...", "a tool over the files of this directory"),
    ),
    interspersed=False,
)
