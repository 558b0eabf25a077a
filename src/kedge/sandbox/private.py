"""A network of a container's own, from inside: its addresses, and a way out that needs no device and no privilege
outside.

Owns what is set up in a fresh network namespace. Every IPv4 address outside is routed to loopback, where a rule
(nf_tables, redirect) turns TCP connections to one socket of ours and name look-ups to another. Both are handed to the
service, which carries what comes to where it was meant for (`containers.ports`). Other UDP, ICMP and IPv6 find no way.

Runs in the zygote's child, so it imports nothing slow. Sources: netdevice(7), rtentry of linux/route.h,
linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

_SIOCADDRT, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x890B, 0x8914, 0x8916, 0x891C
_UP_AND_RUNNING = 0x41
_NETLINK_NETFILTER = 12
_BEGIN, _END, _TABLES = 0x10, 0x11, 10 << 8
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = _TABLES, _TABLES | 3, _TABLES | 6
_REQUEST, _ACKNOWLEDGE, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_INET, _TCP, _UDP, _DNS = 2, 6, 17, 53
_OUTPUT, _BEFORE_FILTERS = 3, -100
_EQUAL, _OTHER = 0, 1
_NETWORK, _TRANSPORT = 1, 2
_PROTOCOL_KEY = 16  # NFT_META_L4PROTO
_DESTINATION, _PORT = 16, 2  # offsets in the IPv4, TCP and UDP headers
_NAME, _CHAIN = b"kedge\0", b"out\0"


def raise_loopback(addresses: list[str]) -> None:
    """Let the loopback device work, with more addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))
        for number, address in enumerate(addresses):
            for command, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.255")):
                request = struct.pack("16sHH4s8x", b"lo:%d" % number, socket.AF_INET, 0, socket.inet_aton(value))
                fcntl.ioctl(control, command, request)


def open_way_out(own: str, gateway: str) -> tuple[socket.socket, socket.socket]:
    """The listening socket that TCP leads to, and the one for name look-ups. Raises OSError where the kernel has no
    nf_tables.
    """
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(512)
        udp.bind(("127.0.0.1", 0))
        _add_default_route()
        _add_rules(tcp.getsockname()[1], udp.getsockname()[1], own, gateway)
    except BaseException:
        tcp.close()
        udp.close()
        raise
    return tcp, udp


def _add_default_route() -> None:
    name = ctypes.create_string_buffer(b"lo")
    anywhere = struct.pack("=HH4s8x", socket.AF_INET, 0, bytes(4))
    rest = struct.pack("=HhIQQhxxxxxxQQQHxxxxxx", 1, 0, 0, 0, 0, 0, ctypes.addressof(name), 0, 0, 0)  # RTF_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCADDRT, bytes(8) + 3 * anywhere + rest)


# ---- rules -----------------------------------------------------------------------------------------------------------


def _add_rules(tcp: int, udp: int, own: str, gateway: str) -> None:
    """Everything but loopback and our own address goes to the sockets; name look-ups also when they are for the
    gateway.
    """
    loopback = [_load(_NETWORK, _DESTINATION, 1), _compare(_OTHER, b"\x7f")]
    outside = [*loopback, *_unlike(own), *_unlike(gateway)]
    at_gateway = [_load(_NETWORK, _DESTINATION, 4), _compare(_EQUAL, socket.inet_aton(gateway))]
    dns = [_load(_TRANSPORT, _PORT, 2), _compare(_EQUAL, struct.pack(">H", _DNS))]
    rules = [
        [*outside, *_protocol(_TCP), *_redirect(tcp)],
        [*outside, *_protocol(_UDP), *dns, *_redirect(udp)],
        [*at_gateway, *_protocol(_TCP), *dns, *_redirect(tcp)],
        [*at_gateway, *_protocol(_UDP), *dns, *_redirect(udp)],
    ]
    table, chain = _attribute(1, _NAME), _attribute(1, _NAME) + _attribute(3, _CHAIN)
    hook = _nested(4, _attribute(1, _number(_OUTPUT)), _attribute(2, _number(_BEFORE_FILTERS)))
    bodies = [(_NEW_TABLE, 0, table), (_NEW_CHAIN, 0, chain + hook + _attribute(7, b"nat\0"))]
    for rule in rules:
        bodies.append((_NEW_RULE, _APPEND, _attribute(1, _NAME) + _attribute(2, _CHAIN) + _nested(4, *rule)))
    _send(bodies)


def _send(bodies: list[tuple[int, int, bytes]]) -> None:
    """One transaction. Raises OSError when any part is refused."""
    messages = [_message(_BEGIN, _REQUEST, 0, 0, 10)]
    for number, (kind, flags, body) in enumerate(bodies, 1):
        messages.append(_message(kind, _REQUEST | _ACKNOWLEDGE | _CREATE | flags, number, _INET, 0, body))
    messages.append(_message(_END, _REQUEST, len(bodies) + 1, 0, 10))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        link.bind((0, 0))
        link.settimeout(5)
        link.sendto(b"".join(messages), (0, 0))
        heard = 0
        while heard < len(bodies):
            data = link.recv(1 << 16)
            while len(data) >= 20:
                length, _, _, _, _, code = struct.unpack_from("=IHHIIi", data)
                if code:
                    raise OSError(-code, os.strerror(-code))
                heard += 1
                data = data[(length + 3) & ~3 :]


def _message(kind: int, flags: int, number: int, family: int, resource: int, body: bytes = b"") -> bytes:
    whole = struct.pack("=BBH", family, 0, socket.htons(resource)) + body
    return struct.pack("=IHHII", len(whole) + 16, kind, flags, number, 0) + whole


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", len(data) + 4, kind) + data + bytes(-len(data) % 4)


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | 0x8000, b"".join(parts))


def _number(value: int) -> bytes:
    return struct.pack(">i", value)


def _expression(name: bytes, *parts: bytes) -> bytes:
    return _nested(1, _attribute(1, name + b"\0"), _nested(2, *parts))


def _load(base: int, offset: int, length: int) -> bytes:
    """A part of a packet's header, into register 1."""
    fields = enumerate((1, base, offset, length), 1)
    return _expression(b"payload", *(_attribute(kind, _number(value)) for kind, value in fields))


def _compare(how: int, data: bytes) -> bytes:
    """Go on if register 1 compares so."""
    value = _nested(3, _attribute(1, data))
    return _expression(b"cmp", _attribute(1, _number(1)), _attribute(2, _number(how)), value)


def _protocol(number: int) -> list[bytes]:
    meta = _expression(b"meta", _attribute(1, _number(1)), _attribute(2, _number(_PROTOCOL_KEY)))
    return [meta, _compare(_EQUAL, bytes([number]))]


def _unlike(address: str) -> list[bytes]:
    return [_load(_NETWORK, _DESTINATION, 4), _compare(_OTHER, socket.inet_aton(address))]


def _redirect(port: int) -> list[bytes]:
    value = _nested(2, _attribute(1, struct.pack(">H", port)))
    return [
        _expression(b"immediate", _attribute(1, _number(1)), value),
        _expression(b"redir", _attribute(1, _number(1))),
    ]
