"""Networks and volumes: what there is, which is little.

Owns the two networks that Kedge has. A container has the machine's network or none; there are no volumes.
"""

from typing import Any, Final

from kedge.daemon.engine.containers import NEVER
from kedge.daemon.engine.routes import Call
from kedge.model.digest import hex_part, sha256
from kedge.model.errors import NotFound

_DRIVERS: Final = {"host": "host", "none": "null"}


def _network(name: str) -> dict[str, Any]:
    return {
        "Name": name,
        "Id": hex_part(sha256(f"kedge network {name}".encode())),
        "Created": NEVER,
        "Scope": "local",
        "Driver": _DRIVERS[name],
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": name == "none",
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
    }


def list_networks(call: Call) -> None:
    filters = call.filters
    found = [_network(name) for name in _DRIVERS]
    for key, field in (("name", "Name"), ("id", "Id"), ("driver", "Driver")):
        if key in filters:
            found = [each for each in found if any(str(each[field]).startswith(value) for value in filters[key])]
    call.exchange.json(200, found)


def inspect_network(call: Call) -> None:
    for name in _DRIVERS:
        network = _network(name)
        if call["id"] == name or (len(call["id"]) >= 12 and network["Id"].startswith(call["id"])):
            call.exchange.json(200, network)
            return
    raise NotFound(f"network {call['id'][:100]} not found: there are host and none")


def list_volumes(call: Call) -> None:
    call.exchange.json(200, {"Volumes": [], "Warnings": None})


def inspect_volume(call: Call) -> None:
    raise NotFound(f"get {call['id'][:100]}: no such volume")


def nothing_pruned(field: str) -> Any:
    """A handler for a prune that finds nothing."""

    def handler(call: Call) -> None:
        call.exchange.json(200, {field: None, "SpaceReclaimed": 0})

    return handler
