"""EXPOSE: ports, ranges and protocols.

Owns the grammar (Docker's nat port specifications, of which only the container's part counts). Does not know variables.
"""

import re
from collections.abc import Iterable

from kedge.model.errors import DockerfileError
from kedge.model.value import dataclass

_PROTOCOLS = ("tcp", "udp", "sctp")
_MOST = 65536 * len(_PROTOCOLS)
_NUMBER = re.compile(r"\+?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class PortWord:
    """One word of EXPOSE: the `port/protocol` texts it means, and what is odd about how it is written."""

    text: str
    ports: tuple[str, ...]
    odd_protocol: bool
    odd_format: bool


def parse_ports(words: Iterable[str]) -> list[PortWord]:
    """Read the words in order; raises DockerfileError."""
    found, count = [], 0
    for word in words:
        found.append(_parse(word))
        count += len(found[-1].ports)
        if count > _MOST:
            raise DockerfileError(f"more than {_MOST} ports, which is all there are", hint="Name each port once.")
    return found


def _parse(word: str) -> PortWord:
    address, host, container = _split(word)
    ports, _, protocol = container.partition("/")
    if not ports:
        raise DockerfileError(f"invalid port {word[:100]!r}: no port is given", fault=word)
    if protocol.lower() not in ("", *_PROTOCOLS):
        hint = f"It is one of {', '.join(_PROTOCOLS)}."
        raise DockerfileError(
            f"invalid port {word[:100]!r}: unknown protocol {protocol[:100]!r}", fault=word, hint=hint
        )
    _check_address(address, word)
    start, end = _range(ports, word)
    if host:
        host_start, host_end = _range(host, word)
        if start != end and end - start != host_end - host_start:
            raise DockerfileError(f"invalid port {word[:100]!r}: the two ranges differ in length", fault=word)
    protocol = protocol or "tcp"
    found = tuple(f"{port}/{protocol.lower()}" for port in range(start, end + 1))
    return PortWord(word, found, protocol != protocol.lower(), bool(address or host))


def _split(word: str) -> tuple[str, str, str]:
    address, host, port = ["", "", *word.rsplit(":", 2)][-3:]
    return address, host, port


def _check_address(address: str, word: str) -> None:
    if not address:
        return
    import ipaddress  # only here: almost no EXPOSE names an address

    try:
        ipaddress.ip_address(address[1:-1] if address.startswith("[") and address.endswith("]") else address)
    except ValueError:
        raise DockerfileError(f"invalid port {word[:100]!r}: {address[:100]!r} is no IP address", fault=word) from None


def _range(text: str, word: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    start = _number(first, word)
    end = _number(last, word) if dash else start
    if end < start:
        raise DockerfileError(f"invalid port {word[:100]!r}: the range ends before it starts", fault=word)
    return start, end


def _number(text: str, word: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > 65535:
        raise DockerfileError(f"invalid port {word[:100]!r}", fault=word, hint="A port is a number from 0 to 65535.")
    return int(text)
