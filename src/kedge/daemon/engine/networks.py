"""Networks: `docker network`, as far as there are any.

Owns these documents. What a network means for a container is in `containers.request` and `sandbox`.
"""

from typing import Any, Final

from kedge.containers.supervised import Supervised
from kedge.daemon.engine.containers import NEVER
from kedge.daemon.engine.routes import Call
from kedge.model.digest import hex_part, sha256
from kedge.model.errors import NotFound
from kedge.sandbox.network import ADDRESS, GATEWAY

_DRIVERS: Final = {"bridge": "bridge", "host": "host", "none": "null"}


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


def attached(mode: str, one: Supervised, network: str) -> dict[str, Any]:
    """Networks of a container's NetworkSettings: there is one. Of its own it has an address, while it runs."""
    name = "bridge" if mode in ("", "default") else mode
    private = network == "private" and one.running
    return {
        name: {
            "IPAMConfig": None,
            "Links": None,
            "Aliases": None,
            "MacAddress": "",
            "DriverOpts": None,
            "NetworkID": _network(name)["Id"] if name in _DRIVERS else "",
            "EndpointID": one.record.id if one.running else "",
            "Gateway": GATEWAY if private else "",
            "IPAddress": ADDRESS if private else "",
            "IPPrefixLen": 32 if private else 0,
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "DNSNames": None,
        }
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
    raise NotFound(f"network {call['id'][:100]} not found: there are bridge, host and none")


def prune(call: Call) -> None:
    """Both networks stay."""
    call.exchange.json(200, {"NetworksDeleted": None})
