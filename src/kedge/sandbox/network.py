"""What a step sees of names and addresses: the contents of /etc/hosts and /etc/resolv.conf.

Owns these two texts, and the addresses in a network of a container's own. Does not mount or set them. Network "sandbox"
and "host" share the machine's network (docs/security.md).
"""

import threading
from functools import cache
from pathlib import Path
from typing import Final

from kedge.model.ops import Pairs
from kedge.model.value import dataclass, replace
from kedge.sandbox.process import Resolver

# Of a private network. Whoever comes from outside seems to come from the gateway, never from 127.0.0.1: that is whom
# many programs trust without a password.
ADDRESS: Final = "172.17.0.2"
GATEWAY: Final = "172.17.0.1"
LOOPBACK_SERVER: Final = "127.0.0.1"  # whom resolvers ask where no file says another: resolv.conf(5)
_RESOLV_CONF = Path("/etc/resolv.conf")
_MOST_SERVERS, _LONGEST_TIMEOUT, _MOST_ATTEMPTS = 3, 30, 5  # MAXNS, RES_MAXRETRANS, RES_MAXRETRY of <resolv.h>


def hosts(hostname: str, extra: Pairs, private: bool = False) -> bytes:
    """/etc/hosts: loopback names, our own, and the (name, address) pairs of --add-host in order: hosts(5)."""
    lines = ["127.0.0.1\tlocalhost" if private else f"127.0.0.1\tlocalhost {hostname}"]
    lines += ["::1\tlocalhost ip6-localhost ip6-loopback"] + ([f"{ADDRESS}\t{hostname}"] if private else [])
    lines += [f"{address}\t{name}" for name, address in extra]
    return ("\n".join(lines) + "\n").encode()


def resolv_conf(path: Path = _RESOLV_CONF, resolver: Resolver | None = None, private: bool = False) -> bytes:
    """The machine's own /etc/resolv.conf; empty (resolvers then try 127.0.0.1) where it has none.

    In a private network, where the machine's own servers may be out of reach, the gateway stands for them.

    What `resolver` says takes the place of the machine's lines of that kind. A search domain "." means none.
    """
    try:
        own = path.read_bytes()
    except OSError:
        own = b""
    resolver = resolver or Resolver()
    if private and not resolver.servers:
        resolver = replace(resolver, servers=(GATEWAY,))
    if resolver == Resolver():
        return own
    wanted = {"nameserver": resolver.servers, "search": resolver.search, "options": resolver.options}
    replaced = {key.encode() for key, values in wanted.items() if values} | ({b"domain"} if resolver.search else set())
    lines = [line for line in own.splitlines() if line.split()[:1] and line.split()[0] not in replaced]
    lines += [f"nameserver {server}".encode() for server in resolver.servers]
    lines += [
        f"{key} {' '.join(wanted[key])}".encode() for key in ("search", "options") if wanted[key] not in ((), (".",))
    ]
    return b"\n".join(lines) + b"\n"


@dataclass(frozen=True, slots=True)
class NameServers:
    """Whom to ask for names, and how: `timeout` seconds for each answer, all servers `attempts` times."""

    addresses: tuple[str, ...] = (LOOPBACK_SERVER,)
    timeout: float = 5.0
    attempts: int = 2


def name_servers(resolver: Resolver, path: Path = _RESOLV_CONF) -> NameServers:
    """Whom a private network's look-ups are passed on to, as the machine reaches them: resolv.conf(5), with the bounds
    that glibc has.
    """
    text = resolv_conf(path, resolver).decode(errors="replace")
    lines = [words for line in text.splitlines() if len(words := line.split()) > 1]
    servers = tuple(dict.fromkeys(w[1] for w in lines if w[0] == "nameserver" and _is_address(w[1])))
    options = [word.partition(":") for words in lines if words[0] == "options" for word in words[1:]]
    numbers = {name: int(value[:4]) for name, _, value in options if value.isascii() and value.isdecimal()}
    return NameServers(
        servers[:_MOST_SERVERS] or (LOOPBACK_SERVER,),
        max(1, min(numbers.get("timeout", 5), _LONGEST_TIMEOUT)),
        max(1, min(numbers.get("attempts", 2), _MOST_ATTEMPTS)),
    )


def _is_address(text: str) -> bool:
    """Is it one, and no name that had to be looked up itself?"""
    import socket

    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return bool(socket.inet_pton(family, text.partition("%")[0]))
    except OSError:
        return False


def machine_address() -> str:
    """This machine as a private network reaches it: the address it has for others, 127.0.0.1 if it has none."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of the documentation's range; nothing is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


@cache
def has_way_out() -> bool:
    """Can a private network be given a way out here? Tried in a network namespace that only one thread of ours sees."""
    found: list[bool] = []

    def attempt() -> None:
        from kedge.kernel import syscalls
        from kedge.sandbox.private import open_way_out, raise_loopback

        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            raise_loopback([ADDRESS, GATEWAY])
            for each in open_way_out(ADDRESS, GATEWAY):
                each.close()
            found.append(True)
        except OSError:
            return

    thread = threading.Thread(target=attempt, name="network")
    thread.start()
    thread.join()
    return bool(found)
