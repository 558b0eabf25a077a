"""Containers as documents: `docker ps`, `docker inspect`.

Owns the shape of these documents (Docker Engine API, Container). Does not change anything.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kedge.containers.request import ContainerRequest
from kedge.containers.supervisor import Supervised
from kedge.daemon.engine.containers import NEVER, Described, described, has_label, image_of, known, labels_of
from kedge.daemon.engine.routes import Call
from kedge.model.errors import KedgeError
from kedge.model.image import container_config_json
from kedge.sandbox.container import ContainerRecord

if TYPE_CHECKING:
    from kedge.daemon.engine.service import Engine


def list_containers(call: Call) -> None:
    filters = call.filters
    everything = call.flag("all") or "status" in filters or "exited" in filters
    limit = call.number("limit")
    records = [r for r in call.engine.supervisor.list() if everything or limit > 0 or r.state == "running"]
    kept = [record for record in records if _passes(call.engine, record, filters)]
    call.exchange.json(200, [summary(call.engine, r, call.flag("size")) for r in kept[: limit if limit > 0 else None]])


def _passes(engine: "Engine", record: ContainerRecord, filters: dict[str, tuple[str, ...]]) -> bool:
    checks: dict[str, Callable[[str], bool]] = {
        "status": lambda value: record.state == value,
        "name": lambda value: value.strip("^$/") in record.name,
        "id": lambda value: record.id.startswith(value),
        "exited": lambda value: record.state == "exited" and str(record.exit_code) == value,
        "ancestor": lambda value: value in (record.image, record.image_id) or record.image_id[7:].startswith(value),
    }
    for key, values in filters.items():
        if key == "label":
            labels = labels_of(engine.supervisor.find(record.id))
            if not all(has_label(labels, value) for value in values):
                return False
        elif key in checks and not any(checks[key](value) for value in values):
            return False
    return True


def summary(engine: "Engine", record: ContainerRecord, size: bool = False) -> dict[str, Any]:
    """One row of `docker ps`."""
    one = engine.supervisor.find(record.id)
    host = described(one).body.object("HostConfig")
    entry: dict[str, Any] = {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": record.image if not record.image.startswith("sha256:") else record.image[7:19],
        "ImageID": record.image_id,
        "Command": " ".join(record.command),
        "Created": int(record.created),
        "Ports": [],
        "Labels": labels_of(one),
        "State": record.state,
        "Status": status_text(record),
        "HostConfig": {"NetworkMode": host.text("NetworkMode") or "default"},
        "NetworkSettings": {"Networks": {}},
        "Mounts": _mount_points(described(one).request),
    }
    if size:
        from kedge.storage.disk import measure

        entry |= {"SizeRw": measure(one.container.upper).bytes, "SizeRootFs": 0}
    return entry


def status_text(record: ContainerRecord) -> str:
    if record.state == "running":
        return f"Up {duration(time.time() - record.started)}"
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
    one = known(call)
    record, asked = one.record, described(one)
    config, platform = _config(call.engine, one, asked), "linux"
    process = one.record.command
    document: dict[str, Any] = {
        "Id": record.id,
        "Created": moment(record.created),
        "Path": process[0] if process else "",
        "Args": list(process[1:]),
        "State": _state(record),
        "Image": record.image_id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": str(one.container.home / "log"),
        "Name": f"/{record.name}",
        "RestartCount": 0,
        "Driver": "overlayfs",
        "Platform": platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": [each.id for each in one.execs.values() if each.running] or None,
        "HostConfig": _host_config(asked),
        "GraphDriver": {"Name": "overlayfs", "Data": None},
        "Mounts": _mount_points(asked.request),
        "Config": config,
        "NetworkSettings": {"Bridge": "", "SandboxID": "", "Ports": {}, "Networks": {}},
    }
    if call.flag("size"):
        from kedge.storage.disk import measure

        document |= {"SizeRw": measure(one.container.upper).bytes, "SizeRootFs": 0}
    call.exchange.json(200, document)


def _state(record: ContainerRecord) -> dict[str, Any]:
    return {
        "Status": record.state,
        "Running": record.state == "running",
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": record.pid,
        "ExitCode": record.exit_code,
        "Error": record.error,
        "StartedAt": moment(record.started),
        "FinishedAt": moment(record.finished),
    }


def moment(seconds: float) -> str:
    """RFC 3339 with nanoseconds; Docker's zero for never."""
    if not seconds:
        return NEVER
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e9):09}Z"


def _config(engine: "Engine", one: Supervised, asked: Described) -> dict[str, Any]:
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
        "Labels": (image.get("Labels") or {}) | asked.body.mapping("Labels"),
        "WorkingDir": asked.request.workdir or image.get("WorkingDir", ""),
        "User": asked.request.user or image.get("User", ""),
        "Hostname": asked.request.hostname or one.record.id[:12],
    }
    flags = {"Tty": asked.request.terminal, "OpenStdin": asked.request.interactive, "StdinOnce": asked.once}
    defaults = {"Domainname": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False, "OnBuild": None}
    return defaults | own | chosen | flags


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


def _mount_points(request: ContainerRequest) -> list[dict[str, Any]]:
    binds: list[dict[str, Any]] = [
        {
            "Type": "bind",
            "Source": os.fspath(volume.source),
            "Destination": volume.dest,
            "Mode": "ro" if volume.readonly else "",
            "RW": not volume.readonly,
            "Propagation": "rprivate",
        }
        for volume in request.volumes
    ]
    return binds + [{"Type": "tmpfs", "Destination": path, "RW": True} for path, _ in request.tmpfs]
