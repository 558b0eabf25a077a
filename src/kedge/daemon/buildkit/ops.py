"""One op of a definition as one of the model's, and back.

Owns the fields of all seven ops, and what may stand in them. Does not know the graph around.
"""

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any, Final

from kedge.daemon.wire import llb
from kedge.model import ops
from kedge.model.errors import InvalidInput, Unsupported
from kedge.model.graph import Edge

_MOST_BELOW_ONE_OP: Final = 10_000  # inputs, mounts, actions
_LONGEST_TEXT: Final = 1 << 20
_SCHEMES: Final = ("docker-image", "local", "git", "http", "https", "oci-layout")
_PROXIES: Final = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
_MOUNT_KINDS: Final = {llb.BIND: "bind", llb.SECRET: "secret", llb.SSH: "ssh", llb.CACHE: "cache", llb.TMPFS: "tmpfs"}
_SHARING: Final = {llb.SHARED: "shared", llb.PRIVATE: "private", llb.LOCKED: "locked"}
_NETWORKS: Final = {llb.UNSET: "sandbox", llb.HOST: "host", llb.NONE: "none"}
_SECURITY: Final = {llb.SANDBOX: "sandbox", llb.INSECURE: "insecure"}
_CONTENT_CACHE: Final = (llb.DEFAULT, llb.ON, llb.OFF)
_INPUT_OF_BUILDER: Final = -1
DEFINITION_INPUT: Final = "buildkit.llb.definition"


def read_op(told: Any, inputs: int) -> ops.Op:
    """The op of a pb.Op that has so many inputs; raises InvalidInput, Unsupported."""
    kind = told.WhichOneof("op")
    if kind is None:
        raise InvalidInput("invalid definition: an op that does nothing")
    if inputs > _MOST_BELOW_ONE_OP:
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


def _text(text: str, what: str) -> str:
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


def _path(text: str, what: str) -> str:
    """An absolute path, without dots: what leads out of the root stops at it, as for any process inside."""
    parts: list[str] = []
    for part in _text(text, what).split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


# ---- source ----------------------------------------------------------------------------------------------------------


def read_source(told: Any, inputs: int) -> ops.Source:
    """A source op."""
    scheme, separator, rest = _text(told.identifier, "source").partition("://")
    if not separator or not rest:
        raise InvalidInput(f"invalid source {told.identifier[:80]!r}: expected scheme://name")
    if scheme not in _SCHEMES:
        raise Unsupported(f"sources of the kind {scheme[:40]!r} are not supported")
    if inputs:
        raise InvalidInput("invalid definition: a source has no inputs")
    attrs = sorted((_text(key, "attribute"), _text(value, "attribute")) for key, value in told.attrs.items())
    return ops.Source(told.identifier, tuple(attrs))


# ---- exec ------------------------------------------------------------------------------------------------------------


def _read_exec(told: Any, inputs: int) -> ops.Exec:
    meta = told.meta
    if not told.HasField("meta") or not meta.args:
        raise InvalidInput("invalid definition: an exec without arguments")
    if len(told.mounts) > _MOST_BELOW_ONE_OP:
        raise InvalidInput("invalid definition: an exec has too many mounts")
    mounts = tuple(_read_mount(mount, inputs) for mount in told.mounts)
    roots = [mount for mount in mounts if mount.dest == "/"]
    if len(roots) != 1 or roots[0].kind != "bind":
        raise InvalidInput("invalid definition: an exec without one root file system")
    used = [mount.output for mount in mounts if mount.output >= 0]
    if len(set(used)) != len(used) or any(output >= len(mounts) for output in used):
        raise InvalidInput("invalid definition: mounts of an exec share an output")
    return ops.Exec(
        tuple(_text(arg, "argument") for arg in meta.args),
        mounts,
        tuple(_variable(entry) for entry in meta.env),
        _path(meta.cwd, "working directory"),
        _text(meta.user, "user"),
        _text(meta.hostname, "host name")[:253],
        _word(told.network, _NETWORKS, "network mode"),
        _word(told.security, _SECURITY, "security mode"),
        _proxies(meta.proxy_env) if meta.HasField("proxy_env") else (),
        tuple(_host(host) for host in meta.extraHosts),
        tuple(ops.Ulimit(_text(one.Name, "ulimit").lower(), one.Soft, one.Hard) for one in meta.ulimit),
        _text(meta.cgroupParent, "cgroup"),
        _shm_size(told),
        tuple(ops.SecretEnv(_text(s.ID, "secret"), _text(s.name, "variable"), s.optional) for s in told.secretenv),
        tuple((_text(device.name, "device"), device.optional) for device in told.cdiDevices),
        tuple(sorted(set(meta.validExitCodes))) or (0,),
    )


def _variable(entry: str) -> str:
    name, equals, _ = _text(entry, "environment").partition("=")
    if not name or not equals:
        raise InvalidInput(f"invalid environment entry {entry[:40]!r} in a definition")
    return entry


def _proxies(told: Any) -> ops.Pairs:
    """Both spellings of each proxy that is set, as programs look for either."""
    found = {name: _text(getattr(told, name), "proxy") for name in _PROXIES if getattr(told, name)}
    return tuple(sorted({**found, **{name.upper(): value for name, value in found.items()}}.items()))


def _host(told: Any) -> tuple[str, str]:
    try:
        ipaddress.ip_address(told.IP)
    except ValueError:
        raise InvalidInput(f"invalid address {told.IP[:40]!r} in a definition") from None
    if not told.Host or any(character.isspace() or character in "#\0" for character in told.Host):
        raise InvalidInput(f"invalid host name {told.Host[:40]!r} in a definition")
    return told.Host, told.IP


def _shm_size(told: Any) -> int:
    """BuildKit's frontend asks for shared memory by a tmpfs on /dev/shm; that is a mount like any other here."""
    return 0


def _read_mount(told: Any, inputs: int) -> ops.Mount:
    kind = _word(told.mountType, _MOUNT_KINDS, "mount type")
    if told.contentCache not in _CONTENT_CACHE:
        raise InvalidInput(f"unknown content cache {told.contentCache} in a definition")
    if not told.dest:
        raise InvalidInput("invalid definition: a mount without a destination")
    output = int(told.output)
    if not -1 <= output <= _MOST_BELOW_ONE_OP:
        raise InvalidInput(f"invalid output {output} of a mount")
    if kind != "bind" and output != -1:
        output = -1  # clients leave the field at 0 for mounts that cannot have a result
    readonly = bool(told.readonly)
    return ops.Mount(
        _path(told.dest, "mount destination"),
        _index(told.input, inputs, "mount input"),
        -1 if readonly else output,
        _text(told.selector, "mount selector"),
        readonly,
        kind,
        ops.CacheOptions(_text(told.cacheOpt.ID, "cache id"), _word(told.cacheOpt.sharing, _SHARING, "cache sharing"))
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
    return ops.SecretOptions(_text(one.ID, "secret id"), _id(one.uid), _id(one.gid), _mode(one.mode), one.optional)


def _read_ssh(told: Any) -> ops.SshOptions:
    one = told.SSHOpt
    id = _text(one.ID, "agent id") or "default"
    return ops.SshOptions(id, _id(one.uid), _id(one.gid), _mode(one.mode), one.optional)


def _read_tmpfs(told: Any) -> ops.TmpfsOptions:
    if told.TmpfsOpt.size < 0:
        raise InvalidInput("invalid definition: a tmpfs of negative size")
    return ops.TmpfsOptions(int(told.TmpfsOpt.size))


# ---- file ------------------------------------------------------------------------------------------------------------


def _read_file(told: Any, inputs: int) -> ops.File:
    if not 0 < len(told.actions) <= _MOST_BELOW_ONE_OP:
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
    output = _index(told.output, _MOST_BELOW_ONE_OP, "output of a file action")
    if kind == "copy":
        secondary = _index(told.secondaryInput, known, "input of a file action")
        return _read_copy(one, base, secondary, output, inputs)
    if kind == "rm":
        return ops.Remove(_text(one.path, "path"), one.allowNotFound, one.allowWildcard, base, output)
    owner = _owner(one, inputs)
    if kind == "mkfile":
        return ops.MakeFile(_text(one.path, "path"), one.data, _mode(one.mode), base, output, owner, one.timestamp)
    if kind == "mkdir":
        return ops.MakeDir(
            _text(one.path, "path"), _mode(one.mode), one.makeParents, base, output, owner, one.timestamp
        )
    return ops.Symlink(_text(one.oldpath, "link"), _text(one.newpath, "path"), base, output, owner, one.timestamp)


def _read_copy(one: Any, base: int, secondary: int, output: int, inputs: int) -> ops.Copy:
    return ops.Copy(
        _text(one.src, "path"),
        _text(one.dest, "path"),
        base,
        secondary,
        output,
        _owner(one, inputs),
        -1 if one.mode < 0 else _mode(one.mode),
        _text(one.modeStr, "mode"),
        one.followSymlink,
        one.dirCopyContents,
        one.attemptUnpackDockerCompatibility,
        one.createDestPath,
        one.allowWildcard,
        one.allowEmptyWildcard,
        tuple(_text(pattern, "pattern") for pattern in one.include_patterns),
        tuple(_text(pattern, "pattern") for pattern in one.exclude_patterns),
        tuple(_text(path, "path") for path in one.required_paths),
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
    return _text(told.byName.name, "user name"), _index(told.byName.input, inputs, "input of a user name")


# ---- snapshots -------------------------------------------------------------------------------------------------------


def _read_merge(told: Any, inputs: int) -> ops.Merge:
    found = tuple(_index(one.input, inputs, "merge input") for one in told.inputs)
    if len(found) < 2 or len(found) > _MOST_BELOW_ONE_OP or -1 in found:
        raise InvalidInput("invalid definition: a merge needs two inputs or more")
    return ops.Merge(found)


def _read_diff(told: Any, inputs: int) -> ops.Diff:
    if not told.HasField("lower") or not told.HasField("upper"):
        raise InvalidInput("invalid definition: a diff needs a lower and an upper input")
    return ops.Diff(_index(told.lower.input, inputs, "diff input"), _index(told.upper.input, inputs, "diff input"))


def _read_build(told: Any, inputs: int) -> ops.Build:
    if told.builder != _INPUT_OF_BUILDER:
        raise Unsupported("builds by a builder of their own are not supported")
    if DEFINITION_INPUT not in told.inputs:
        raise InvalidInput("invalid definition: a build without a definition")
    index = told.inputs[DEFINITION_INPUT].input
    if not 0 <= index < inputs:
        raise InvalidInput(f"invalid input {index} of a build")
    return ops.Build(
        index, tuple(sorted((_text(k, "attribute"), _text(v, "attribute")) for k, v in told.attrs.items()))
    )


def _read_passthrough(told: Any, inputs: int) -> ops.Passthrough:
    if not told.id or not 0 < len(told.outputs) <= _MOST_BELOW_ONE_OP:
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


# ---- the way back ----------------------------------------------------------------------------------------------------


def encode_op(op: ops.Op) -> Any:
    """The pb.Op of an op, without inputs."""
    told = llb.Op()
    match op:
        case ops.Source():
            told.source.identifier = op.identifier
            told.source.attrs.update(op.attrs)
        case ops.Exec():
            _write_exec(told.exec, op)
        case ops.File():
            told.file.SetInParent()
            for action in op.actions:
                _write_action(told.file.actions.add(), action)
        case ops.Merge():
            told.merge.SetInParent()
            for index in op.inputs:
                told.merge.inputs.add(input=index)
        case ops.Diff():
            told.diff.lower.input, told.diff.upper.input = op.lower, op.upper
            told.diff.lower.SetInParent()
            told.diff.upper.SetInParent()
        case ops.Build():
            told.build.builder = _INPUT_OF_BUILDER
            told.build.inputs[DEFINITION_INPUT].input = op.definition_input
            told.build.attrs.update(op.attrs)
        case ops.Passthrough():
            told.passthrough.id = "kedge"
            told.passthrough.outputs.extend(op.outputs)
    return told


def _key_of(table: dict[int, str], word: str) -> int:
    return next(number for number, text in table.items() if text == word)


def _write_exec(told: Any, op: ops.Exec) -> None:
    meta = told.meta
    meta.args.extend(op.args)
    meta.env.extend(op.env)
    meta.cwd, meta.user, meta.hostname, meta.cgroupParent = op.cwd, op.user, op.hostname, op.cgroup_parent
    for name, value in op.proxy_env:
        if name in _PROXIES:
            setattr(meta.proxy_env, name, value)
    for host, address in op.extra_hosts:
        meta.extraHosts.add(Host=host, IP=address)
    for limit in op.ulimits:
        meta.ulimit.add(Name=limit.name, Soft=limit.soft, Hard=limit.hard)
    if op.valid_exit_codes != (0,):
        meta.validExitCodes.extend(op.valid_exit_codes)
    told.network, told.security = _key_of(_NETWORKS, op.network), _key_of(_SECURITY, op.security)
    for secret in op.secret_env:
        told.secretenv.add(ID=secret.id, name=secret.name, optional=secret.optional)
    for device, optional in op.devices:
        told.cdiDevices.add(name=device, optional=optional)
    for mount in op.mounts:
        _write_mount(told.mounts.add(), mount)


def _write_mount(told: Any, mount: ops.Mount) -> None:
    told.input, told.output, told.dest = mount.input, mount.output, mount.dest
    told.selector, told.readonly = mount.selector, mount.readonly
    told.mountType = _key_of(_MOUNT_KINDS, mount.kind)
    if mount.cache:
        told.cacheOpt.ID, told.cacheOpt.sharing = mount.cache.id, _key_of(_SHARING, mount.cache.sharing)
    if mount.tmpfs:
        told.TmpfsOpt.size = mount.tmpfs.size
    for options, field in ((mount.secret, "secretOpt"), (mount.ssh, "SSHOpt")):
        if options:
            one = getattr(told, field)
            one.ID, one.uid, one.gid, one.mode = options.id, options.uid, options.gid, options.mode
            one.optional = options.optional
    if mount.by_content:
        told.contentCache = llb.ON


def _write_action(told: Any, action: ops.Action) -> None:
    told.input, told.output = action.input, action.output
    told.secondaryInput = action.secondary if isinstance(action, ops.Copy) else -1
    match action:
        case ops.Copy():
            one = told.copy
            one.src, one.dest, one.mode, one.modeStr = action.src, action.dest, action.mode, action.mode_text
            one.followSymlink, one.dirCopyContents = action.follow_symlinks, action.contents_only
            one.attemptUnpackDockerCompatibility, one.createDestPath = action.unpack, action.create_dest_path
            one.allowWildcard, one.allowEmptyWildcard = action.wildcard, action.allow_empty_wildcard
            one.include_patterns.extend(action.include)
            one.exclude_patterns.extend(action.exclude)
            one.required_paths.extend(action.required_paths)
            one.alwaysReplaceExistingDestPaths = action.always_replace
        case ops.MakeFile():
            one = told.mkfile
            one.path, one.data, one.mode = action.path, action.data, action.mode
        case ops.MakeDir():
            one = told.mkdir
            one.path, one.mode, one.makeParents = action.path, action.mode, action.parents
        case ops.Symlink():
            one = told.symlink
            one.oldpath, one.newpath = action.target, action.path
        case ops.Remove():
            one = told.rm
            one.path, one.allowNotFound, one.allowWildcard = action.path, action.allow_not_found, action.wildcard
            return
    one.timestamp = action.timestamp
    if action.owner:
        _write_owner(one.owner, action.owner)


def _write_owner(told: Any, owner: ops.Owner) -> None:
    for value, one in ((owner.user, told.user), (owner.group, told.group)):
        if isinstance(value, int):
            one.byID = value
        elif value is not None:
            one.byName.name, one.byName.input = value, owner.input
