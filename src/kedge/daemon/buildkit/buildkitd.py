"""buildkitd's own configuration: its flags and buildkitd.toml, as ours.

Owns their names and what each means here; what has no meaning here is taken and told. Does not run anything.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from kedge.daemon.buildkit.config import GcPolicy, ServiceConfig
from kedge.daemon.buildkit.gc_rules import read_rules
from kedge.daemon.buildkit.quantities import read_count, read_seconds
from kedge.daemon.listening import Tls
from kedge.model.errors import InvalidInput
from kedge.model.platform import parse_platform
from kedge.model.settings import RegistryHost, SandboxSettings, Settings
from kedge.model.value import dataclass, replace

DEFAULT_ADDRESS: Final = "unix:///run/buildkit/buildkitd.sock"
DEFAULT_CONFIG: Final = "/etc/buildkit/buildkitd.toml"
_ENTITLEMENTS: Final = ("network.host", "security.insecure", "device")
# Flags that are taken because buildkitd has them, and change nothing here: (name, does it take a value).
_UNUSED: Final = (
    ("rootless", False), ("log-format", True), ("log-level", True), ("debugaddr", True), ("proxy-network", False),
    ("otel-socket-path", True), ("cdi-disabled", False), ("cdi-spec-dir", True), ("save-cache-debug", False),
    ("containerd-worker", True), ("containerd-worker-addr", True), ("containerd-worker-labels", True),
    ("containerd-worker-net", True), ("containerd-cni-config-path", True), ("containerd-cni-binary-dir", True),
    ("containerd-cni-pool-size", True), ("containerd-worker-snapshotter", True), ("containerd-worker-namespace", True),
    ("containerd-worker-apparmor-profile", True), ("containerd-worker-selinux", False),
    ("containerd-max-parallelism", True), ("containerd-worker-rootless", False), ("containerd-worker-gc", False),
    ("containerd-worker-gc-keepstorage", True), ("oci-worker", True), ("oci-worker-snapshotter", True),
    ("oci-worker-proxy-snapshotter-path", True), ("oci-worker-net", True), ("oci-cni-config-path", True),
    ("oci-cni-binary-dir", True), ("oci-cni-pool-size", True), ("oci-worker-binary", True),
    ("oci-worker-apparmor-profile", True), ("oci-worker-selinux", False), ("oci-worker-rootless", False),
)  # fmt: skip
# Those that ask for what we do anyway, or in a way of our own: nobody needs to hear of them.
_SILENT: Final = frozenset(
    "rootless log-format log-level containerd-worker oci-worker oci-worker-net oci-worker-snapshotter "
    "oci-worker-rootless containerd-worker-net otel-socket-path oci-worker-binary containerd-worker-gc".split()
)


@dataclass(frozen=True)
class Daemon:
    """Everything that a start of the daemon needs. `notes` are for its log."""

    config: ServiceConfig
    addresses: tuple[str, ...]
    tls: Tls | None = None
    group: str = ""
    notes: tuple[str, ...] = ()


def parser() -> argparse.ArgumentParser:
    """buildkitd's flags."""
    flags = argparse.ArgumentParser(
        prog="kedge-buildkitd",
        description="Kedge as a BuildKit daemon: takes buildkitd's own flags.",
        allow_abbrev=False,
    )
    flags.add_argument("-v", "--version", action="store_true", help="print the version")
    flags.add_argument("--config", default=DEFAULT_CONFIG, metavar="FILE", help="path to config file")
    flags.add_argument(
        "--debug", nargs="?", const="true", default="", metavar="BOOL", help="log connections and traces"
    )
    flags.add_argument("--root", default="", metavar="DIR", help="path to state directory")
    flags.add_argument(
        "--addr", action="append", default=[], metavar="ADDRESS", help="listening address; may be repeated"
    )
    flags.add_argument("--group", default="", help="group (name or id) that owns Unix sockets")
    for name in ("tlscert", "tlskey", "tlscacert"):
        flags.add_argument(f"--{name}", default="", metavar="FILE")
    flags.add_argument("--allow-insecure-entitlement", action="append", default=[], metavar="NAME")
    flags.add_argument("--oci-worker-labels", action="append", default=[], metavar="KEY=VALUE")
    flags.add_argument("--oci-worker-platform", action="append", default=[], metavar="PLATFORM")
    flags.add_argument("--oci-max-parallelism", default="", metavar="N")
    flags.add_argument("--oci-worker-gc", nargs="?", const="true", default="", metavar="BOOL")
    flags.add_argument("--oci-worker-gc-keepstorage", default="", metavar="MB")
    flags.add_argument("--oci-worker-no-process-sandbox", nargs="?", const="true", default="", metavar="BOOL")
    for name, takes_value in _UNUSED:
        more: dict[str, Any] = {} if takes_value else {"nargs": "?", "const": "true"}
        flags.add_argument(f"--{name}", action="append", default=[], help=argparse.SUPPRESS, **more)
    return flags


def configure(words: Sequence[str]) -> Daemon:
    """The daemon that a command line asks for. Raises InvalidInput."""
    flags = parser().parse_args(list(words))
    table = _read_toml(Path(flags.config), must_exist=flags.config != DEFAULT_CONFIG)
    worker = _table(_table(table, "worker"), "oci")
    grpc = _table(table, "grpc")
    root = Path(flags.root or str(table.get("root", "") or "/var/lib/buildkit")).absolute()
    labels = {str(key): str(value) for key, value in _table(worker, "labels").items()}
    labels |= dict(_pair(text) for text in flags.oci_worker_labels)
    granted = [*_texts(table, "insecure-entitlements"), *flags.allow_insecure_entitlement]
    config = ServiceConfig(
        root=root,
        settings=replace(_settings(table), sandbox=_sandbox(flags, worker)),
        granted=tuple(dict.fromkeys(_entitlement(name) for name in granted)),
        labels=tuple(sorted(labels.items())),
        platforms=tuple(parse_platform(text) for text in flags.oci_worker_platform or _texts(worker, "platforms")),
        gc=_gc(flags, worker, root),
        max_parallelism=read_count(flags.oci_max_parallelism or worker.get("max-parallelism", 0)),
        history_entries=read_count(_table(table, "history").get("maxEntries", 0)) or 50,
        history_seconds=read_seconds(_table(table, "history").get("maxAge", 0)) or 48 * 3600.0,
        images_are_cache=True,
        recorded_times=True,
        debug=_is_true(flags.debug) or bool(table.get("debug")),
    )
    addresses = flags.addr or _texts(grpc, "address") or [DEFAULT_ADDRESS]
    group = flags.group or str(grpc.get("gid", ""))
    return Daemon(config, tuple(addresses), _tls(flags, _table(grpc, "tls")), group, _notes(flags))


def _notes(flags: argparse.Namespace) -> tuple[str, ...]:
    given = [name for name, _ in _UNUSED if getattr(flags, name.replace("-", "_")) and name not in _SILENT]
    return tuple(f"--{name} has no effect here" for name in given)


def _entitlement(name: str) -> str:
    if name not in _ENTITLEMENTS and not name.startswith("device="):
        raise InvalidInput(f"unknown entitlement {name[:60]!r}", hint=f"Known are {', '.join(_ENTITLEMENTS)}.")
    return name


def _tls(flags: argparse.Namespace, table: Mapping[str, Any]) -> Tls | None:
    files = (
        flags.tlscert or str(table.get("cert", "")),
        flags.tlskey or str(table.get("key", "")),
        flags.tlscacert or str(table.get("ca", "")),
    )
    if not any(files):
        return None
    if not all(files):
        raise InvalidInput("TLS needs all of --tlscert, --tlskey and --tlscacert")
    return Tls(*(Path(file) for file in files))


# ---- buildkitd.toml --------------------------------------------------------------------------------------------------


def _read_toml(path: Path, must_exist: bool) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        if must_exist:
            raise InvalidInput(f"the config file {path} does not exist") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no UTF-8'}") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is no valid TOML: {error}") from None


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise InvalidInput(f"buildkitd.toml: {key} is no table")
    return value


def _texts(table: Mapping[str, Any], key: str) -> list[str]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidInput(f"buildkitd.toml: {key} is no list of texts")
    return value


def _settings(table: Mapping[str, Any]) -> Settings:
    tables = _table(table, "registry")
    hosts = {host: _table(tables, host) for host in tables}
    found = {host: _registry(one, hosts) for host, one in hosts.items()}
    return Settings(registries=MappingProxyType(found))


def _sandbox(flags: argparse.Namespace, worker: Mapping[str, Any]) -> SandboxSettings:
    flag = flags.oci_worker_no_process_sandbox
    without = _is_true(flag) if flag else worker.get("noProcessSandbox", False)
    if not isinstance(without, bool):
        raise InvalidInput("buildkitd.toml: noProcessSandbox is neither true nor false")
    return SandboxSettings(process_sandbox=not without)


def _registry(table: Mapping[str, Any], hosts: Mapping[str, Mapping[str, Any]]) -> RegistryHost:
    http = table.get("http")
    pairs = table.get("keypair", [])
    keypairs = tuple((str(pair.get("key", "")), str(pair.get("cert", ""))) for pair in pairs if isinstance(pair, dict))
    mirrors = tuple(_mirror(name, hosts) for name in _texts(table, "mirrors"))
    ca = tuple(_texts(table, "ca"))
    return RegistryHost(mirrors, None if http is None else bool(http), bool(table.get("insecure")), ca, keypairs)


def _mirror(name: str, hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """A mirror is reached as its own table says."""
    plain = hosts.get(name.partition("/")[0], {}).get("http")
    return f"http://{name}" if plain and "://" not in name else name


def _gc(flags: argparse.Namespace, worker: Mapping[str, Any], root: Path) -> tuple[GcPolicy, ...]:
    if (flags.oci_worker_gc and not _is_true(flags.oci_worker_gc)) or worker.get("gc") is False:
        return ()
    return read_rules(worker, flags.oci_worker_gc_keepstorage, root)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInput(f"invalid label {text[:60]!r}: expected KEY=VALUE")
    return key, value


def _is_true(text: str) -> bool:
    return text.lower() in ("1", "t", "true")
