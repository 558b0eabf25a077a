"""From nodes to typed instructions: one reader for each keyword, in a table.

Owns the number and shape of arguments and the flags of each instruction. Does not expand variables, nor know what an
instruction does. Every error is a DockerfileError at the instruction's lines.
"""

import re
from collections.abc import Callable
from typing import TypeAlias

from kedge.dockerfile import instructions as i
from kedge.dockerfile.findings import Findings
from kedge.dockerfile.flags import Kind
from kedge.dockerfile.parser import Node
from kedge.dockerfile.read_arguments import Head, flags_of, head_of, one_argument, some_arguments
from kedge.dockerfile.read_copy import read_add, read_copy
from kedge.dockerfile.read_process import read_cmd, read_entrypoint, read_healthcheck, read_run, read_shell
from kedge.model.errors import DockerfileError, KedgeError
from kedge.model.suggest import did_you_mean

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_ONBUILD = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)

Typed: TypeAlias = i.From | i.Command


def read_instruction(node: Node, findings: Findings) -> Typed:
    """The typed instruction of a node; raises DockerfileError at its lines."""
    try:
        reader = _READERS.get(node.name)
        if reader is None:
            raise _unknown(node)
        typed = reader(node, head_of(node))
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
    flags = flags_of(node, {"platform": Kind.TEXT})
    return i.From(*head, words[0], name.lower(), flags.text("platform"), name, as_word)


def _arg(node: Node, head: Head) -> i.Arg:
    entries = []
    for word in some_arguments(node):
        key, equals, default = word.partition("=")
        if not key:
            raise DockerfileError("ARG has a blank name")
        entries.append(i.ArgEntry(key, default if equals else None, doc_comment(node.comments, key)))
    return i.Arg(*head, tuple(entries))


def _pairs(node: Node) -> tuple[i.Pair, ...]:
    flags_of(node, {})
    some_arguments(node)
    pairs = tuple(i.Pair(key, value, not separator) for key, value, separator in node.pairs)
    if not all(pair.key for pair in pairs):
        raise DockerfileError(f"{node.name} has a blank name")
    return pairs


def _workdir(node: Node, head: Head) -> i.Workdir:
    flags_of(node, {})
    return i.Workdir(*head, one_argument(node))


def _user(node: Node, head: Head) -> i.User:
    flags_of(node, {})
    return i.User(*head, one_argument(node))


def _expose(node: Node, head: Head) -> i.Expose:
    flags_of(node, {})
    return i.Expose(*head, tuple(sorted(some_arguments(node))))


def _volume(node: Node, head: Head) -> i.Volume:
    flags_of(node, {})
    paths = tuple(path.strip() for path in some_arguments(node))
    if not all(paths):
        raise DockerfileError("VOLUME cannot be an empty string")
    return i.Volume(*head, paths)


def _stop_signal(node: Node, head: Head) -> i.StopSignal:
    return i.StopSignal(*head, one_argument(node))


def _onbuild(node: Node, head: Head) -> i.Onbuild:
    flags_of(node, {})
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
    maintainer = one_argument(node)
    flags_of(node, {})
    return i.Maintainer(*head, maintainer)


_READERS: dict[str, Callable[[Node, Head], Typed]] = {
    "ADD": read_add,
    "ARG": _arg,
    "CMD": read_cmd,
    "COPY": read_copy,
    "ENTRYPOINT": read_entrypoint,
    "ENV": lambda node, head: i.Env(*head, _pairs(node)),
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": read_healthcheck,
    "LABEL": lambda node, head: i.Label(*head, _pairs(node)),
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": read_run,
    "SHELL": read_shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
