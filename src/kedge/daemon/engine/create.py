"""From a client's description of a container to what Kedge runs: `POST /containers/create`.

Owns the reading of Config and HostConfig (Docker Engine API). What Kedge cannot do is refused by name; nothing that
would change what a container may do or see is left out silently. Touches no file.
"""

import ipaddress
import posixpath
import re
from collections.abc import Callable
from typing import Any, Final

from kedge.containers.launching import Care
from kedge.containers.log import LogLimits
from kedge.containers.request import ContainerRequest, Device, network_of
from kedge.containers.supervised import RestartPolicy
from kedge.daemon.engine.fields import Fields
from kedge.daemon.engine.mounts import read_mounts
from kedge.daemon.engine.ports import read_published
from kedge.kernel.identity import has_capability
from kedge.kernel.syscalls import CAPABILITIES
from kedge.model.errors import InvalidInput, Unsupported
from kedge.model.image import Healthcheck
from kedge.model.ops import Pairs, Ulimit
from kedge.model.value import replace
from kedge.sandbox.network import machine_address
from kedge.sandbox.plan import DEFAULT_CAPABILITIES
from kedge.sandbox.process import Limits, Resolver

_NETWORKS: Final = {"": "sandbox", "default": "sandbox", "bridge": "sandbox", "host": "host", "none": "none"}
_REFUSED_LISTS: Final = {  # HostConfig's field -> what to call it
    "DeviceRequests": "device requests",
    "DeviceCgroupRules": "device cgroup rules",
    "Links": "links",
    "VolumesFrom": "volumes of other containers",
}
_OWN_NAMESPACES: Final = {
    "PidMode": ("", "private"),
    "IpcMode": ("", "private", "shareable", "none"),
    "UTSMode": ("",),
    "UsernsMode": ("", "host"),
    "CgroupnsMode": ("", "private"),
}
_SYSCTLS: Final = frozenset(  # besides net.* and fs.mqueue.*: namespaces(7), ipc_namespaces(7)
    "kernel.msgmax kernel.msgmnb kernel.msgmni kernel.sem kernel.shmall kernel.shmmax kernel.shmmni "
    "kernel.shm_rmid_forced".split()
)
_POLICIES: Final = ("no", "always", "unless-stopped", "on-failure")


def read_request(body: Fields) -> ContainerRequest:
    """What the client asks for. Raises InvalidInput, Unsupported."""
    host = body.object("HostConfig")
    _refuse_what_is_missing(host)
    mounts = read_mounts(body)
    request = ContainerRequest(
        command=body.texts("Cmd", word=True) or (),
        entrypoint=_entrypoint(body),
        env=body.texts("Env") or (),
        user=body.text("User") or None,
        groups=host.texts("GroupAdd") or (),
        workdir=body.text("WorkingDir") or None,
        hostname=body.text("Hostname"),
        network=read_network(host.text("NetworkMode")),
        published=read_published(host, body.object("ExposedPorts").raw),
        interactive=body.flag("OpenStdin"),
        terminal=body.flag("Tty"),
        readonly=host.flag("ReadonlyRootfs"),
        volumes=mounts.volumes,
        named=mounts.named,
        tmpfs=mounts.tmpfs,
        devices=tuple(_device(each) for each in host.objects("Devices")),
        add_hosts=read_hosts(host),
        resolver=_resolver(host),
        ulimits=tuple(read_ulimit(each) for each in host.objects("Ulimits")),
        limits=read_limits(host),
        shm_size=max(0, host.number("ShmSize")),
        sysctls=tuple(sorted(host.mapping("Sysctls").items())),
        capabilities=_capabilities(host),
        privileged=host.flag("Privileged"),
        init=host.flag("Init"),
        no_new_privileges=True if _no_new_privileges(host) else None,
    )
    _check_sysctls(request)
    if network_of(request) == "private":
        request = replace(request, add_hosts=read_hosts(host, machine_address()))
    return request


def read_care(body: Fields) -> Care:
    """What the client asks of the service besides running it. Raises InvalidInput, Unsupported."""
    host = body.object("HostConfig")
    return Care(
        once=body.flag("StdinOnce"),
        restart=read_policy(host.object("RestartPolicy"), host.flag("AutoRemove")),
        health=_health(body),
        log=_log(host.object("LogConfig")),
        stop_signal=body.text("StopSignal"),
    )


def _entrypoint(body: Fields) -> tuple[str, ...] | None:
    """None: the image's. `--entrypoint ""` comes as a list of one empty string."""
    words = body.texts("Entrypoint", word=True)
    if not words:
        return None
    return () if words == ("",) else words


def read_network(mode: str) -> Any:
    """Docker's network mode as the sandbox's.

    Raises InvalidInput for networks that are not there: a client that hears of what is not found pulls the image.
    """
    if mode.startswith("container:"):
        raise Unsupported("a container cannot share another one's network")
    if mode not in _NETWORKS:
        raise InvalidInput(f"network {mode[:100]} not found: there are bridge, host and none")
    return _NETWORKS[mode]


def _refuse_what_is_missing(host: Fields) -> None:
    for name, what in _REFUSED_LISTS.items():
        if host.raw.get(name):
            raise Unsupported(f"{what} are not supported ({name})")
    for name, allowed in _OWN_NAMESPACES.items():
        if host.text(name) not in allowed:
            raise Unsupported(
                f"{name} {host.text(name)[:40]!r} is not supported: containers have namespaces of their own"
            )
    for option in host.texts("SecurityOpt") or ():
        known = option.startswith(("no-new-privileges", "label", "apparmor"))
        if not known:
            raise Unsupported(f"the security option {option[:60]!r} is not supported")


# ---- rights ----------------------------------------------------------------------------------------------------------


def _capabilities(host: Fields) -> frozenset[str] | None:
    """Docker's rules: `ALL` means all that this service has; what is dropped and added by name is added."""
    add, drop = (_names(host, field) for field in ("CapAdd", "CapDrop"))
    if not add and not drop:
        return None
    kept = frozenset(filter(has_capability, CAPABILITIES)) if "all" in add else frozenset(DEFAULT_CAPABILITIES)
    kept = frozenset() if "all" in drop else kept - drop
    return (kept | add) - {"all"}


def _names(host: Fields, field: str) -> frozenset[str]:
    names = frozenset(text.lower().removeprefix("cap_") for text in host.texts(field) or ())
    if unknown := names - {"all", *CAPABILITIES}:
        raise InvalidInput(f"invalid {field}: unknown capability: {sorted(unknown)[0][:40]!r}")
    return names


def _no_new_privileges(host: Fields) -> bool:
    options = [option for option in host.texts("SecurityOpt") or () if option.startswith("no-new-privileges")]
    return bool(options) and not options[-1].endswith(("=false", ":false"))


def _device(value: Fields) -> Device:
    source, dest, rights = value.text("PathOnHost"), value.text("PathInContainer"), value.text("CgroupPermissions")
    for path in (source, dest or source):
        clean = posixpath.normpath(path)
        if not path.startswith("/dev/") or not clean.startswith("/dev/"):
            raise InvalidInput(f"invalid device {path[:100]!r}: it must be below /dev")
    if not set(rights) >= {"r", "w"} and rights:
        raise Unsupported(f"device rights {rights[:10]!r} are not supported: there are rwm and rw")
    return Device(posixpath.normpath(source), posixpath.normpath(dest or source))


def _check_sysctls(request: ContainerRequest) -> None:
    for name, value in request.sysctls:
        if name.startswith("net.") and network_of(request) in ("sandbox", "host"):
            raise InvalidInput(f"sysctl {name[:60]!r} is not allowed in the machine's network")
        if not re.fullmatch(r"[a-z0-9_.-]+(/[a-z0-9_.-]+)*", name) or ".." in name or "\n" in value:
            raise InvalidInput(f"invalid sysctl {name[:60]!r}")
        if not name.startswith(("net.", "fs.mqueue.")) and name not in _SYSCTLS:
            raise InvalidInput(f"sysctl {name[:60]!r} is not in a separate kernel namespace")


# ---- limits, names and addresses -------------------------------------------------------------------------------------


def read_limits(host: Fields) -> Limits:
    """Memory, processors and processes."""
    cpus = host.number("NanoCpus") / 1e9
    if not cpus and host.number("CpuQuota") > 0:
        cpus = host.number("CpuQuota") / (host.number("CpuPeriod") or 100_000)
    return Limits(host.number("Memory"), max(0.0, cpus), max(0, host.number("PidsLimit")))


def read_ulimit(value: Fields) -> Ulimit:
    """One of HostConfig's Ulimits."""
    name, soft, hard = value.text("Name"), value.number("Soft"), value.number("Hard")
    if not name.isalpha() or soft < -1 or hard < -1:
        raise InvalidInput(f"invalid ulimit {name[:40]!r}")
    return Ulimit(name, soft, hard)


def read_hosts(host: Fields, machine: str = "127.0.0.1") -> Pairs:
    """ExtraHosts: `NAME:ADDRESS`; the address `host-gateway` is this machine, as it is reached from where the name is
    used.
    """
    pairs = []
    for entry in host.texts("ExtraHosts") or ():
        name, _, address = entry.partition(":")
        if not name or not address or any(c.isspace() for c in entry):
            raise InvalidInput(f'bad format for add-host: "{entry[:100]}"')
        pairs.append((name, machine if address == "host-gateway" else address))
    return tuple(pairs)


def _resolver(host: Fields) -> Resolver:
    servers, search, options = (host.texts(name) or () for name in ("Dns", "DnsSearch", "DnsOptions"))
    for server in servers:
        try:
            ipaddress.ip_address(server)
        except ValueError:
            raise InvalidInput(f"{server[:60]!r} is no address of a name server") from None
    for word in (*search, *options):
        if not word or any(c.isspace() for c in word):
            raise InvalidInput(f"invalid search domain or resolver option {word[:60]!r}")
    return Resolver(servers, search, options)


# ---- care ------------------------------------------------------------------------------------------------------------


def read_policy(value: Fields, auto_remove: bool = False) -> RestartPolicy:
    """HostConfig's RestartPolicy."""
    name: Any = value.text("Name") or "no"
    most = value.number("MaximumRetryCount")
    if name not in _POLICIES:
        raise InvalidInput(f"invalid restart policy: unknown policy {name[:40]!r}; use one of {', '.join(_POLICIES)}")
    if most < 0 or (most and name != "on-failure"):
        raise InvalidInput("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if auto_remove and name != "no":
        raise InvalidInput("can't create 'AutoRemove' container with restart policy")
    return RestartPolicy(name, most)


def _health(body: Fields) -> Healthcheck | None:
    if "Healthcheck" not in body:
        return None
    value = body.object("Healthcheck")
    test = value.texts("Test") or ()
    if test and test[0] not in ("", "NONE", "CMD", "CMD-SHELL"):
        raise InvalidInput(f"unknown health check type {test[0][:40]!r}")
    numbers = {name: value.number(name) for name in ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")}
    for name, number in numbers.items():
        if number < 0 or (0 < number < 1_000_000 and name != "Retries"):
            raise InvalidInput(f"{name} in Healthcheck cannot be less than 1ms")
    return Healthcheck(test if test[:1] != ("",) else (), *numbers.values())


def _log(value: Fields) -> LogLimits:
    kind, options = value.text("Type"), value.mapping("Config")
    if kind not in ("", "json-file", "local", "none"):
        raise InvalidInput(f"logger: no log driver named {kind[:40]!r} is registered: there are json-file, local, none")
    ignored = {"max-size", "max-file", "compress", "mode", "max-buffer-size", "labels", "env", "tag"}
    if unknown := options.keys() - ignored:
        raise InvalidInput(f"unknown log opt {sorted(unknown)[0][:40]!r} for {kind or 'json-file'} log driver")
    size, files = _log_size(options.get("max-size", "")), options.get("max-file", "1")
    if not (files.isascii() and files.isdecimal()) or not 0 < int(files[:6]) <= 1000:
        raise InvalidInput("max-file cannot be less than 1, or more than 1000")
    if int(files) > 1 and not size and "max-size" in options:
        raise InvalidInput("max-size must be a positive number")
    return LogLimits(size, int(files), kept=kind != "none")


_SIZE: Final[Callable[[str], Any]] = re.compile(r"(\d{1,12})([kmg]?)b?").fullmatch


def _log_size(text: str) -> int:
    if text in ("", "-1"):
        return 0
    match = _SIZE(text.lower())
    if not match or not int(match[1]):
        raise InvalidInput(f"invalid value for max-size: {text[:40]!r}")
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2]]
