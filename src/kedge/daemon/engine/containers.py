"""Containers of the service: create, start, stop, wait, list, inspect, remove.

Owns these documents (Docker Engine API, Container) and the settings file in a container's home: the client's own
description, from which every start begins again. What a container is belongs to `kedge.containers`.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.containers.request import ContainerRequest, command_line, mounts_of, process_of, root_of
from kedge.containers.supervisor import Supervised, signal_number
from kedge.daemon.engine.create import read_request
from kedge.daemon.engine.fields import Fields
from kedge.daemon.engine.images import found, read_platform
from kedge.daemon.engine.routes import Call
from kedge.images.lookup import StoredImage, find, read_image, snapshot_of
from kedge.model.errors import Conflict, InvalidInput, KedgeError, NotFound, StoreError, Unsupported
from kedge.model.graph import Snapshot
from kedge.model.image import Descriptor, container_config_json
from kedge.model.value import dataclass
from kedge.sandbox.container import ContainerRecord
from kedge.sandbox.process import MountPoint, Process
from kedge.storage.images import ImageRecord
from kedge.storage.store import Store

if TYPE_CHECKING:
    from kedge.daemon.engine.service import Engine

_SETTINGS, _TARGET = "settings.json", "target.json"
NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Described:
    """A container with its settings: the client's own words, and what they ask for."""

    one: Supervised
    body: Fields
    request: ContainerRequest

    @property
    def once(self) -> bool:
        return self.body.flag("StdinOnce")


def known(call: Call, name: str = "id") -> Supervised:
    """The container that the path names. Raises NotFound in Docker's words."""
    return look_up(call.engine, call[name])


def look_up(engine: "Engine", text: str) -> Supervised:
    try:
        return engine.supervisor.find(text)
    except NotFound as error:
        if "several" in error.message:
            raise
        raise NotFound(f"No such container: {text[:200]}") from None


def described(one: Supervised) -> Described:
    """A container with its settings; one of `kedge run` has none."""
    try:
        data = (one.container.home / _SETTINGS).read_bytes()
    except OSError:
        data = b""
    body = Fields.parse(data)
    return Described(one, body, read_request(body))


# ---- create ----------------------------------------------------------------------------------------------------------


def create(call: Call) -> None:
    body, engine = call.fields, call.engine
    request = read_request(body)
    text = body.text("Image")
    if not text:
        raise InvalidInput("no image is named")
    number_of_stop_signal(body.text("StopSignal"))
    with engine.store() as store:
        image = found(engine, store, text, read_platform(call.query("platform")))
        command = command_line(image.config, request)
        auto_remove = body.object("HostConfig").flag("AutoRemove")
        one = engine.supervisor.create(text, image.id, command, call.query("name").removeprefix("/"), auto_remove)
        try:
            _keep(one.container.home / _TARGET, image.descriptor.to_json())
            _keep(one.container.home / _SETTINGS, body.raw)
            snapshot_of(store, image)
        except KedgeError:
            engine.supervisor.remove(one, force=True)
            raise
    size = body.object("HostConfig").raw.get("ConsoleSize")
    if isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and 0 < n < 1 << 16 for n in size):
        one.size = size[0], size[1]
    call.exchange.json(201, {"Id": one.record.id, "Warnings": []})


def _keep(path: Path, value: Any) -> None:
    try:
        path.write_text(json.dumps(value))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None


def image_of(store: Store, one: Supervised) -> StoredImage:
    """The image that a container stands on, though it may have lost its names. Raises NotFound."""
    record = one.record
    try:
        target = Descriptor.from_json(json.loads((one.container.home / _TARGET).read_bytes()))
    except (OSError, ValueError):
        raise NotFound(f"container {record.name} was not made by this service") from None
    name = record.image
    with suppress(KedgeError):
        name = find(store, record.image).name
    return read_image(store, ImageRecord(name, target, target.digest, record.created), target)


def layers_of(store: Store, one: Supervised) -> tuple[StoredImage, Snapshot, tuple[Path, ...]]:
    """A container's image, and its layers as directories, fetched if they are not here yet."""
    image = image_of(store, one)
    snapshot = snapshot_of(store, image)
    return image, snapshot, store.layers.directories(snapshot)


# ---- running ---------------------------------------------------------------------------------------------------------


def start(call: Call) -> None:
    one = known(call)
    if one.running:
        call.exchange.send(304)
        return
    start_one(call.engine, one)
    call.exchange.send(204)


def start_one(engine: "Engine", one: Supervised) -> None:
    """Start a container by its settings. Raises what `Supervisor.start` raises."""
    if one.record.state == "running":
        raise Conflict(f"container {one.record.name} runs already, outside of this service")
    asked = described(one)
    with engine.store() as store:
        process, mounts = prepare(store, one, asked.request)
    streams = engine.supervisor.streams_of(one, asked.request.terminal, asked.request.interactive, asked.once)
    engine.supervisor.start(one, process, mounts, streams)


def prepare(store: Store, one: Supervised, request: ContainerRequest) -> tuple[Process, tuple[MountPoint, ...]]:
    """The process and the mounts of a container."""
    image, snapshot, lowers = layers_of(store, one)
    process = process_of(store, snapshot, image.config, request, one.record.id[:12])
    return process, (root_of(one.container, lowers, request.readonly), *mounts_of(request))


def number_of_stop_signal(text: str) -> int:
    return signal_number(text or "SIGTERM")


def _stop(call: Call, one: Supervised) -> bool:
    body = described(one).body
    name = call.query("signal") or body.text("StopSignal")
    if not name:
        with suppress(KedgeError), call.engine.store() as store:
            name = image_of(store, one).config.stop_signal
    patience = call.number("t", body.number("StopTimeout", 10))
    return call.engine.supervisor.stop(one, number_of_stop_signal(name), patience)


def stop(call: Call) -> None:
    call.exchange.send(204 if _stop(call, known(call)) else 304)


def restart(call: Call) -> None:
    one = known(call)
    _stop(call, one)
    start_one(call.engine, one)
    call.exchange.send(204)


def kill(call: Call) -> None:
    one = known(call)
    number = signal_number(call.query("signal") or "SIGKILL")
    if not one.running and one.record.state != "running":
        raise Conflict(f"cannot kill container: {call['id'][:100]}: container {one.record.id} is not running")
    call.engine.supervisor.signal(one, number)
    call.exchange.send(204)


def wait(call: Call) -> None:
    """The headers go out at once: the client starts the container after it has seen them."""
    one, exchange = known(call), call.exchange
    condition: Any = call.query("condition") or "not-running"
    if condition not in ("not-running", "next-exit", "removed"):
        raise InvalidInput(f"invalid condition: {condition[:40]!r}")
    ready: list[bool] = []

    def wanted() -> bool:
        if not ready:
            ready.append(True)
            exchange.begin()
        return not exchange.stopping.is_set() and not exchange.is_gone()

    code = call.engine.supervisor.wait(one, condition, wanted)
    if code is not None:
        exchange.write(json.dumps({"StatusCode": code}).encode() + b"\n")
        exchange.end()


def rename(call: Call) -> None:
    call.engine.supervisor.rename(known(call), call.query("name"))
    call.exchange.send(204)


def remove(call: Call) -> None:
    if call.flag("link"):
        raise Unsupported("links are not supported")
    call.engine.supervisor.remove(known(call), call.flag("force"))
    call.exchange.send(204)


def prune(call: Call) -> None:
    filters, gone = call.filters, []
    for record in call.engine.supervisor.list():
        one = call.engine.supervisor.find(record.id)
        labels = _labels(one)
        if record.state != "running" and all(_has_label(labels, each) for each in filters.get("label", ())):
            with suppress(KedgeError):
                call.engine.supervisor.remove(one, force=False)
                gone.append(record.id)
    call.exchange.json(200, {"ContainersDeleted": gone or None, "SpaceReclaimed": 0})


def resize(call: Call) -> None:
    rows, columns = call.number("h"), call.number("w")
    if not (0 <= rows < 1 << 16 and 0 <= columns < 1 << 16):
        raise InvalidInput("a terminal's size is out of range")
    call.engine.supervisor.resize(known(call), rows, columns)
    call.exchange.send(200)


def unsupported(what: str) -> Callable[[Call], None]:
    """A handler that says what is missing."""

    def handler(call: Call) -> None:
        raise Unsupported(f"{what} not supported by Kedge")

    return handler


# ---- documents -------------------------------------------------------------------------------------------------------


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
            labels = _labels(engine.supervisor.find(record.id))
            if not all(_has_label(labels, value) for value in values):
                return False
        elif key in checks and not any(checks[key](value) for value in values):
            return False
    return True


def _labels(one: Supervised) -> dict[str, str]:
    with suppress(KedgeError):
        return described(one).body.mapping("Labels")
    return {}


def _has_label(labels: dict[str, str], text: str) -> bool:
    key, equals, value = text.partition("=")
    return key in labels and (not equals or labels[key] == value)


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
        "Labels": _labels(one),
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
    return defaults | {key: value for key, value in host.items() if value is not None}


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


def top(call: Call) -> None:
    """The processes in the container's pid namespace, by /proc."""
    one = known(call)
    if one.record.state != "running":
        raise Conflict(f"container {one.record.id} is not running")
    rows = list(processes(one.record.pid))
    call.exchange.json(200, {"Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], "Processes": rows})


def pids_of(first: int) -> list[int]:
    """All processes in the pid namespace of a container's first one."""
    namespace = _link(f"/proc/{first}/ns/pid")
    numbers = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return sorted(pid for pid in numbers if namespace and _link(f"/proc/{pid}/ns/pid") == namespace)


def processes(first: int) -> "Any":
    import pwd

    ticks = os.sysconf("SC_CLK_TCK")
    with open("/proc/uptime") as file:
        booted = time.time() - float(file.read().split()[0])
    for pid in pids_of(first):
        try:
            with open(f"/proc/{pid}/stat", errors="replace") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
            with open(f"/proc/{pid}/cmdline", "rb") as raw:
                words = raw.read(4096).replace(b"\0", b" ").decode(errors="replace").strip()
            uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            continue  # it ended meanwhile
        facts = rest.split()
        spent = (int(facts[11]) + int(facts[12])) // ticks
        began = time.strftime("%H:%M", time.localtime(booted + int(facts[19]) / ticks))
        try:
            owner = pwd.getpwuid(uid).pw_name
        except KeyError:
            owner = str(uid)
        clock = time.strftime("%H:%M:%S", time.gmtime(spent))
        terminal = "pts/0" if facts[4] != "0" else "?"
        yield [owner, str(pid), facts[1], "0", began, terminal, clock, words or f"[{name}]"]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def stats(call: Call) -> None:
    one, exchange = known(call), call.exchange
    stream = call.flag("stream", default=True) and not call.flag("one-shot")
    before = _usage(one)
    exchange.begin()
    while True:
        now = _usage(one)
        exchange.write(json.dumps(_stats(one, before, now)).encode() + b"\n")
        before = now
        if not stream or one.removed or exchange.is_gone() or exchange.stopping.wait(1.0):
            break
    exchange.end()


def _usage(one: Supervised) -> dict[str, int]:
    """Processor time in nanoseconds, memory in bytes, processes; zeros unless it runs."""
    pids = pids_of(one.record.pid) if one.record.pid else []
    spent = memory = 0
    page, ticks = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{pid}/stat", errors="replace") as file:
                facts = file.read().rpartition(")")[2].split()
            spent += (int(facts[11]) + int(facts[12])) * 1_000_000_000 // ticks
            memory += int(facts[21]) * page
    with open("/proc/stat") as file:
        total = sum(map(int, file.readline().split()[1:9])) * 1_000_000_000 // ticks
    return {"spent": spent, "memory": memory, "pids": len(pids), "total": total}


def _stats(one: Supervised, before: dict[str, int], now: dict[str, int]) -> dict[str, Any]:
    def cpu(usage: dict[str, int]) -> dict[str, Any]:
        return {
            "cpu_usage": {"total_usage": usage["spent"], "usage_in_kernelmode": 0, "usage_in_usermode": usage["spent"]},
            "system_cpu_usage": usage["total"],
            "online_cpus": os.cpu_count() or 1,
        }

    moment_now = moment(time.time())
    return {
        "id": one.record.id,
        "name": f"/{one.record.name}",
        "read": moment_now,
        "preread": moment_now,
        "pids_stats": {"current": now["pids"]},
        "blkio_stats": {"io_service_bytes_recursive": None},
        "num_procs": 0,
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "memory_stats": {"usage": now["memory"], "stats": {}, "limit": _memory()},
    }


def _memory() -> int:
    with open("/proc/meminfo") as file:
        return int(file.readline().split()[1]) * 1024
