"""One op of the model's as one of a definition: the way back from `ops`.

Owns which field each value goes to. Does not know the graph around.
"""

from typing import Any

from kedge.daemon.buildkit.ops import (
    DEFINITION_INPUT,
    INPUT_OF_BUILDER,
    MOUNT_KINDS,
    NETWORKS,
    PROXIES,
    SECURITY,
    SHARING,
)
from kedge.daemon.wire import llb
from kedge.model import ops


def encode_op(op: ops.Op) -> Any:
    """The pb.Op of an op, without inputs. Raises UnicodeEncodeError for bytes of a Dockerfile that are no text."""
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
            told.build.builder = INPUT_OF_BUILDER
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
        if name in PROXIES:
            setattr(meta.proxy_env, name, value)
    for host, address in op.extra_hosts:
        meta.extraHosts.add(Host=host, IP=address)
    for limit in op.ulimits:
        meta.ulimit.add(Name=limit.name, Soft=limit.soft, Hard=limit.hard)
    if op.valid_exit_codes != (0,):
        meta.validExitCodes.extend(op.valid_exit_codes)
    told.network, told.security = _key_of(NETWORKS, op.network), _key_of(SECURITY, op.security)
    for secret in op.secret_env:
        told.secretenv.add(ID=secret.id, name=secret.name, optional=secret.optional)
    for device, optional in op.devices:
        told.cdiDevices.add(name=device, optional=optional)
    for mount in op.mounts:
        _write_mount(told.mounts.add(), mount)


def _write_mount(told: Any, mount: ops.Mount) -> None:
    told.input, told.output, told.dest = mount.input, mount.output, mount.dest
    told.selector, told.readonly = mount.selector, mount.readonly
    told.mountType = _key_of(MOUNT_KINDS, mount.kind)
    if mount.cache:
        told.cacheOpt.ID, told.cacheOpt.sharing = mount.cache.id, _key_of(SHARING, mount.cache.sharing)
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
