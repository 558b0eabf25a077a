"""Reading the instructions that name a process: RUN, CMD, ENTRYPOINT, SHELL and HEALTHCHECK.

Owns their shell and exec forms, and RUN's and HEALTHCHECK's flags. What a mount says is read when variables are known.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeVar, get_args

from kedge.dockerfile import instructions as i
from kedge.dockerfile.durations import parse_duration
from kedge.dockerfile.flags import Flags, Kind
from kedge.dockerfile.mounts import FALSE_WORDS, TRUE_WORDS, mount_stage, split_fields
from kedge.dockerfile.parser import Node
from kedge.dockerfile.read_arguments import Head, flags_of, some_arguments
from kedge.model.errors import DockerfileError
from kedge.model.image import Healthcheck
from kedge.model.suggest import did_you_mean

Word = TypeVar("Word", i.Network, i.Security)
_NETWORKS: Final[dict[str, i.Network]] = {word: word for word in get_args(i.Network)}
_SECURITY: Final[dict[str, i.Security]] = {word: word for word in get_args(i.Security)}
_RETRIES = re.compile(r"\+?[0-9]{1,10}")
_RUN_FLAGS = {"mount": Kind.TEXTS, "network": Kind.TEXT, "security": Kind.TEXT, "device": Kind.TEXTS}
_HEALTH_FLAGS = dict.fromkeys(["interval", "timeout", "start-period", "start-interval", "retries"], Kind.TEXT)


def read_run(node: Node, head: Head) -> i.Run:
    """RUN; raises DockerfileError."""
    flags = flags_of(node, _RUN_FLAGS)
    args, shell = _command_line(node)
    if not args:
        raise DockerfileError("RUN needs a command")
    mounts = flags.list("mount")
    for mount in mounts:
        mount_stage(mount)
    return i.Run(
        *head,
        args,
        shell,
        tuple(i.InlineFile(h.name, h.content, h.expand, h.chomp) for h in node.heredocs),
        mounts,
        _choice(flags, "network", _NETWORKS),
        _choice(flags, "security", _SECURITY),
        tuple(_device(text) for text in flags.list("device")),
    )


def _command_line(node: Node) -> tuple[tuple[str, ...], bool]:
    return (node.values, False) if node.json else ((" ".join(node.values),), True)


def _choice(flags: Flags, name: str, known: Mapping[str, Word]) -> Word:
    """The word that a flag names, the first one by default."""
    value = flags.text(name, next(iter(known)))
    if value not in known:
        hint = did_you_mean(value, known) or f"It is one of {', '.join(known)}."
        raise DockerfileError(f"invalid value {value[:100]!r} for --{name}", hint=hint, fault=f"--{name}={value}")
    return known[value]


def _device(text: str) -> i.Device:
    name, required = "", False
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        if key.lower() == "required" and (not equals or value in TRUE_WORDS or value in FALSE_WORDS):
            required = not equals or value in TRUE_WORDS
        elif key.lower() == "name" and equals:
            if name:
                raise DockerfileError(f"the device has a name already: {name[:100]!r}")
            name = value
        elif name or key.lower() == "required":
            raise DockerfileError(
                f"unknown device option {field[:100]!r}", hint=did_you_mean(key.lower(), ("name", "required"))
            )
        else:
            name = field
    return i.Device(name, required)


def read_cmd(node: Node, head: Head) -> i.Cmd:
    """CMD; raises DockerfileError."""
    flags_of(node, {})
    return i.Cmd(*head, *_command_line(node))


def read_entrypoint(node: Node, head: Head) -> i.Entrypoint:
    """ENTRYPOINT; raises DockerfileError."""
    flags_of(node, {})
    args, shell = _command_line(node)
    return i.Entrypoint(*head, args or None, shell)


def read_shell(node: Node, head: Head) -> i.Shell:
    """SHELL; raises DockerfileError."""
    flags_of(node, {})
    if not node.json:
        raise DockerfileError("SHELL needs its arguments in JSON form", hint='Write SHELL ["/bin/bash", "-c"].')
    return i.Shell(*head, some_arguments(node))


def read_healthcheck(node: Node, head: Head) -> i.Healthcheck:
    """HEALTHCHECK; raises DockerfileError."""
    kind, *args = some_arguments(node)
    if kind.upper() == "NONE":
        if args:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return i.Healthcheck(*head, Healthcheck(("NONE",)))
    if kind.upper() != "CMD":
        raise DockerfileError(f"unknown healthcheck {kind[:100]!r}", hint="It is either CMD or NONE.", fault=kind)
    flags = flags_of(node, _HEALTH_FLAGS)
    if not args:
        raise DockerfileError("HEALTHCHECK CMD needs a command")
    test = ("CMD", *args) if node.json else ("CMD-SHELL", " ".join(args))
    return i.Healthcheck(
        *head,
        Healthcheck(
            test,
            _interval(flags, "interval"),
            _interval(flags, "timeout"),
            _interval(flags, "start-period"),
            _interval(flags, "start-interval"),
            _retries(flags.text("retries", "0")),
        ),
    )


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    value = parse_duration(text) if text else 0
    if value and value < 10**6:
        raise DockerfileError(f"--{name} cannot be less than 1ms")
    return value


def _retries(text: str) -> int:
    if not text:
        return 0
    if not _RETRIES.fullmatch(text) or int(text) > 0x7FFFFFFF:
        raise DockerfileError(f"--retries is a number, not {text[:100]!r}")
    return int(text)
