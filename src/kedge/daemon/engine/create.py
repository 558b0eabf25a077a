"""From a client's description of a container to what Kedge runs: `POST /containers/create`.

Owns the reading of Config and HostConfig (Docker Engine API). What Kedge cannot do is refused by name; nothing that
would change what a container may do or see is left out silently.
"""

import os
import posixpath
from pathlib import Path
from typing import Any, Final

from kedge.containers.request import ContainerRequest, Volume
from kedge.daemon.engine.fields import Fields
from kedge.model.errors import InvalidInput, NotFound, StoreError, Unsupported
from kedge.model.ops import Pairs, Ulimit
from kedge.sandbox.plan import DEFAULT_CAPABILITIES
from kedge.sandbox.process import Limits

_NETWORKS: Final = {"": "sandbox", "default": "sandbox", "bridge": "sandbox", "host": "host", "none": "none"}
_REFUSED_LISTS: Final = {  # HostConfig's field -> what to call it
    "CapDrop": "dropping capabilities",
    "Devices": "devices",
    "DeviceRequests": "device requests",
    "DeviceCgroupRules": "device cgroup rules",
    "Dns": "name servers of its own",
    "DnsOptions": "resolver options",
    "DnsSearch": "search domains",
    "GroupAdd": "additional groups",
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


def read_request(body: Fields) -> ContainerRequest:
    """What the client asks for. Raises InvalidInput, Unsupported, NotFound."""
    host = body.object("HostConfig")
    _refuse_what_is_missing(host)
    volumes, tmpfs = _mounts(host)
    environment = body.texts("Env") or ()
    return ContainerRequest(
        command=body.texts("Cmd", word=True) or (),
        entrypoint=_entrypoint(body),
        env=environment,
        user=body.text("User") or None,
        workdir=body.text("WorkingDir") or None,
        hostname=body.text("Hostname"),
        network=read_network(host.text("NetworkMode")),
        interactive=body.flag("OpenStdin"),
        terminal=body.flag("Tty"),
        readonly=host.flag("ReadonlyRootfs"),
        volumes=volumes,
        tmpfs=tmpfs,
        add_hosts=_hosts(host),
        ulimits=tuple(_ulimit(each) for each in host.objects("Ulimits")),
        limits=_limits(host),
        shm_size=max(0, host.number("ShmSize")),
        no_new_privileges=True if _no_new_privileges(host) else None,
    )


def _entrypoint(body: Fields) -> tuple[str, ...] | None:
    """None: the image's. `--entrypoint ""` comes as a list of one empty string."""
    words = body.texts("Entrypoint", word=True)
    if not words:
        return None
    return () if words == ("",) else words


def read_network(mode: str) -> Any:
    """Docker's network mode as the sandbox's. Raises NotFound for networks that are not there."""
    if mode.startswith("container:"):
        raise Unsupported("a container cannot share another one's network")
    if mode not in _NETWORKS:
        raise NotFound(f"network {mode[:100]} not found: there are host and none")
    return _NETWORKS[mode]


def _refuse_what_is_missing(host: Fields) -> None:
    if host.flag("Privileged"):
        raise Unsupported("privileged containers are not supported")
    if host.flag("Init"):
        raise Unsupported("--init is not supported: there is no init program to put into the container")
    for name, what in _REFUSED_LISTS.items():
        if host.raw.get(name):
            raise Unsupported(f"{what} are not supported ({name})")
    if host.raw.get("Sysctls"):
        raise Unsupported("sysctls are not supported (Sysctls)")
    for name, allowed in _OWN_NAMESPACES.items():
        if host.text(name) not in allowed:
            raise Unsupported(
                f"{name} {host.text(name)[:40]!r} is not supported: containers have namespaces of their own"
            )
    extra = [c for c in host.texts("CapAdd") or () if c.lower().removeprefix("cap_") not in DEFAULT_CAPABILITIES]
    if extra:
        raise Unsupported(f"the capability {extra[0][:40]} cannot be added")
    policy = host.object("RestartPolicy").text("Name")
    if policy not in ("", "no"):
        raise Unsupported(f"the restart policy {policy[:40]!r} is not supported: containers end with this service")
    for option in host.texts("SecurityOpt") or ():
        known = option.startswith(("no-new-privileges", "label", "apparmor"))
        if not known:
            raise Unsupported(f"the security option {option[:60]!r} is not supported")
    _refuse_other_ports(host)


def _refuse_other_ports(host: Fields) -> None:
    """Containers share this machine's network: a port is published as it is, or not at all."""
    for port, bindings in host.object("PortBindings").raw.items():
        for binding in bindings or ():
            wanted = Fields(binding, "PortBindings").text("HostPort")
            if wanted not in ("", "0", port.partition("/")[0]):
                raise Unsupported(
                    f"port {port[:20]} cannot be published as {wanted[:20]}: containers share this machine's network",
                    hint="Give it the number that it has in the container",
                )


def _no_new_privileges(host: Fields) -> bool:
    options = [option for option in host.texts("SecurityOpt") or () if option.startswith("no-new-privileges")]
    return bool(options) and not options[-1].endswith(("=false", ":false"))


# ---- mounts ----------------------------------------------------------------------------------------------------------


def _mounts(host: Fields) -> tuple[tuple[Volume, ...], tuple[tuple[str, int], ...]]:
    volumes = [_bind(text) for text in host.texts("Binds") or ()]
    tmpfs = [(_absolute(path), _tmpfs_size(options)) for path, options in host.mapping("Tmpfs").items()]
    for mount in host.objects("Mounts"):
        kind, source, target = mount.text("Type"), mount.text("Source"), _absolute(mount.text("Target"))
        if kind == "bind":
            if not os.path.exists(source):
                raise InvalidInput(
                    f'invalid mount config for type "bind": bind source path does not exist: {source[:300]}'
                )
            volumes.append(Volume(Path(_absolute(source)), target, mount.flag("ReadOnly")))
        elif kind == "tmpfs":
            tmpfs.append((target, max(0, mount.object("TmpfsOptions").number("SizeBytes"))))
        elif kind != "volume" or source:
            raise Unsupported(f"mounts of type {kind[:20]!r} are not supported: there are bind and tmpfs")
    return tuple(volumes), tuple(tmpfs)


def _bind(text: str) -> Volume:
    """`SOURCE:TARGET[:OPTIONS]`. A directory that is missing is made, as Docker makes it."""
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise InvalidInput(f"invalid volume specification: {text[:200]!r}")
    source, target = parts[0], _absolute(parts[1])
    options = set(parts[2].split(",")) if len(parts) == 3 else set()
    if not source.startswith("/"):
        raise Unsupported(f"{source[:100]!r} names a volume, and Kedge has none: give a directory's path")
    unknown = options - {"ro", "rw", "z", "Z", "rprivate", "private", "delegated", "cached", "consistent", "nocopy", ""}
    if unknown:
        raise Unsupported(f"the volume option {sorted(unknown)[0][:40]!r} is not supported")
    try:
        if not os.path.exists(source):
            os.makedirs(source, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the volume's directory {source[:300]}: {error.strerror}") from None
    return Volume(Path(os.path.normpath(source)), target, "ro" in options)


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidInput(f"invalid mount path: {path[:200]!r} must be absolute")
    return posixpath.normpath(path)


def _tmpfs_size(options: str) -> int:
    sizes = [value for key, _, value in (o.partition("=") for o in options.split(",")) if key == "size"]
    units = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    if not sizes:
        return 0
    number = sizes[-1].lower().rstrip("kmgb")
    unit = sizes[-1].lower()[len(number) :].rstrip("b")
    if not number.isdecimal() or len(number) > 15 or unit not in units:
        raise InvalidInput(f"invalid tmpfs size {sizes[-1][:20]!r}")
    return int(number) * units[unit]


# ---- limits ----------------------------------------------------------------------------------------------------------


def _limits(host: Fields) -> Limits:
    cpus = host.number("NanoCpus") / 1e9
    if not cpus and host.number("CpuQuota") > 0:
        cpus = host.number("CpuQuota") / (host.number("CpuPeriod") or 100_000)
    return Limits(max(0, host.number("Memory")), max(0.0, cpus), max(0, host.number("PidsLimit")))


def _ulimit(value: Fields) -> Ulimit:
    name, soft, hard = value.text("Name"), value.number("Soft"), value.number("Hard")
    if not name.isalpha() or soft < -1 or hard < -1:
        raise InvalidInput(f"invalid ulimit {name[:40]!r}")
    return Ulimit(name, soft, hard)


def _hosts(host: Fields) -> Pairs:
    pairs = []
    for entry in host.texts("ExtraHosts") or ():
        name, _, address = entry.partition(":")
        if not name or not address or any(c.isspace() for c in entry):
            raise InvalidInput(f'bad format for add-host: "{entry[:100]}"')
        pairs.append((name, "127.0.0.1" if address == "host-gateway" else address))
    return tuple(pairs)
