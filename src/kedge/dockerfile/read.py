"""From nodes to typed instructions: one reader for each keyword, in a table.

Owns the number and shape of arguments and the flags of each instruction. Does not expand variables, nor know what an
instruction does. Every error is a DockerfileError at the instruction's lines.
"""

import re
from collections.abc import Callable
from typing import Literal, TypeAlias, cast

from kedge.dockerfile import instructions as i
from kedge.dockerfile.durations import parse_duration
from kedge.dockerfile.findings import Findings
from kedge.dockerfile.flags import Flags, Kind, read_flags
from kedge.dockerfile.heredoc import parse_heredoc
from kedge.dockerfile.mounts import FALSE_WORDS, TRUE_WORDS, mount_stage, split_fields
from kedge.dockerfile.parser import Node
from kedge.dockerfile.suggest import did_you_mean
from kedge.model.errors import DockerfileError, KedgeError, Location
from kedge.model.image import Healthcheck

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_ONBUILD = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)
_RETRIES = re.compile(r"\+?[0-9]{1,10}")
_COPY_FLAGS = {
    "from": Kind.TEXT,
    "chown": Kind.TEXT,
    "chmod": Kind.TEXT,
    "link": Kind.BOOL,
    "parents": Kind.BOOL,
    "exclude": Kind.TEXTS,
}
_ADD_FLAGS = {
    "chown": Kind.TEXT,
    "chmod": Kind.TEXT,
    "link": Kind.BOOL,
    "keep-git-dir": Kind.BOOL,
    "checksum": Kind.TEXT,
    "unpack": Kind.BOOL,
    "exclude": Kind.TEXTS,
}
_RUN_FLAGS = {"mount": Kind.TEXTS, "network": Kind.TEXT, "security": Kind.TEXT, "device": Kind.TEXTS}
_HEALTH_FLAGS = dict.fromkeys(["interval", "timeout", "start-period", "start-interval", "retries"], Kind.TEXT)

Head: TypeAlias = tuple[str, str, Location, tuple[str, ...]]
Typed: TypeAlias = i.From | i.Command


def read_instruction(node: Node, findings: Findings) -> Typed:
    """The typed instruction of a node; raises DockerfileError at its lines."""
    try:
        reader = _READERS.get(node.name)
        if reader is None:
            raise _unknown(node)
        typed = reader(node, (node.keyword, node.original.strip(), node.location, node.comments))
    except KedgeError as error:
        raise error.at(node.location) from None
    _advise(node, typed, findings)
    return typed


def _unknown(node: Node) -> DockerfileError:
    hint = did_you_mean(node.keyword, _READERS) or f"Instructions are {', '.join(_READERS)}."
    return DockerfileError(f"unknown instruction {node.keyword[:100]}", hint=hint, fault=node.keyword)


def _advise(node: Node, typed: Typed, findings: Findings) -> None:
    keys: tuple[str, ...] = ()
    if isinstance(typed, i.From):
        if typed.stage_as_written != typed.stage:
            findings.report("StageNameCasing", node.location, typed.stage_as_written, comments=node.comments)
        if typed.as_word and not _same_case(typed.word, typed.as_word):
            findings.report("FromAsCasing", node.location, typed.word, typed.as_word, comments=node.comments)
        keys = (typed.stage,) if typed.stage else ()
    elif isinstance(typed, i.Arg):
        keys = tuple(entry.key for entry in typed.args)
    elif isinstance(typed, i.Maintainer):
        findings.report("MaintainerDeprecated", node.location, comments=node.comments)
    if node.comments and keys and node.comments[-1].split(" ")[0] not in keys:
        example = keys[0] if len(keys) == 1 else "<arg_key>"
        findings.report("InvalidDefinitionDescription", node.location, typed.name, example, comments=node.comments)


def _same_case(keyword: str, as_word: str) -> bool:
    if keyword == keyword.lower():
        return as_word == as_word.lower()
    return keyword != keyword.upper() or as_word == as_word.upper()


def doc_comment(comments: tuple[str, ...], name: str) -> str:
    """What the comment lines above say about `name`: the first that starts with it and a blank."""
    found = (line for line in comments if name and line.startswith(f"{name} "))
    return next(found, "")[len(name) + 1 :]


def _flags(node: Node, table: dict[str, Kind]) -> Flags:
    return read_flags(node.name, node.flags, table)


def _one(node: Node) -> str:
    if len(node.values) != 1:
        raise DockerfileError(f"{node.name} needs exactly one argument")
    return node.values[0]


def _some(node: Node) -> tuple[str, ...]:
    if not node.values:
        raise DockerfileError(f"{node.name} needs at least one argument")
    return node.values


def _from(node: Node, head: Head) -> i.From:
    words = node.values
    name, as_word = "", ""
    if len(words) == 3 and words[1].lower() == "as":
        as_word, name = words[1], words[2]
        if not _STAGE_NAME.fullmatch(name.lower()):
            raise DockerfileError(
                f"invalid stage name {name[:100]!r}",
                hint="A stage name starts with a letter and has letters, digits, '_', '.' and '-'.",
                fault=name,
            )
    elif len(words) != 1:
        raise DockerfileError(
            "FROM needs an image and maybe a stage name", hint="Write FROM image or FROM image AS name."
        )
    flags = _flags(node, {"platform": Kind.TEXT})
    return i.From(*head, words[0], name.lower(), flags.text("platform"), name, as_word)


def _arg(node: Node, head: Head) -> i.Arg:
    entries = []
    for word in _some(node):
        key, equals, default = word.partition("=")
        if not key:
            raise DockerfileError("ARG has a blank name")
        entries.append(i.ArgEntry(key, default if equals else None, doc_comment(node.comments, key)))
    return i.Arg(*head, tuple(entries))


def _pairs(node: Node) -> tuple[i.Pair, ...]:
    _flags(node, {})
    _some(node)
    pairs = tuple(i.Pair(key, value, not separator) for key, value, separator in node.pairs)
    if not all(pair.key for pair in pairs):
        raise DockerfileError(f"{node.name} has a blank name")
    return pairs


def _sources(node: Node) -> tuple[tuple[str, ...], tuple[i.InlineFile, ...], str]:
    if len(node.values) < 2:
        raise DockerfileError(f"{node.name} needs at least one source and a destination")
    *words, dest = node.values
    if parse_heredoc(dest) is not None:
        raise DockerfileError(f"{node.name} cannot have a heredoc as destination", hint="Put the destination last.")
    bodies = {heredoc.name: heredoc for heredoc in node.heredocs}
    paths, inline = [], []
    for word in words:
        heredoc = parse_heredoc(word)
        if heredoc is None:
            paths.append(word)
        elif heredoc.name in bodies:
            body = bodies[heredoc.name]
            inline.append(i.InlineFile(heredoc.name, body.body, heredoc.expand))
    return tuple(paths), tuple(inline), dest


def _copy(node: Node, head: Head) -> i.Copy:
    flags = _flags(node, _COPY_FLAGS)
    return i.Copy(
        *head,
        *_sources(node),
        source_stage=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.true("link"),
        parents=flags.true("parents"),
        exclude=flags.list("exclude"),
    )


def _add(node: Node, head: Head) -> i.Add:
    flags = _flags(node, _ADD_FLAGS)
    return i.Add(
        *head,
        *_sources(node),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.true("link"),
        exclude=flags.list("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.booleans.get("keep-git-dir"),
        unpack=flags.booleans.get("unpack"),
    )


def _command_line(node: Node) -> tuple[tuple[str, ...], bool]:
    return (node.values, False) if node.json else ((" ".join(node.values),), True)


def _run(node: Node, head: Head) -> i.Run:
    flags = _flags(node, _RUN_FLAGS)
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
        cast(Literal["default", "none", "host"], _choice(flags, "network", ("default", "none", "host"))),
        cast(Literal["sandbox", "insecure"], _choice(flags, "security", ("sandbox", "insecure"))),
        tuple(_device(text) for text in flags.list("device")),
    )


def _choice(flags: Flags, name: str, known: tuple[str, ...]) -> str:
    value = flags.text(name, known[0])
    if value not in known:
        hint = did_you_mean(value, known) or f"It is one of {', '.join(known)}."
        raise DockerfileError(f"invalid value {value[:100]!r} for --{name}", hint=hint, fault=f"--{name}={value}")
    return value


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


def _cmd(node: Node, head: Head) -> i.Cmd:
    _flags(node, {})
    return i.Cmd(*head, *_command_line(node))


def _entrypoint(node: Node, head: Head) -> i.Entrypoint:
    _flags(node, {})
    args, shell = _command_line(node)
    return i.Entrypoint(*head, args or None, shell)


def _shell(node: Node, head: Head) -> i.Shell:
    _flags(node, {})
    if not node.json:
        raise DockerfileError("SHELL needs its arguments in JSON form", hint='Write SHELL ["/bin/bash", "-c"].')
    return i.Shell(*head, _some(node))


def _workdir(node: Node, head: Head) -> i.Workdir:
    _flags(node, {})
    return i.Workdir(*head, _one(node))


def _user(node: Node, head: Head) -> i.User:
    _flags(node, {})
    return i.User(*head, _one(node))


def _expose(node: Node, head: Head) -> i.Expose:
    _flags(node, {})
    return i.Expose(*head, tuple(sorted(_some(node))))


def _volume(node: Node, head: Head) -> i.Volume:
    _flags(node, {})
    paths = tuple(path.strip() for path in _some(node))
    if not all(paths):
        raise DockerfileError("VOLUME cannot be an empty string")
    return i.Volume(*head, paths)


def _stop_signal(node: Node, head: Head) -> i.StopSignal:
    return i.StopSignal(*head, _one(node))


def _healthcheck(node: Node, head: Head) -> i.Healthcheck:
    kind, *args = _some(node)
    if kind.upper() == "NONE":
        if args:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return i.Healthcheck(*head, Healthcheck(("NONE",)))
    if kind.upper() != "CMD":
        raise DockerfileError(f"unknown healthcheck {kind[:100]!r}", hint="It is either CMD or NONE.", fault=kind)
    flags = _flags(node, _HEALTH_FLAGS)
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


def _onbuild(node: Node, head: Head) -> i.Onbuild:
    _flags(node, {})
    if node.child is None:
        raise DockerfileError("ONBUILD needs an instruction")
    name = node.child.name
    if name == "ONBUILD":
        raise DockerfileError("ONBUILD cannot stand behind ONBUILD")
    if name in ("FROM", "MAINTAINER"):
        raise DockerfileError(f"{name} cannot stand behind ONBUILD")
    trigger = _ONBUILD.sub("", node.original, count=1)
    for heredoc in node.heredocs:
        trigger += f"\n{heredoc.content}{heredoc.name}"
    return i.Onbuild(*head, trigger)


def _maintainer(node: Node, head: Head) -> i.Maintainer:
    maintainer = _one(node)
    _flags(node, {})
    return i.Maintainer(*head, maintainer)


_READERS: dict[str, Callable[[Node, Head], Typed]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": lambda node, head: i.Env(*head, _pairs(node)),
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": lambda node, head: i.Label(*head, _pairs(node)),
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
