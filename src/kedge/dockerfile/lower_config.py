"""Instructions that change the image's config, and WORKDIR, which also makes its directory.

Owns their rules and history texts, one function for each. COPY, ADD and RUN are in rooms of their own.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from kedge.dockerfile import instructions as i
from kedge.dockerfile import paths
from kedge.dockerfile.history import healthcheck_text, plain_list, quoted_list
from kedge.dockerfile.lower_copy import read_owner
from kedge.dockerfile.lower_run import shell_of
from kedge.dockerfile.ports import parse_ports
from kedge.dockerfile.state import StageState
from kedge.dockerfile.variables import NOT_IN_ENVIRONMENT, ArgValue
from kedge.model import ops
from kedge.model.errors import DockerfileError
from kedge.model.suggest import did_you_mean

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
# signal(7) for Linux, and what Docker adds to it (moby/sys/signal)
_SIGNALS = frozenset(
    (
        "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM "
        "TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX"
    ).split()
    + [f"RTMIN+{n}" for n in range(1, 16)]
    + [f"RTMAX-{n}" for n in range(1, 15)]
)


def lower_config(state: StageState, command: i.Command) -> None:
    """Lower any instruction but COPY, ADD and RUN; raises DockerfileError."""
    _LOWER[type(command)](state, command)


def _env(state: StageState, command: i.Env) -> None:
    for key, value in _pairs(state, command):
        _check_secret(state, command, key)
        state.set_env(key, value)
        state.config.env[key] = value


def _pairs(state: StageState, command: i.Env | i.Label) -> Iterator[tuple[str, str]]:
    """The pairs, all expanded before the first of them counts; at the end, they are history."""
    pairs = [
        (state.expand(pair.key, command), state.expand(pair.value, command), pair.legacy) for pair in command.pairs
    ]
    for key, value, legacy in pairs:
        if legacy:
            state.report("LegacyKeyValueFormat", command, command.word)
        yield key, value
    state.config.commit(" ".join([command.name, *(f"{key}={value}" for key, value, _ in pairs)]), command.location)


def _check_secret(state: StageState, command: i.Env | i.Arg, key: str) -> None:
    if _SECRET.search(key) and not _NO_SECRET.search(key):
        state.report("SecretsUsedInArgOrEnv", command, command.name, key)


def _label(state: StageState, command: i.Label) -> None:
    state.config.labels |= dict(_pairs(state, command))


def _arg(state: StageState, command: i.Arg) -> None:
    """ARG takes, in this order: the caller's value, its own default, the global ARG's value."""
    shared, capture, texts = state.lowering.plan.globals, state.plan.capture, []
    for entry in command.args:
        _check_secret(state, command, entry.key)
        value, inherited = shared.build_args.get(entry.key), False
        if value is None and entry.default is not None:
            value = state.expand(entry.default, command)
        elif value is None and entry.key in shared.values:
            value, inherited = shared.values[entry.key], True
        if value is not None and entry.key not in NOT_IN_ENVIRONMENT:
            state.set_env(entry.key, value)
        if not inherited:
            capture.args[entry.key] = ArgValue(entry, value or "", command.location)
        capture.used.add(entry.key)
        state.declared[entry.key] = value or ""
        texts.append(entry.key if value is None else f"{entry.key}={value}")
    state.config.commit(" ".join(["ARG", *texts]), command.location)


def set_workdir(state: StageState, path: str) -> None:
    """Make `path` the working directory: of the config, and of the steps that follow."""
    current = state.config.working_dir or "/"
    path = path or current
    # As in BuildKit: an absolute path enters the config as it was written, only a relative one is cleaned.
    state.config.working_dir = path if path.startswith("/") else paths.join(current, path)
    state.cwd = paths.clean(state.config.working_dir)


def _workdir(state: StageState, command: i.Workdir) -> None:
    path = state.expand(command.path, command)
    if not state.workdir_set and not path.startswith("/"):
        state.report("WorkdirRelativePath", command, path)
    state.workdir_set = True
    set_workdir(state, path)
    directory = state.config.working_dir
    if directory != "/":
        title = state.title(state.shown(command.text))
        epoch = state.config.epoch
        base_index = 0 if state.root else ops.NO_INPUT
        action = ops.MakeDir(
            state.cwd,
            0o755,
            parents=True,
            input=base_index,
            owner=read_owner(state.config.user, base_index),
            timestamp=-1 if epoch is None else epoch * 10**9,
        )
        hints = state.hints(title, command.location, rerun=False)
        state.root = state.lowering.drafts.add(ops.File((action,)), (state.root,) if state.root else (), hints=hints)
    state.config.commit(f"WORKDIR {directory}", command.location, layer=directory != "/")


def _user(state: StageState, command: i.User) -> None:
    state.user = state.config.user = state.expand(command.user, command)
    state.config.commit(f"USER {state.user}", command.location)


def _expose(state: StageState, command: i.Expose) -> None:
    words = [word for port in command.ports for word in state.expand_words(port)]
    found: list[str] = []
    for port in parse_ports(words):
        if port.odd_protocol:
            state.report("ExposeProtoCasing", command, port.text)
        if port.odd_format:
            state.report("ExposeInvalidFormat", command, port.text)
        found += port.ports
    state.config.exposed_ports.update(found)
    state.config.commit(f"EXPOSE {plain_list(found)}", command.location)


def _volume(state: StageState, command: i.Volume) -> None:
    found = [state.expand(path, command) for path in command.paths]
    if not all(found):
        raise DockerfileError("VOLUME cannot be an empty string")
    state.config.volumes.update(found)
    state.config.commit(f"VOLUME {plain_list(found)}", command.location)


def _stop_signal(state: StageState, command: i.StopSignal) -> None:
    signal = state.expand(command.signal, command)
    name = signal.upper().removeprefix("SIG")
    number = signal.lstrip("+-")
    if name not in _SIGNALS and not (
        number.isascii() and number.isdigit() and int(number[:9]) > 0 and signal[0] != "-"
    ):
        hint = did_you_mean(name, sorted(_SIGNALS)) or "It is a name such as SIGTERM, or a number."
        raise DockerfileError(f"unknown signal {signal[:100]!r}", hint=hint, fault=signal)
    state.config.stop_signal = signal
    state.config.commit(f"STOPSIGNAL {signal}", command.location)


def _shell(state: StageState, command: i.Shell) -> None:
    state.config.shell = command.args
    state.config.commit(f"SHELL {plain_list(command.args)}", command.location)


def _used_once(state: StageState, command: i.Cmd | i.Entrypoint | i.Healthcheck) -> None:
    earlier = state.once.get(command.name)
    if earlier:
        state.report("MultipleInstructionsDisallowed", command, command.word, location=earlier)
    state.once[command.name] = command.location


def _process(state: StageState, command: i.Cmd | i.Entrypoint) -> tuple[str, ...]:
    _used_once(state, command)
    if not command.shell:
        return command.args or ()
    if not state.config.shell:
        state.report("JSONArgsRecommended", command, command.word)
    return (*shell_of(state), " ".join(command.args or ()))


def _cmd(state: StageState, command: i.Cmd) -> None:
    args = _process(state, command)
    state.config.cmd = args or None
    state.config.args_escaped = True
    state.config.commit(f"CMD {quoted_list(args)}", command.location)


def _entrypoint(state: StageState, command: i.Entrypoint) -> None:
    args = _process(state, command)
    state.config.entrypoint = args or None
    if "CMD" not in state.once:
        state.config.cmd = None  # it belonged to the inherited entrypoint
    state.config.commit(f"ENTRYPOINT {quoted_list(args)}", command.location)


def _healthcheck(state: StageState, command: i.Healthcheck) -> None:
    _used_once(state, command)
    state.config.healthcheck = command.health
    state.config.commit(f"HEALTHCHECK {healthcheck_text(command.health)}", command.location)


def _onbuild(state: StageState, command: i.Onbuild) -> None:
    state.config.on_build.append(command.trigger)


def _maintainer(state: StageState, command: i.Maintainer) -> None:
    state.config.author = command.maintainer
    state.config.commit(f"MAINTAINER {command.maintainer}", command.location)


_LOWER: dict[type, Callable[[StageState, Any], None]] = {
    i.Arg: _arg,
    i.Cmd: _cmd,
    i.Entrypoint: _entrypoint,
    i.Env: _env,
    i.Expose: _expose,
    i.Healthcheck: _healthcheck,
    i.Label: _label,
    i.Maintainer: _maintainer,
    i.Onbuild: _onbuild,
    i.Shell: _shell,
    i.StopSignal: _stop_signal,
    i.User: _user,
    i.Volume: _volume,
    i.Workdir: _workdir,
}
