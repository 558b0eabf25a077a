"""Volumes: `docker volume`.

Owns these documents (Docker Engine API, Volume). What a volume is belongs to `kedge.containers`.
"""

from typing import Any

from kedge.containers.volumes import VolumeRecord, Volumes
from kedge.daemon.engine.containers import has_label, passes_prune
from kedge.daemon.engine.describe import moment
from kedge.daemon.engine.fields import read_flag
from kedge.daemon.engine.routes import Call
from kedge.model.errors import Conflict, InvalidInput, NotFound, Unsupported


def document(record: VolumeRecord) -> dict[str, Any]:
    """One volume."""
    return {
        "CreatedAt": moment(record.created)[:19] + "Z",
        "Driver": "local",
        "Labels": dict(record.labels) or None,
        "Mountpoint": str(record.path),
        "Name": record.name,
        "Options": None,
        "Scope": "local",
    }


def usage_of(volumes: Volumes) -> list[dict[str, Any]]:
    """All of them, with their bytes on disk and how many containers use each."""
    from kedge.storage.disk import measure

    used = volumes.users()
    return [
        document(r) | {"UsageData": {"Size": measure(r.path).bytes, "RefCount": len(used.get(r.name, ()))}}
        for r in volumes.list()
    ]


def list_volumes(call: Call) -> None:
    filters = call.filters
    volumes = call.engine.supervisor.volumes
    used = volumes.users() if "dangling" in filters else {}
    found = [record for record in volumes.list() if _passes(record, filters, record.name in used)]
    call.exchange.json(200, {"Volumes": [document(record) for record in found], "Warnings": None})


def _passes(record: VolumeRecord, filters: dict[str, tuple[str, ...]], used: bool) -> bool:
    labels = dict(record.labels)
    return (
        all(read_flag(value) != used for value in filters.get("dangling", ()))
        and all(has_label(labels, value) for value in filters.get("label", ()))
        and ("name" not in filters or any(value in record.name for value in filters["name"]))
        and ("driver" not in filters or "local" in filters["driver"])
    )


def create(call: Call) -> None:
    body = call.fields
    if body.text("Driver") not in ("", "local"):
        raise NotFound(f"error looking up volume plugin {body.text('Driver')[:60]}: there is local only")
    if body.mapping("DriverOpts"):
        raise Unsupported("options of the local volume driver are not supported: a volume is a directory")
    if body.raw.get("ClusterVolumeSpec"):
        raise Unsupported("cluster volumes are not supported")
    volumes = call.engine.supervisor.volumes
    with volumes.locked():
        record = volumes.create(body.text("Name"), tuple(sorted(body.mapping("Labels").items())))
    call.engine.events.tell("volume", "create", record.name, {"driver": "local"})
    call.exchange.json(201, document(record))


def inspect(call: Call) -> None:
    call.exchange.json(200, document(call.engine.supervisor.volumes.get(call["id"])))


def remove(call: Call) -> None:
    try:
        call.engine.supervisor.volumes.remove(call["id"])
    except NotFound:
        if not call.flag("force"):
            raise
    else:
        call.engine.events.tell("volume", "destroy", call["id"], {"driver": "local"})
    call.exchange.send(204)


def prune(call: Call) -> None:
    """Those that nobody uses: anonymous ones only, unless all are asked for, or the client is older than that rule."""
    filters, volumes = call.filters, call.engine.supervisor.volumes
    if "until" in filters:
        raise InvalidInput('The "until" filter is not supported for volumes')
    everything = call.version < (1, 42) or any(map(read_flag, filters.get("all", ())))
    gone, freed, used = [], 0, volumes.users()
    for record in volumes.list():
        if record.name in used or not (everything or record.anonymous):
            continue
        if not passes_prune(dict(record.labels), record.created, filters):
            continue
        try:
            freed += volumes.remove(record.name)
        except (Conflict, NotFound):
            continue
        gone.append(record.name)
        call.engine.events.tell("volume", "destroy", record.name, {"driver": "local"})
    call.exchange.json(200, {"VolumesDeleted": gone or None, "SpaceReclaimed": freed})
