"""What a step sees of names and addresses: the contents of /etc/hosts and /etc/resolv.conf.

Owns these two texts. Does not mount them. Network "sandbox" and "host" share the machine's network (docs/security.md).
"""

from pathlib import Path

from kedge.model.ops import Pairs

_RESOLV_CONF = Path("/etc/resolv.conf")


def hosts(hostname: str, extra: Pairs) -> bytes:
    """/etc/hosts: loopback names, our own, and the (name, address) pairs of --add-host in order: hosts(5)."""
    lines = [f"127.0.0.1\tlocalhost {hostname}", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{address}\t{name}" for name, address in extra]
    return ("\n".join(lines) + "\n").encode()


def resolv_conf(path: Path = _RESOLV_CONF) -> bytes:
    """The machine's own /etc/resolv.conf; empty (resolvers then try 127.0.0.1) where it has none."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
