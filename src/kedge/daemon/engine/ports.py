"""A client's words for published ports, and ours for where they are had (Docker Engine API, PortMap).

Owns these documents. How bytes are carried is the business of `kedge.containers.ports`.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any, Final

from kedge.containers.ports import Protocol, Published
from kedge.daemon.engine.fields import Fields
from kedge.model.errors import InvalidInput, Unsupported

_MOST: Final = 1024  # ports of one container
_WILDCARDS: Final = ("", "0.0.0.0", "::")


def read_published(host: Fields, exposed: Iterable[str]) -> tuple[Published, ...]:
    """What HostConfig asks for; `exposed` is what `--publish-all` is about. Raises InvalidInput, Unsupported."""
    found: list[Published] = []
    for text, bindings in host.object("PortBindings").raw.items():
        port, protocol = read_port(text)
        for binding in Fields({"": bindings}, "PortBindings").objects("") or [Fields({})]:
            found.append(_binding(port, protocol, binding))
    if host.flag("PublishAllPorts"):
        known = {(each.port, each.protocol) for each in found}
        found += [Published(*pair) for text in exposed if (pair := read_port(text)) not in known]
    if len(found) > _MOST:
        raise InvalidInput(f"more than {_MOST} ports are published")
    return tuple(dict.fromkeys(found))


def read_port(text: str) -> tuple[int, Protocol]:
    """`80/tcp` or `80`."""
    number, _, protocol = text.partition("/")
    if protocol not in ("", "tcp", "udp"):
        raise Unsupported(f"port {text[:20]}: the protocol is not supported: there are tcp and udp")
    return _number(number, text), "udp" if protocol == "udp" else "tcp"


def _binding(port: int, protocol: Protocol, binding: Fields) -> Published:
    address = binding.text("HostIp")
    if address in _WILDCARDS:
        address = ""
    else:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidInput(f"invalid host address of a port: {address[:60]!r}") from None
    first, _, last = binding.text("HostPort").partition("-")
    number = _number(first, first) if first not in ("", "0") else 0
    return Published(port, protocol, address, number, _number(last, last) if last else 0)


def _number(text: str, shown: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 5 or not 0 < int(text) < 1 << 16:
        raise InvalidInput(f"invalid port: {shown[:20]!r}")
    return int(text)


# ---- documents -------------------------------------------------------------------------------------------------------


def port_map(bound: Sequence[Published], exposed: Iterable[str] = ()) -> dict[str, Any]:
    """NetworkSettings.Ports."""
    made: dict[str, Any] = {text if "/" in text else f"{text}/tcp": None for text in exposed}
    for each in bound:
        key = f"{each.port}/{each.protocol}"
        entry = {"HostIp": each.host or "0.0.0.0", "HostPort": str(each.host_port)}
        made[key] = [*(made.get(key) or ()), entry]
    return made


def port_list(bound: Sequence[Published], exposed: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Ports of one row of `docker ps`."""
    rows: list[dict[str, Any]] = [
        {
            "IP": each.host or "0.0.0.0",
            "PrivatePort": each.port,
            "PublicPort": each.host_port,
            "Type": each.protocol,
        }
        for each in bound
    ]
    known = {(each.port, each.protocol) for each in bound}
    rows += [{"PrivatePort": p, "Type": kind} for p, kind in map(read_port, exposed) if (p, kind) not in known]
    return rows
