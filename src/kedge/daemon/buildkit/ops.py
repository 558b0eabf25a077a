"""One op of a definition as one of the model's (`encoding` is the way back).

Owns the fields of all seven ops, and what may stand in them. Does not know the graph around.
"""

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any, Final

from kedge.daemon.wire import llb
from kedge.model import ops
from kedge.model.errors import InvalidInput, Unsupported
from kedge.model.graph import Edge

MOST_BELOW_ONE_OP: Final = 10_000  # inputs, mounts, actions
_LONGEST_TEXT: Final = 1 << 20
_SCHEMES: Final = tuple("docker-image local git http https oci-layout docker-image+blob oci-layout+blob".split())
PROXIES: Final = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
MOUNT_KINDS: Final = {llb.BIND: "bind", llb.SECRET: "secret", llb.SSH: "ssh", llb.CACHE: "cache", llb.TMPFS: "tmpfs"}
SHARING: Final = {llb.SHARED: "shared", llb.PRIVATE: "private", llb.LOCKED: "locked"}
NETWORKS: Final = {llb.UNSET: "sandbox", llb.HOST: "host", llb.NONE: "none"}
SECURITY: Final = {llb.SANDBOX: "sandbox", llb.INSECURE: "insecure"}
_CONTENT_CACHE: Final = (llb.DEFAULT, llb.ON, llb.OFF)
INPUT_OF_BUILDER: Final = -1
DEFINITION_INPUT: Final = "buildkit.llb.definition"


def read_op(told: Any, inputs: int) -> ops.Op:
    """The op of a pb.Op that has so many inputs; raises InvalidInput, Unsupported."""
    kind = told.WhichOneof("op")
    if kind is None:
        raise InvalidInput("invalid definition: an op that does nothing")
    if inputs > MOST_BELOW_ONE_OP:
        raise InvalidInput("invalid definition: an op has too many inputs")
    return _READERS[kind](getattr(told, kind), inputs)


def output_count(op: ops.Op) -> int:
    """How many results an op has."""
    match op:
        case ops.Exec():
            return 1 + max((mount.output for mount in op.mounts), default=-1)
        case ops.File():
            return 1 + max((action.output for action in op.actions), default=-1)
        case ops.Passthrough():
            return len(op.outputs)
        case _:
            return 1


def read_text(text: str, what: str) -> str:
    """A text of a client's, as far as it can be one of ours. Raises InvalidInput."""
    if "\0" in text or len(text) > _LONGEST_TEXT:
        raise InvalidInput(f"invalid {what} {text[:40]!r} in a definition")
    return text


def _index(value: int, count: int, what: str) -> int:
    """An index of one of `count` things, or -1 for none."""
    if not -1 <= value < count:
        raise InvalidInput(f"invalid {what} {value} in a definition")
    return int(value)


def _word(value: int, table: dict[int, str], what: str) -> Any:
    if value not in table:
        raise InvalidInput(f"unknown {what} {value} in a definition")
    return table[value]


def read_path(text: str, what: str) -> str:
    """An absolute path, without dots: what leads out of the root stops at it, as for any process inside."""
    parts: list[str] = []
    for part in read_text(text, what).split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


# ---- source ----------------------------------------------------------------------------------------------------------


def read_source(told: Any, inputs: int) -> ops.Source:
    """A source op."""
    scheme, separator, rest = read_text(told.identifier, "source").partition("://")
    if not separator or not rest:
        raise InvalidInput(f"invalid source {told.identifier[:80]!r}: expected scheme://name")
    if scheme not in _SCHEMES:
        raise Unsupported(f"sources of the kind {scheme[:40]!r} are not supported")
    if inputs:
        raise InvalidInput("invalid definition: a source has no inputs")
    attrs = sorted((read_text(key, "attribute"), read_text(value, "attribute")) for key, value in told.attrs.items())
    return ops.Source(told.identifier, tuple(attrs))


# ---- exec ------------------------------------------------------------------------------------------------------------


def _read_exec(told: Any, inputs: int) -> ops.Exec:
    meta = told.meta
    if not told.HasField("meta") or not meta.args:
        raise InvalidInput("invalid definition: an exec without arguments")
    if len(told.mounts) > MOST_BELOW_ONE_OP:
        raise InvalidInput("invalid definition: an exec has too many mounts")
    cwd = read_path(meta.cwd, "working directory")
    mounts = tuple(read_mount(mount, inputs, cwd) for mount in told.mounts)
    roots = [mount for mount in mounts if mount.dest == "/"]
    if len(roots) != 1 or roots[0].kind != "bind":
        raise InvalidInput("invalid definition: an exec without one root file system")
    used = [mount.output for mount in mounts if mount.output >= 0]
    if len(set(used)) != len(used) or any(output >= len(mounts) for output in used):
        raise InvalidInput("invalid definition: mounts of an exec share an output")
    return ops.Exec(
        tuple(read_text(arg, "argument") for arg in meta.args),
        mounts,
        tuple(read_variable(entry) for entry in meta.env),
        cwd,
        read_text(meta.user, "user"),
        read_text(meta.hostname, "host name")[:253],
        read_network(told.network),
        read_security(told.security),
        _proxies(meta.proxy_env) if meta.HasField("proxy_env") else (),
        tuple(read_host(host) for host in meta.extraHosts),
        tuple(ops.Ulimit(read_text(one.Name, "ulimit").lower(), one.Soft, one.Hard) for one in meta.ulimit),
        read_text(meta.cgroupParent, "cgroup"),
        _shm_size(told),
        tuple(map(read_secret_env, told.secretenv)),
        tuple((read_text(device.name, "device"), device.optional) for device in told.cdiDevices),
        tuple(sorted(set(meta.validExitCodes))) or (0,),
    )


def read_variable(entry: str) -> str:
    """An environment entry, `NAME=value`."""
    name, equals, _ = read_text(entry, "environment").partition("=")
    if not name or not equals:
        raise InvalidInput(f"invalid environment entry {entry[:40]!r} in a definition")
    return entry


def _proxies(told: Any) -> ops.Pairs:
    """Both spellings of each proxy that is set, as programs look for either."""
    found = {name: read_text(getattr(told, name), "proxy") for name in PROXIES if getattr(told, name)}
    return tuple(sorted({**found, **{name.upper(): value for name, value in found.items()}}.items()))


def read_host(told: Any) -> tuple[str, str]:
    """A host of /etc/hosts: its name and address."""
    try:
        ipaddress.ip_address(told.IP)
    except ValueError:
        raise InvalidInput(f"invalid address {told.IP[:40]!r} in a definition") from None
    if not told.Host or any(character.isspace() or character in "#\0" for character in told.Host):
        raise InvalidInput(f"invalid host name {told.Host[:40]!r} in a definition")
    return told.Host, told.IP


def read_network(value: int) -> Any:
    """A network mode, as the model calls it."""
    return _word(value, NETWORKS, "network mode")


def read_security(value: int) -> Any:
    """A security mode, as the model calls it."""
    if value not in SECURITY:
        raise InvalidInput(f"invalid security mode {value}")
    return SECURITY[value]


def read_secret_env(told: Any) -> ops.SecretEnv:
    """A secret that becomes a variable."""
    return ops.SecretEnv(read_text(told.ID, "secret"), read_text(told.name, "variable"), told.optional)


def _shm_size(told: Any) -> int:
    """BuildKit's frontend asks for shared memory by a tmpfs on /dev/shm; that is a mount like any other here."""
    return 0


def read_mount(told: Any, inputs: int, cwd: str = "/") -> ops.Mount:
    """A mount of a process that has so many inputs; a relative destination is one below its working directory."""
    kind = _word(told.mountType, MOUNT_KINDS, "mount type")
    if told.contentCache not in _CONTENT_CACHE:
        raise InvalidInput(f"unknown content cache {told.contentCache} in a definition")
    if not told.dest:
        raise InvalidInput("invalid definition: a mount without a destination")
    output = int(told.output)
    if not -1 <= output <= MOST_BELOW_ONE_OP:
        raise InvalidInput(f"invalid output {output} of a mount")
    if kind != "bind" and output != -1:
        output = -1  # clients leave the field at 0 for mounts that cannot have a result
    readonly = bool(told.readonly)
    return ops.Mount(
        read_path(told.dest if told.dest.startswith("/") else f"{cwd}/{told.dest}", "mount destination"),
        _index(told.input, inputs, "mount input"),
        -1 if readonly else output,
        read_text(told.selector, "mount selector"),
        readonly,
        kind,
        ops.CacheOptions(
            read_text(told.cacheOpt.ID, "cache id"), _word(told.cacheOpt.sharing, SHARING, "cache sharing")
        )
        if kind == "cache"
        else None,
        _read_secret(told) if kind == "secret" else None,
        _read_ssh(told) if kind == "ssh" else None,
        _read_tmpfs(told) if kind == "tmpfs" else None,
        told.contentCache == llb.ON and readonly,
    )


def _mode(value: int) -> int:
    return int(value) & 0o7777


def _id(value: int) -> int:
    if value >= (1 << 32) - 1:  # -1 means "leave as it is" to chown(2)
        raise InvalidInput(f"invalid user or group id {value} in a definition")
    return int(value)


def _read_secret(told: Any) -> ops.SecretOptions:
    one = told.secretOpt
    return ops.SecretOptions(read_text(one.ID, "secret id"), _id(one.uid), _id(one.gid), _mode(one.mode), one.optional)


def _read_ssh(told: Any) -> ops.SshOptions:
    one = told.SSHOpt
    id = read_text(one.ID, "agent id") or "default"
    return ops.SshOptions(id, _id(one.uid), _id(one.gid), _mode(one.mode), one.optional)


def _read_tmpfs(told: Any) -> ops.TmpfsOptions:
    if told.TmpfsOpt.size < 0:
        raise InvalidInput("invalid definition: a tmpfs of negative size")
    return ops.TmpfsOptions(int(told.TmpfsOpt.size))


# ---- file ------------------------------------------------------------------------------------------------------------


def _read_file(told: Any, inputs: int) -> ops.File:
    if not 0 < len(told.actions) <= MOST_BELOW_ONE_OP:
        raise InvalidInput("invalid definition: a file op has no actions, or too many")
    actions = tuple(_read_action(action, inputs + number, inputs) for number, action in enumerate(told.actions))
    outputs = [action.output for action in actions if action.output >= 0]
    if len(set(outputs)) != len(outputs) or sorted(outputs) != list(range(len(outputs))):
        raise InvalidInput("invalid definition: actions of a file op share an output, or leave one out")
    return ops.File(actions)


def _read_action(told: Any, known: int, inputs: int) -> ops.Action:
    kind = told.WhichOneof("action")
    if kind is None:
        raise InvalidInput("invalid definition: a file action that does nothing")
    one = getattr(told, kind)
    base = _index(told.input, known, "input of a file action")
    output = _index(told.output, MOST_BELOW_ONE_OP, "output of a file action")
    if kind == "copy":
        secondary = _index(told.secondaryInput, known, "input of a file action")
        return _read_copy(one, base, secondary, output, inputs)
    if kind == "rm":
        return ops.Remove(read_text(one.path, "path"), one.allowNotFound, one.allowWildcard, base, output)
    owner = _owner(one, inputs)
    if kind == "mkfile":
        return ops.MakeFile(read_text(one.path, "path"), one.data, _mode(one.mode), base, output, owner, one.timestamp)
    if kind == "mkdir":
        return ops.MakeDir(
            read_text(one.path, "path"), _mode(one.mode), one.makeParents, base, output, owner, one.timestamp
        )
    return ops.Symlink(
        read_text(one.oldpath, "link"), read_text(one.newpath, "path"), base, output, owner, one.timestamp
    )


def _read_copy(one: Any, base: int, secondary: int, output: int, inputs: int) -> ops.Copy:
    return ops.Copy(
        read_text(one.src, "path"),
        read_text(one.dest, "path"),
        base,
        secondary,
        output,
        _owner(one, inputs),
        -1 if one.mode < 0 else _mode(one.mode),
        read_text(one.modeStr, "mode"),
        one.followSymlink,
        one.dirCopyContents,
        one.attemptUnpackDockerCompatibility,
        one.createDestPath,
        one.allowWildcard,
        one.allowEmptyWildcard,
        tuple(read_text(pattern, "pattern") for pattern in one.include_patterns),
        tuple(read_text(pattern, "pattern") for pattern in one.exclude_patterns),
        tuple(read_text(path, "path") for path in one.required_paths),
        one.alwaysReplaceExistingDestPaths,
        one.timestamp,
    )


def _owner(one: Any, inputs: int) -> ops.Owner | None:
    if not one.HasField("owner"):
        return None
    user, user_input = _principal(one.owner.user, inputs)
    group, group_input = _principal(one.owner.group, inputs)
    if user_input is not None and group_input is not None and user_input != group_input:
        raise InvalidInput("invalid definition: user and group are looked up in different inputs")
    found = user_input if user_input is not None else group_input
    return ops.Owner(user, group, -1 if found is None else found)


def _principal(told: Any, inputs: int) -> tuple[int | str | None, int | None]:
    kind = told.WhichOneof("user")
    if kind is None:
        return None, None
    if kind == "byID":
        return _id(told.byID), None
    return read_text(told.byName.name, "user name"), _index(told.byName.input, inputs, "input of a user name")


# ---- snapshots -------------------------------------------------------------------------------------------------------


def _read_merge(told: Any, inputs: int) -> ops.Merge:
    found = tuple(_index(one.input, inputs, "merge input") for one in told.inputs)
    if len(found) < 2 or len(found) > MOST_BELOW_ONE_OP or -1 in found:
        raise InvalidInput("invalid definition: a merge needs two inputs or more")
    return ops.Merge(found)


def _read_diff(told: Any, inputs: int) -> ops.Diff:
    if not told.HasField("lower") or not told.HasField("upper"):
        raise InvalidInput("invalid definition: a diff needs a lower and an upper input")
    return ops.Diff(_index(told.lower.input, inputs, "diff input"), _index(told.upper.input, inputs, "diff input"))


def _read_build(told: Any, inputs: int) -> ops.Build:
    if told.builder != INPUT_OF_BUILDER:
        raise Unsupported("builds by a builder of their own are not supported")
    if DEFINITION_INPUT not in told.inputs:
        raise InvalidInput("invalid definition: a build without a definition")
    index = told.inputs[DEFINITION_INPUT].input
    if not 0 <= index < inputs:
        raise InvalidInput(f"invalid input {index} of a build")
    return ops.Build(
        index, tuple(sorted((read_text(k, "attribute"), read_text(v, "attribute")) for k, v in told.attrs.items()))
    )


def _read_passthrough(told: Any, inputs: int) -> ops.Passthrough:
    if not told.id or not 0 < len(told.outputs) <= MOST_BELOW_ONE_OP:
        raise InvalidInput("invalid definition: a passthrough needs an id and outputs")
    if any(not 0 <= output < inputs for output in told.outputs):
        raise InvalidInput("invalid definition: a passthrough of what is no input")
    return ops.Passthrough(tuple(told.outputs))


_READERS: Final[dict[str, Callable[[Any, int], ops.Op]]] = {
    "source": read_source,
    "exec": _read_exec,
    "file": _read_file,
    "merge": _read_merge,
    "diff": _read_diff,
    "build": _read_build,
    "passthrough": _read_passthrough,
}


# ---- names -----------------------------------------------------------------------------------------------------------


def name_of(op: ops.Op, inputs: Sequence[Edge]) -> str:
    """What an op without a name of its own is shown as, in BuildKit's words."""
    match op:
        case ops.Source():
            return op.identifier
        case ops.Exec():
            return " ".join(op.args)
        case ops.File():
            return ", ".join(_action_name(action) for action in op.actions)
        case ops.Merge():
            return f"merge ({', '.join(inputs[index].vertex.hints.name for index in op.inputs)})"
        case ops.Diff():
            sides = ("scratch" if i < 0 else inputs[i].vertex.hints.name for i in (op.lower, op.upper))
            return "diff " + " -> ".join(sides)
        case ops.Build():
            return "build"
        case _:
            return "passthrough"


def _action_name(action: ops.Action) -> str:
    match action:
        case ops.Copy():
            return f"copy {action.src} {action.dest}"
        case ops.MakeFile():
            return f"mkfile {action.path}"
        case ops.MakeDir():
            return f"mkdir {action.path}"
        case ops.Remove():
            return f"rm {action.path}"
        case _:
            return f"symlink {action.path} -> {action.target}"
