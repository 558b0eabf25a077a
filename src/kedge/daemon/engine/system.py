"""The service itself: ping, version, info, events, disk usage, logins.

Owns these documents (Docker Engine API, System). Does not know images or containers beyond counting them.
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from kedge import __version__
from kedge.daemon.engine.containers import has_label
from kedge.daemon.engine.credentials import read_credential
from kedge.daemon.engine.routes import NEWEST, OLDEST, Call
from kedge.daemon.engine.times import read_moment
from kedge.images.stored import all_images
from kedge.model.errors import RegistryError, Unauthorized
from kedge.model.reference import DOCKER_HUB, parse_registry

_NEWEST, _OLDEST = (".".join(map(str, version)) for version in (NEWEST, OLDEST))


def ping(call: Call) -> None:
    fresh = [("Cache-Control", "no-cache, no-store, must-revalidate"), ("Pragma", "no-cache")]
    headers = [("Builder-Version", "2"), ("Swarm", "inactive"), *fresh]
    call.exchange.send(200, b"OK", "text/plain; charset=utf-8", headers)


def version(call: Call) -> None:
    machine = os.uname()
    arch = call.engine.host.architecture
    facts = {
        "ApiVersion": _NEWEST,
        "MinAPIVersion": _OLDEST,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": machine.release,
        "BuildTime": "",
    }
    engine = {"Name": "Engine", "Version": __version__, "Details": facts | {"Experimental": "false"}}
    call.exchange.json(200, {"Platform": {"Name": "Kedge"}, "Components": [engine], "Version": __version__} | facts)


def info(call: Call) -> None:
    engine, machine = call.engine, os.uname()
    containers = engine.supervisor.list()
    states = [engine.supervisor.of(record).state for record in containers]
    with engine.store() as store:
        images = len({record.target.digest for record in store.images.list()})
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) * 1024
    insecure = {
        host: {"Name": host, "Mirrors": list(one.mirrors), "Secure": not one.insecure, "Official": host == DOCKER_HUB}
        for host, one in engine.settings.registries.items()
    }
    call.exchange.json(
        200,
        {
            "ID": _machine_id(),
            "Containers": len(states),
            "ContainersRunning": states.count("running"),
            "ContainersPaused": states.count("paused"),
            "ContainersStopped": len(states) - sum(map(states.count, ("running", "paused", "restarting"))),
            "Images": images,
            "Driver": "overlayfs",
            # Docker's clients take this for "images are kept as registries know them": several platforms, attestations.
            "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "null"],
                "Authorization": None,
                "Log": ["json-file", "local", "none"],
            },
            "MemoryLimit": True,
            "SwapLimit": False,
            "CpuCfsPeriod": True,
            "CpuCfsQuota": True,
            "PidsLimit": True,
            "IPv4Forwarding": True,
            "Debug": False,
            "NFd": len(os.listdir("/proc/self/fd")),
            "NGoroutines": _threads(),
            "SystemTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "1",
            "NEventsListener": 0,
            "KernelVersion": machine.release,
            "OperatingSystem": _system_name(),
            "OSVersion": "",
            "OSType": "linux",
            "Architecture": machine.machine,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {
                "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"],
                "IndexConfigs": insecure,
                "Mirrors": list(engine.settings.registry(DOCKER_HUB).mirrors),
            },
            "NCPU": os.cpu_count() or 1,
            "MemTotal": memory,
            "GenericResources": None,
            "DockerRootDir": str(engine.root),
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": machine.nodename,
            "Labels": [],
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": {"kedge": {"path": "kedge"}},
            "DefaultRuntime": "kedge",
            "Swarm": {"NodeID": "", "LocalNodeState": "inactive", "ControlAvailable": False, "RemoteManagers": None},
            "LiveRestoreEnabled": False,
            "Isolation": "",
            "InitBinary": "kedge-init",
            "SecurityOptions": ["name=seccomp,profile=builtin"] + (["name=rootless"] if not _privileged() else []),
            "Warnings": None,
        },
    )


def events(call: Call) -> None:
    exchange, filters = call.exchange, call.filters
    since, until = read_moment(call.query("since")), read_moment(call.query("until"))
    exchange.begin()
    for event in call.engine.events.listen(
        since, until, lambda: not exchange.stopping.is_set() and not exchange.is_gone()
    ):
        if _passes(event, filters):
            exchange.write(json.dumps(event).encode() + b"\n")
    exchange.end()


def _passes(event: dict[str, Any], filters: dict[str, tuple[str, ...]]) -> bool:
    actor = event["Actor"]
    names = {actor["ID"], actor["Attributes"].get("name", "")}
    checks: dict[str, Callable[[str], bool]] = {
        "type": lambda value: event["Type"] == value,
        "event": lambda value: event["Action"] == value or event["Action"].startswith(f"{value}: "),
        "container": lambda value: event["Type"] == "container" and (value in names or actor["ID"].startswith(value)),
        "image": lambda value: value in (*names, actor["Attributes"].get("image", "")),
        "label": lambda value: has_label(actor["Attributes"], value),
        "volume": lambda value: event["Type"] == "volume" and value in names,
    }
    return all(any(checks[key](value) for value in values) for key, values in filters.items() if key in checks)


def auth(call: Call) -> None:
    fields = call.fields
    server = fields.text("serveraddress")
    registry = DOCKER_HUB if not server or "index.docker.io" in server else parse_registry(_bare(server))
    try:
        with call.engine.registry() as client:
            kept = client.login(registry, read_credential(fields))
    except Unauthorized as error:
        call.exchange.json(401, {"message": error.message})
        return
    except RegistryError as error:
        call.exchange.json(500, {"message": error.message})
        return
    call.exchange.json(200, {"Status": "Login Succeeded", "IdentityToken": kept.identity_token})


def _bare(server: str) -> str:
    return server.partition("://")[2].partition("/")[0] if "://" in server else server.partition("/")[0]


def disk_usage(call: Call) -> None:
    from kedge.daemon.engine.describe import summary
    from kedge.daemon.engine.images import measured
    from kedge.daemon.engine.volumes import usage_of

    engine, types = call.engine, call.queries("type")
    answer: dict[str, Any] = {}
    with engine.store() as store:
        usage = store.usage()
        if not types or "image" in types:
            answer["LayersSize"] = sum(item.size for item in usage if item.shared)
            used = [record.image_id for record in engine.supervisor.list()]
            answer["Images"] = measured(store, list(all_images(store)), used)
        if not types or "container" in types:
            answer["Containers"] = [summary(engine, record, size=True) for record in engine.supervisor.list()]
        if not types or "volume" in types:
            answer["Volumes"] = usage_of(engine.supervisor.volumes)
        if not types or "build-cache" in types:
            cache = [item for item in usage if item.kind in _CACHES and not item.shared]
            answer["BuildCache"] = [_cache_record(item) for item in cache]
            answer["BuilderSize"] = sum(item.size for item in cache)
    call.exchange.json(200, answer)


_CACHES = ("layer", "cache-mount", "source", "blob")


def _cache_record(item: Any) -> dict[str, Any]:
    kinds = {"cache-mount": "exec.cachemount", "source": "source.git.checkout"}
    return {
        "ID": item.id,
        "Parents": [],
        "Type": kinds.get(item.kind, "regular"),
        "Description": item.description,
        "InUse": item.in_use,
        "Shared": item.shared,
        "Size": item.size,
        "CreatedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(item.created)),
        "LastUsedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(item.last_used)),
        "UsageCount": 1,
    }


def _machine_id() -> str:
    try:
        with open("/etc/machine-id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _system_name() -> str:
    try:
        with open("/etc/os-release") as file:
            facts = dict(line.strip().split("=", 1) for line in file if "=" in line)
        return facts.get("PRETTY_NAME", "Linux").strip('"')
    except (OSError, ValueError):
        return "Linux"


def _threads() -> int:
    import threading

    return threading.active_count()


def _privileged() -> bool:
    from kedge.kernel.identity import current

    return current().privileged
