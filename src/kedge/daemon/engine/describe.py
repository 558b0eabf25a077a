"""Containers as documents: `docker ps`, `docker inspect`.

Owns the shape of these documents (Docker Engine API, Container). Does not change anything.
"""

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kedge.containers.request import network_of
from kedge.containers.supervised import Supervised
from kedge.containers.volumes import uses_of
from kedge.daemon.engine.containers import NEVER, Described, described, image_of, known
from kedge.daemon.engine.listing import bound_ports, chosen
from kedge.daemon.engine.networks import attached
from kedge.daemon.engine.ports import port_list, port_map
from kedge.daemon.engine.routes import Call
from kedge.model.errors import KedgeError, NotFound
from kedge.model.image import container_config_json
from kedge.sandbox.container import ContainerRecord

if TYPE_CHECKING:
    from kedge.daemon.engine.service import Engine


def list_containers(call: Call) -> None:
    records = chosen(call.engine, call.filters, call.flag("all"), call.number("limit"))
    call.exchange.json(200, [summary(call.engine, record, call.flag("size")) for record in records])


def summary(engine: "Engine", record: ContainerRecord, size: bool = False) -> dict[str, Any]:
    """One row of `docker ps`."""
    one = engine.supervisor.of(record)
    asked = described(one)
    mode = asked.body.object("HostConfig").text("NetworkMode") or "default"
    entry: dict[str, Any] = {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": record.image if not record.image.startswith("sha256:") else record.image[7:19],
        "ImageID": record.image_id,
        "Command": " ".join(record.command),
        "Created": int(record.created),
        "Ports": port_list(bound_ports(one, asked), asked.body.object("ExposedPorts").raw if one.running else ()),
        "Labels": asked.body.mapping("Labels"),
        "State": one.state,
        "Status": status_text(one),
        "HostConfig": {"NetworkMode": mode},
        "NetworkSettings": {"Networks": attached(mode, one, network_of(asked.request))},
        "Mounts": _mount_points(engine, one, asked),
    }
    return entry | (_sizes(engine, one) if size else {})


def _sizes(engine: "Engine", one: Supervised) -> dict[str, int]:
    """What it wrote, and with its image's files: bytes."""
    from kedge.images.inspect import image_size
    from kedge.storage.disk import measure

    own = image = 0
    own = measure(one.container.upper).bytes
    with suppress(KedgeError), engine.store() as store:
        image = image_size(store, image_of(store, one))
    return {"SizeRw": own, "SizeRootFs": image + own}


def status_text(one: Supervised) -> str:
    """Docker's words for how it is, and since when."""
    record = one.record
    if one.state == "restarting":
        return f"Restarting ({record.exit_code}) {duration(time.time() - record.finished)} ago"
    if record.state == "running":
        well = (
            {"starting": " (health: starting)"}.get(one.health.verdict, f" ({one.health.verdict})")
            if one.health
            else ""
        )
        return f"Up {duration(time.time() - record.started)}{' (Paused)' if one.frozen else well}"
    if record.state == "exited":
        return f"Exited ({record.exit_code}) {duration(time.time() - record.finished)} ago"
    return "Created"


def duration(seconds: float) -> str:
    """A time span in words, as Docker puts it."""
    seconds = max(0, int(seconds))
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    minutes, hours = seconds // 60, (seconds + 1800) // 3600
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    for length, word in ((730, "years"), (60, "months"), (14, "weeks")):
        if days >= length:
            return f"{days // (length // 2)} {word}"
    return f"{days} days"


def inspect(call: Call) -> None:
    one, engine = known(call), call.engine
    record, asked = one.record, described(one)
    process, mode = record.command, asked.body.object("HostConfig").text("NetworkMode") or "default"
    ports = port_map(bound_ports(one, asked), asked.body.object("ExposedPorts").raw if one.running else ())
    document: dict[str, Any] = {
        "Id": record.id,
        "Created": moment(record.created),
        "Path": process[0] if process else "",
        "Args": list(process[1:]),
        "State": _state(one),
        "Image": record.image_id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": str(one.container.home / "log"),
        "Name": f"/{record.name}",
        "RestartCount": one.restarts,
        "Driver": "overlayfs",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": [each.id for each in list(one.execs.values()) if each.running] or None,
        "HostConfig": _host_config(asked),
        "GraphDriver": {"Name": "overlayfs", "Data": None},
        "Mounts": _mount_points(engine, one, asked),
        "Config": config_of(engine, one, asked),
        "NetworkSettings": _network_settings(mode, one, network_of(asked.request), ports),
    }
    call.exchange.json(200, document | (_sizes(engine, one) if call.flag("size") else {}))


def _network_settings(mode: str, one: Supervised, network: str, ports: dict[str, Any]) -> dict[str, Any]:
    networks = attached(mode, one, network)
    first: dict[str, Any] = next(iter(networks.values()))
    names = ("EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "MacAddress")
    legacy = {name: first.get(name, "") for name in names} | {"IPv6Gateway": "", "GlobalIPv6Address": ""}
    return {"Bridge": "", "SandboxID": "", "SandboxKey": "", "Ports": ports, "Networks": networks} | legacy


def _state(one: Supervised) -> dict[str, Any]:
    record = one.record
    document = {
        "Status": one.state,
        "Running": record.state == "running" or one.alive,
        "Paused": one.frozen is not None,
        "Restarting": one.state == "restarting",
        "OOMKilled": record.oom_killed,
        "Dead": False,
        "Pid": record.pid,
        "ExitCode": record.exit_code,
        "Error": record.error,
        "StartedAt": moment(record.started),
        "FinishedAt": moment(record.finished),
    }
    return document | ({"Health": _health(one)} if one.health else {})


def _health(one: Supervised) -> dict[str, Any]:
    assert one.health is not None
    probes = [
        {"Start": moment(p.start), "End": moment(p.end), "ExitCode": p.exit_code, "Output": p.output}
        for p in list(one.health.probes)
    ]
    return {"Status": one.health.verdict, "FailingStreak": one.health.streak, "Log": probes}


def moment(seconds: float) -> str:
    """RFC 3339 with nanoseconds; Docker's zero for never."""
    if not seconds:
        return NEVER
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e9):09}Z"


def config_of(engine: "Engine", one: Supervised, asked: Described) -> dict[str, Any]:
    """The client's Config over the image's."""
    own = {key: value for key, value in asked.body.raw.items() if key not in ("HostConfig", "NetworkingConfig")}
    image: dict[str, Any] = {}
    env: dict[str, str] = {}
    with suppress(KedgeError), engine.store() as store:
        config = image_of(store, one).config
        image = container_config_json(config)
        env = {entry.partition("=")[0]: entry for entry in config.env}
    env |= {entry.partition("=")[0]: entry for entry in asked.request.env if "=" in entry}
    entrypoint = asked.request.entrypoint
    chosen = {
        "Image": one.record.image,
        "Env": list(env.values()),
        "Cmd": list(asked.request.command) or (None if entrypoint is not None else image.get("Cmd")),
        "Entrypoint": image.get("Entrypoint") if entrypoint is None else list(entrypoint),
        "Labels": asked.body.mapping("Labels"),
        "WorkingDir": asked.request.workdir or image.get("WorkingDir", ""),
        "User": asked.request.user or image.get("User", ""),
        "Healthcheck": asked.body.raw.get("Healthcheck") or image.get("Healthcheck"),
        "Volumes": (image.get("Volumes") or {}) | asked.body.object("Volumes").raw or None,
        "StopSignal": asked.care.stop_signal or image.get("StopSignal"),
        "Hostname": asked.request.hostname or one.record.id[:12],
    }
    flags = {"Tty": asked.request.terminal, "OpenStdin": asked.request.interactive, "StdinOnce": asked.care.once}
    defaults = {"Domainname": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False, "OnBuild": None}
    every = defaults | own | chosen | flags
    return {key: value for key, value in every.items() if value is not None or key not in ("Healthcheck", "StopSignal")}


def _host_config(asked: Described) -> dict[str, Any]:
    host = dict(asked.body.object("HostConfig").raw)
    defaults: dict[str, Any] = {
        "Binds": None,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    }
    defaults |= {"NetworkMode": "default", "PortBindings": {}, "LogConfig": {"Type": "json-file", "Config": {}}}
    given = {key: value for key, value in host.items() if value is not None}
    if not asked.body.object("HostConfig").object("LogConfig").text("Type"):
        given.pop("LogConfig", None)  # "": the service's default, which clients want to know
    return defaults | given


def _mount_points(engine: "Engine", one: Supervised, asked: Described) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = [
        {
            "Type": "bind",
            "Source": str(volume.source),
            "Destination": volume.dest,
            "Mode": "ro" if volume.readonly else "",
            "RW": not volume.readonly,
            "Propagation": "rprivate",
        }
        for volume in asked.request.volumes
    ]
    for use in uses_of(one.container.home):
        source = ""
        with suppress(NotFound):
            source = str(engine.supervisor.volumes.get(use.name).path)
        points.append(
            {
                "Type": "volume",
                "Name": use.name,
                "Source": source,
                "Destination": use.dest,
                "Driver": "local",
                "Mode": "ro" if use.readonly else "z",
                "RW": not use.readonly,
                "Propagation": "",
            }
        )
    return points + [_tmpfs_point(each.dest) for each in asked.request.tmpfs]


def _tmpfs_point(dest: str) -> dict[str, Any]:
    return {"Type": "tmpfs", "Source": "", "Destination": dest, "Mode": "", "RW": True, "Propagation": ""}
