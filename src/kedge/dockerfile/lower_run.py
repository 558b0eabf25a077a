"""RUN: one Exec vertex, with its mounts, secrets, agents and limits.

Owns what a step's command line becomes in shell, exec and heredoc form, and which tree each mount shows. Runs nothing.
"""

import posixpath

from kedge.dockerfile import paths
from kedge.dockerfile.drafts import DraftEdge
from kedge.dockerfile.heredoc import Heredoc, parse_heredoc
from kedge.dockerfile.history import run_text
from kedge.dockerfile.instructions import InlineFile, Run
from kedge.dockerfile.lower_copy import inline_document
from kedge.dockerfile.mounts import RunMount, parse_mount
from kedge.dockerfile.options import SecretUse
from kedge.dockerfile.state import StageState
from kedge.model import ops
from kedge.model.errors import DockerfileError
from kedge.model.graph import Hints
from kedge.model.value import dataclass, field, replace

INLINE_SCRIPTS = "/dev/pipes"


@dataclass(slots=True)
class _Step:
    """An Exec in the making: `mounts` with the trees they show, secrets and agents apart."""

    mounts: list[tuple[ops.Mount, DraftEdge | None]] = field(default_factory=list)
    secrets: list[ops.Mount] = field(default_factory=list)
    agents: list[ops.Mount] = field(default_factory=list)
    secret_env: list[ops.SecretEnv] = field(default_factory=list)


def shell_of(state: StageState) -> tuple[str, ...]:
    """What runs the shell form."""
    if state.config.shell:
        return state.config.shell
    return ("cmd", "/S", "/C") if state.config.start.platform.os == "windows" else ("/bin/sh", "-c")


def lower_run(state: StageState, command: Run, sources: list[StageState]) -> None:
    """Lower a RUN whose mounts show `sources`, one for each mount; raises DockerfileError."""
    mounts = [parse_mount(text, lambda word: state.expand(word, command)) for text in command.mounts]
    state.paths.add("/")  # a process may read anything
    step = _Step()
    args, title = _command_line(state, command, step)
    _add_mounts(state, command, step, mounts, sources)
    masked = state.env | {mount.env: "****" for mount in mounts if mount.type == "secret" and mount.env}
    title = state.title(state.shown(title, masked, raw_quotes=True, keep_unset=True))
    edge_inputs, op_mounts = _number_inputs(state, step)
    op = _exec(state, command, step, args, op_mounts)
    hints = state.hints(title, command.location)
    state.root = state.lowering.drafts.add(op, edge_inputs, state.platform, hints)
    declared = {name: state.env.get(name, value) for name, value in state.declared.items()}
    state.config.commit("RUN " + run_text(args, declared) + " # buildkit", command.location, layer=True)


# ---- the command line ------------------------------------------------------------------------------------------------


def _command_line(state: StageState, command: Run, step: _Step) -> tuple[tuple[str, ...], str]:
    args, title = command.args, command.text
    if command.inline and command.shell:
        first, heredoc = command.inline[0], parse_heredoc(args[0])
        if heredoc is None:
            args = (_with_bodies(args[0], command.inline),)
        else:
            args = (_script(state, step, first),)
            title += f" ({_summary(first.data)})"
    if command.shell:
        args = (*shell_of(state), " ".join(args))
    if not args:
        raise DockerfileError("RUN needs a command")
    return args, title


def _script(state: StageState, step: _Step, file: InlineFile) -> str:
    """The command for a heredoc alone: its text for the shell, or with `#!` a file to run."""
    data = Heredoc(file.name, chomp=file.chomp, content=file.data).body
    if not data.startswith("#!") or state.config.start.platform.os == "windows":
        return data
    tree = inline_document(state, file.name, data, 0o755)
    step.mounts.append((ops.Mount(INLINE_SCRIPTS, readonly=True), tree))
    return posixpath.join(INLINE_SCRIPTS, file.name)


def _with_bodies(line: str, files: tuple[InlineFile, ...]) -> str:
    """The line with its heredocs behind it again, for the shell to read."""
    return line + "".join(f"\n{file.data}{file.name}" for file in files)


def _summary(data: str) -> str:
    lines = data.strip().replace("\r\n", "\n").split("\n")
    return lines[0] + ("..." if len(lines) > 1 else "")


# ---- mounts ----------------------------------------------------------------------------------------------------------


def _add_mounts(
    state: StageState, command: Run, step: _Step, mounts: list[RunMount], sources: list[StageState]
) -> None:
    for mount, source in zip(mounts, sources, strict=True):
        if mount.type == "secret":
            _add_secret(state, command, step, mount)
        elif mount.type == "ssh":
            _add_agent(state, command, step, mount)
        else:
            _add_tree(state, step, mount, source)


def _add_tree(state: StageState, step: _Step, mount: RunMount, source: StageState) -> None:
    target = paths.join(state.cwd, mount.target)
    if target == "/":
        raise DockerfileError(
            f"invalid mount target {mount.target!r}",
            hint="Write target=/some/directory.",
            fault=f"target={mount.target}",
        )
    if mount.type == "tmpfs":
        op = ops.Mount(target, kind="tmpfs", readonly=bool(mount.readonly), tmpfs=ops.TmpfsOptions(mount.size))
        step.mounts.append((op, None))
        return
    tree = _tree_of(state, mount, source)
    selector = paths.clean(mount.source)
    if selector != "/":
        pass
    elif mount.has_owner:
        tree, selector = _owned_directory(state, mount, tree), "/cache"
    else:
        selector = ""
    op = ops.Mount(target, selector=selector, readonly=bool(mount.readonly))
    if mount.type == "cache":
        namespace = state.lowering.plan.globals.build_args.get("BUILDKIT_CACHE_MOUNT_NS", "")
        name = mount.id or posixpath.normpath(mount.target or ".")
        cache = ops.CacheOptions(f"{namespace}/{name}", mount.sharing or "shared")
        op = replace(op, kind="cache", cache=cache)
    step.mounts.append((op, tree))


def _tree_of(state: StageState, mount: RunMount, source: StageState) -> DraftEdge | None:
    path = paths.clean(mount.source)
    if mount.source_stage:
        source.paths.add(path)
        return source.root
    if mount.type == "cache":
        return None
    state.lowering.context_paths.add(path)
    return state.lowering.context


def _owned_directory(state: StageState, mount: RunMount, tree: DraftEdge | None) -> DraftEdge:
    mode = (0o755 if mount.mode is None else mount.mode) & 0o777
    owner = ops.Owner(mount.uid or 0, mount.gid or 0)
    action = ops.MakeDir("/cache", mode, input=0 if tree else ops.NO_INPUT, owner=owner)
    hints = Hints("[internal] setting cache mount permissions", stage=state.plan.called, internal=True)
    return state.lowering.drafts.add(ops.File((action,)), (tree,) if tree else (), hints=hints)


def _add_secret(state: StageState, command: Run, step: _Step, mount: RunMount) -> None:
    name = mount.source or mount.id or posixpath.basename(posixpath.normpath(mount.target))
    state.plan.capture.secrets.setdefault(name, SecretUse(name, mount.required, command.location))
    if mount.env:
        step.secret_env.append(ops.SecretEnv(name, mount.env, not mount.required))
        if not mount.target:
            return
    target = mount.target or "/run/secrets/" + posixpath.basename(posixpath.normpath(name))
    mode = 0o400 if mount.mode is None else mount.mode
    options = ops.SecretOptions(name, mount.uid or 0, mount.gid or 0, mode, not mount.required)
    step.secrets.append(ops.Mount(paths.join(state.cwd, target), kind="secret", secret=options))


def _add_agent(state: StageState, command: Run, step: _Step, mount: RunMount) -> None:
    name = mount.id or "default"
    state.plan.capture.ssh.setdefault(name, SecretUse(name, mount.required, command.location))
    target = mount.target or f"/run/buildkit/ssh_agent.{len(step.agents)}"
    mode = 0o600 if mount.mode is None else mount.mode
    options = ops.SshOptions(name, mount.uid or 0, mount.gid or 0, mode, not mount.required)
    step.agents.append(ops.Mount(paths.join(state.cwd, target), kind="ssh", ssh=options))


# ---- the vertex ------------------------------------------------------------------------------------------------------


def _number_inputs(state: StageState, step: _Step) -> tuple[list[DraftEdge], list[ops.Mount]]:
    """All mounts, the root first and the others by target; those that show a tree with its input's number."""
    inputs: list[DraftEdge] = []
    numbered = []
    root = (ops.Mount("/", output=0), state.root)
    for mount, tree in [root, *sorted(step.mounts, key=lambda pair: pair[0].dest)]:
        if tree is not None and tree not in inputs:
            inputs.append(tree)
        numbered.append(replace(mount, input=ops.NO_INPUT if tree is None else inputs.index(tree)))
    return inputs, [*numbered, *step.secrets, *step.agents]


def _exec(state: StageState, command: Run, step: _Step, args: tuple[str, ...], mounts: list[ops.Mount]) -> ops.Exec:
    options = state.lowering.plan.options
    env = [f"{name}={value}" for name, value in state.env.items()]
    state.lowering.grow(sum(map(len, env)))
    if step.agents and "SSH_AUTH_SOCK" not in state.env:
        env.append(f"SSH_AUTH_SOCK={step.agents[0].dest}")
    return ops.Exec(
        args=args,
        mounts=tuple(mounts),
        env=tuple(env),
        cwd=state.cwd,
        user=state.user,
        hostname=state.lowering.plan.globals.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") or options.hostname,
        network=options.network if command.network == "default" else command.network,
        security=command.security,
        proxy_env=state.lowering.proxies,
        extra_hosts=options.add_hosts,
        ulimits=options.ulimits,
        cgroup_parent=options.cgroup_parent,
        shm_size=options.shm_size,
        secret_env=tuple(step.secret_env),
        devices=(*options.devices, *((device.name, not device.required) for device in command.devices)),
    )
