"""What a container may be given beyond a build step: capabilities, sysctls, a network of its own, a resolver, init."""

import os
import signal
from pathlib import Path

import pytest

from kedge.sandbox import network
from kedge.sandbox.network import NameServers
from kedge.sandbox.plan import DEFAULT_CAPABILITIES
from kedge.sandbox.process import Resolver
from kedge.sandbox.seccomp import program

DEFAULT = frozenset(DEFAULT_CAPABILITIES)


def test_capabilities_are_those_asked_for(box):
    look = "grep -E 'CapEff|CapBnd' /proc/self/status"
    none = box.sh(look, capabilities=frozenset())
    assert none.out.split()[1::2] == ["0000000000000000"] * 2
    fewer = box.sh("hostname x; chown 1 /tmp", capabilities=DEFAULT - {"chown"})
    assert fewer.code != 0 or fewer.single_id


def test_an_added_capability_opens_the_calls_it_is_for(box):
    mount = "mkdir -p /m && mount -t tmpfs x /m && touch /m/f && ls /m"
    assert box.sh(mount).code != 0
    assert box.sh(mount, capabilities=DEFAULT | {"sys_admin"}).out == "f\n"
    assert box.sh(mount, capabilities=DEFAULT | {"net_admin"}).code != 0


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_can_be_made_for_every_set_of_capabilities(machine):
    from kedge.sandbox.syscall_numbers import OPENED

    assert len(program(machine, True, frozenset(OPENED))) < len(program(machine, True))


def test_sysctls_of_own_namespaces(box):
    done = box.sh(
        "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start",
        sysctls=(("kernel.msgmax", "9000"), ("net.ipv4.ip_unprivileged_port_start", "80")),
        network="none",
    )
    if done.error and os.geteuid():
        pytest.skip(f"an ordinary user may not here: {done.error}")
    assert done.out.split() == ["9000", "80"]
    assert "cannot set the sysctl kernel.nosuch" in str(box.sh("true", sysctls=(("kernel.nosuch", "1"),)).error)


def test_a_private_network_has_addresses_and_leads_nowhere_by_itself(box):
    done = box.sh(
        "cat /etc/hosts; ifconfig -a | grep -c Link; nc -w 2 10.1.2.3 80 </dev/null; ifconfig lo:0",
        network="private",
        hostname="box",
    )
    assert f"{network.ADDRESS}\tbox\n" in done.out
    assert f"addr:{network.ADDRESS}" in done.out
    assert "unreachable" in done.err or "refused" in done.err


def test_a_resolver_of_its_own(tmp_path: Path):
    own = tmp_path / "resolv.conf"
    own.write_text("# by hand\nnameserver 10.0.0.1\nsearch here.example\noptions edns0\n")
    assert network.resolv_conf(own) == own.read_bytes()
    made = network.resolv_conf(own, Resolver(("9.9.9.9",), ("a.example", "b.example")))
    assert made == b"# by hand\noptions edns0\nnameserver 9.9.9.9\nsearch a.example b.example\n"
    assert network.resolv_conf(own, private=True).endswith(f"\nnameserver {network.GATEWAY}\n".encode())
    assert network.name_servers(Resolver(), own) == NameServers(("10.0.0.1",))
    assert network.name_servers(Resolver(("9.9.9.9",)), own) == NameServers(("9.9.9.9",))
    assert b"search" not in network.resolv_conf(own, Resolver(search=(".",)))


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", NameServers(("127.0.0.1",))),
        ("nameserver example.org\nnameserver\nnameserver ::g\n", NameServers(("127.0.0.1",))),
        ("nameserver fe80::1%eth0\nnameserver 1.1.1.1\nnameserver 1.1.1.1", NameServers(("fe80::1%eth0", "1.1.1.1"))),
        ("".join(f"nameserver 1.1.1.{n}\n" for n in range(9)), NameServers(("1.1.1.0", "1.1.1.1", "1.1.1.2"))),
        ("options timeout:3 ndots:2\noptions attempts:4 rotate", NameServers(timeout=3, attempts=4)),
        ("options timeout:0 attempts:0", NameServers(timeout=1, attempts=1)),
        ("options timeout:99999999999999999 attempts:1000", NameServers(timeout=30, attempts=5)),
        ("options timeout:-1 attempts:x timeout", NameServers()),
    ],
)
def test_name_servers_are_those_of_the_file_and_not_without_bounds(tmp_path: Path, text: str, servers: NameServers):
    own = tmp_path / "resolv.conf"
    own.write_text(text)
    assert network.name_servers(Resolver(), own) == servers


def test_init_is_process_1_waits_for_orphans_and_passes_signals_on(box):
    zombies = "grep -l zombie /proc/[0-9]*/status | wc -l"
    done = box.sh(f"(sh -c 'sleep 0.1 &'); sleep 0.5; {zombies}; tr -d '\\0' < /proc/1/cmdline; exit 7", init=True)
    assert (done.out, done.code) == ("0\nkedge-init", 7)
    assert box.sh("echo $$", init=True).out != "1\n"
    assert box.sh("trap 'exit 3' TERM; sleep 5 & wait", signal=signal.SIGTERM, init=True).code == 3
    assert box.sh("sleep 5", signal=signal.SIGTERM, init=True).code == 143
    assert box.run(("/nosuch",), init=True).code == 127
