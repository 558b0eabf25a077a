"""What the service does for containers beside running them: policies, health, pauses, limits, logs, rights, ports."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kedge.sandbox.network import has_way_out, machine_address
from tests.daemon.engine.conftest import Docker, running

FOREVER = ("sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")


def until(true: Callable[[], object], what: str = "it never came true") -> None:
    """Wait for it, as long as a busy machine may need."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def up(docker: Docker) -> Iterator[str]:
    """A container that runs until it is told to end."""
    id = docker("run", "-d", "busybox", *FOREVER).strip()
    until(lambda: docker("logs", id) == "up\n")
    yield id
    docker.run("rm", "-f", id)


def inspect(docker: Docker, name: str, what: str) -> str:
    return docker("inspect", "-f", f"{{{{{what}}}}}", name).strip()


def limited(docker: Docker, *words: str) -> str:
    """The id of a new container with a memory limit."""
    done = docker.run("create", "-m", "8m", "busybox", *words)
    if "Limits are discarded" in done.stderr:
        pytest.skip(done.stderr)
    return done.stdout.strip()


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_too_little_memory_is_refused_in_dockers_words(docker: Docker, up: str) -> None:
    for words in (("create", "-m", "6291455", "busybox"), ("update", "-m", "6m", "--memory-swap", "-1", up)):
        done = docker.run(*words)
        assert ("Minimum memory limit allowed is 6MB" in done.stderr) == (words[0] == "create"), done.stderr
    assert "Minimum memory limit allowed is 6MB" in docker.run("update", "-m", "5m", up).stderr


def test_inspect_tells_of_an_end_for_want_of_memory(docker: Docker) -> None:
    id = limited(docker, "tail", "-c", "100000000", "/dev/zero")
    docker.run("start", "-a", id)
    assert inspect(docker, id, ".State.OOMKilled") == "true"
    assert inspect(docker, id, ".State.ExitCode") == "137"
    until = ("--until", str(int(time.time()) + 1))  # the client says whole seconds
    told = docker("events", "--since", "10m", *until, "--filter", f"container={id}", "--format", "{{.Action}}")
    assert told.split()[-2:] == ["oom", "die"]
    docker("rm", id)


def test_a_limit_that_came_later_is_told_of_too(docker: Docker) -> None:
    id = docker("run", "-d", "-i", "busybox", "sh", "-c", "read x; exec tail -c 100000000 /dev/zero").strip()
    done = docker.run("update", "-m", "8m", "--memory-swap", "-1", id)
    if "Cannot update" in done.stderr:
        docker("rm", "-f", id)
        pytest.skip(done.stderr)
    docker.run("attach", id, stdin=b"go\n")
    until(lambda: inspect(docker, id, ".State.OOMKilled") == "true")
    docker("rm", id)


def test_inspect_tells_of_no_such_end_where_there_was_none(docker: Docker) -> None:
    id = limited(docker, "sh", "-c", "kill -9 $$")
    docker.run("start", "-a", id)
    assert inspect(docker, id, ".State.OOMKilled") == "false"
    docker("rm", id)


# ---- policies --------------------------------------------------------------------------------------------------------


def test_on_failure_starts_again_as_often_as_asked(docker: Docker) -> None:
    docker("run", "-d", "--name", "fails", "--restart", "on-failure:2", "busybox", "sh", "-c", "echo run; exit 3")
    assert docker("wait", "fails").strip() == "3"
    assert docker("logs", "fails") == "run\n" * 3
    assert inspect(docker, "fails", ".RestartCount") == "2"
    assert inspect(docker, "fails", ".State.Status") == "exited"
    docker("rm", "fails")
    docker("run", "-d", "--name", "succeeds", "--restart", "on-failure", "busybox", "true")
    assert docker("wait", "succeeds").strip() == "0"
    assert inspect(docker, "succeeds", ".RestartCount") == "0"
    docker("rm", "succeeds")


def test_always_is_until_somebody_stops_it(docker: Docker) -> None:
    docker("run", "-d", "--name", "again", "--restart", "always", "busybox", "sh", "-c", "echo run")
    until(lambda: docker("logs", "again").count("run") > 1)
    docker("stop", "again")
    assert inspect(docker, "again", ".State.Status") == "exited"
    before = docker("logs", "again")
    time.sleep(0.5)
    assert docker("logs", "again") == before
    docker("rm", "again")


def test_a_policy_holds_over_the_services_end(mirror: Path, tmp_path: Path, docker: Docker) -> None:
    with running(tmp_path, mirror) as own:
        own.kedge("pull", "-q", "busybox")
        first = Docker(own, docker.config)
        for name, policy in (("a", "always"), ("u", "unless-stopped"), ("s", "unless-stopped"), ("n", "no")):
            first("run", "-d", "--name", name, "--restart", policy, "busybox", *FOREVER)
        first("stop", "s")
    with running(tmp_path, mirror) as own:
        again = Docker(own, docker.config)
        until(lambda: set(again("ps", "--format", "{{.Names}}").split()) >= {"a", "u"})
        assert "Exited" in again("ps", "-a", "--filter", "name=s", "--format", "{{.Status}}")
        assert "Exited" in again("ps", "-a", "--filter", "name=n", "--format", "{{.Status}}")


# ---- health ----------------------------------------------------------------------------------------------------------


def test_health_checks_are_run_and_told(docker: Docker) -> None:
    words = ["--health-cmd", "echo looked; test -e /ok", "--health-interval", "50ms", "--health-retries", "2"]
    docker("run", "-d", "--name", "ill", *words, "busybox", *FOREVER)
    until(lambda: "(unhealthy)" in docker("ps", "--filter", "name=ill"))
    assert docker("ps", "-q", "--filter", "health=unhealthy", "--filter", "name=ill")
    docker("exec", "ill", "touch", "/ok")
    until(lambda: "(healthy)" in docker("ps", "--filter", "name=ill"))
    health = json.loads(inspect(docker, "ill", "json .State.Health"))
    assert (health["Status"], health["FailingStreak"]) == ("healthy", 0)
    assert {entry["Output"] for entry in health["Log"]} == {"looked\n"}
    time.sleep(1.1)  # "until now" is a whole second
    told = docker("events", "--since", "10m", "--until", "0s", "--filter", "container=ill", "--format", "{{.Action}}")
    assert [line for line in told.splitlines() if line.startswith("health")] == [
        "health_status: unhealthy",
        "health_status: healthy",
    ]
    docker("rm", "-f", "ill")


def test_events_have_labels_and_kinds(docker: Docker) -> None:
    id = docker("create", "--label", "of=events", "--health-cmd", "true", "--health-interval", "50ms", "busybox",
                *FOREVER).strip()  # fmt: skip
    docker("start", id)
    until(lambda: inspect(docker, id, ".State.Health.Status") == "healthy")
    docker("pause", id)

    def is_left_alone() -> bool:
        probes = inspect(docker, id, "json .State.Health.Log")
        time.sleep(0.3)
        return inspect(docker, id, "json .State.Health.Log") == probes

    until(is_left_alone)  # nothing is asked of what cannot answer; one probe may have been under way
    docker("rm", "-f", id)
    time.sleep(1.1)  # "until now" is a whole second

    def events(*filters: str) -> list[str]:
        words = [word for each in filters for word in ("--filter", each)]
        return docker("events", "--since", "10m", "--until", "0s", *words, "--format", "{{.Action}}").splitlines()

    assert events("label=of=events", "event=pause", "event=destroy", "event=unpause") == ["pause", "unpause", "destroy"]
    assert events("label=of=other") == []
    assert events(f"container={id}", "event=health_status") == ["health_status: healthy"]


def test_the_images_own_check_and_one_that_takes_too_long(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nHEALTHCHECK --interval=50ms --timeout=300ms --retries=1 CMD sleep 77\n"
    )
    docker("build", "-q", "-t", "slow-check", tmp_path)
    docker("run", "-d", "--name", "slow", "slow-check", *FOREVER)
    until(lambda: "(unhealthy)" in docker("ps", "--filter", "name=slow"))
    assert "exceeded timeout" in inspect(docker, "slow", "json .State.Health")
    docker("rm", "-f", "slow")
    docker("run", "-d", "--name", "none", "--no-healthcheck", "slow-check", *FOREVER)
    assert "health" not in docker("ps", "--filter", "name=none", "--format", "{{.Status}}")
    docker("rm", "-f", "none")


# ---- held still, and changed -----------------------------------------------------------------------------------------


def test_a_paused_container_does_nothing(docker: Docker) -> None:
    docker("run", "-d", "--name", "still", "busybox", "sh", "-c", "while :; do echo x; sleep 0.02; done")
    until(lambda: docker("logs", "still"))
    docker("pause", "still")
    assert "(Paused)" in docker("ps", "--filter", "name=still", "--filter", "status=paused")
    assert "already paused" in docker.run("pause", "still").stderr
    assert "is paused" in docker.run("exec", "still", "true").stderr
    before = docker("logs", "still")
    time.sleep(0.3)
    assert docker("logs", "still") == before
    docker("unpause", "still")
    until(lambda: docker("logs", "still") != before)
    assert "not paused" in docker.run("unpause", "still").stderr
    docker("pause", "still")
    docker("stop", "-t", "1", "still")
    assert inspect(docker, "still", ".State.Status") == "exited"
    docker("rm", "still")


def test_a_container_that_ends_while_it_is_committed_is_committed(docker: Docker) -> None:
    fill = "head -c 300000000 /dev/zero > /large; echo up; exec sleep 1000"
    docker("run", "-d", "--name", "ending", "busybox", "sh", "-c", fill)
    until(lambda: docker("logs", "ending"))
    words = ["docker", "commit", "ending", "ended"]
    with subprocess.Popen(words, env=docker.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as commit:
        until(lambda: commit.poll() is not None or inspect(docker, "ending", ".State.Paused") == "true")
        docker.run("kill", "ending")
        _, said = commit.communicate(timeout=60)
        assert commit.returncode == 0, said
    docker("rm", "-f", "ending")
    docker("rmi", "ended")


def test_a_service_that_is_killed_leaves_no_paused_container(mirror: Path, tmp_path: Path, docker: Docker) -> None:
    with running(tmp_path, mirror) as own:
        own.kedge("pull", "-q", "busybox")
        first = Docker(own, docker.config)
        first("run", "-d", "--name", "p", "busybox", "sleep", "1000")
        pid = int(inspect(first, "p", ".State.Pid"))
        first("pause", "p")
        own.process.send_signal(signal.SIGKILL)
        own.process.wait(60)
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        own.process.returncode = 0  # as we wanted it


def test_limits_and_policies_can_be_changed(docker: Docker, up: str) -> None:
    docker("update", "--restart", "on-failure:5", up)
    assert inspect(docker, up, ".HostConfig.RestartPolicy") == "{on-failure 5}"
    done = docker.run("update", "--pids-limit", "7", up)
    if "Cannot update" in done.stderr:
        pytest.skip("no cgroups can be made here")
    assert inspect(docker, up, ".HostConfig.PidsLimit") == "7"
    crowd = docker.run("exec", up, "sh", "-c", "for n in 1 2 3 4 5 6 7 8; do sleep 3 & done; wait")
    assert "can't fork" in crowd.stderr
    docker("stop", up)
    docker("start", up)
    crowd = docker.run("exec", up, "sh", "-c", "for n in 1 2 3 4 5 6 7 8; do sleep 3 & done; wait")
    assert "can't fork" in crowd.stderr
    assert "not supported" in docker.run("update", "--cpuset-cpus", "0", up).stderr


# ---- logs ------------------------------------------------------------------------------------------------------------


def test_logs_are_kept_as_far_as_asked(docker: Docker) -> None:
    words = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"]
    id = docker("run", "-d", *words, "busybox", "sh", "-c", "seq 1 20000").strip()
    docker("wait", id)
    lines = docker("logs", id).split()
    assert lines == [str(n) for n in range(20001 - len(lines), 20001)]
    assert 500 < len(lines) < 10000
    assert docker("logs", "--tail", "2", id) == "19999\n20000\n"
    docker("rm", id)
    id = docker("run", "-d", "--log-driver", "none", "busybox", "echo", "unheard").strip()
    docker("wait", id)
    assert docker.run("logs", id).stdout == ""
    docker("rm", id)


def test_following_goes_on_over_a_new_file(docker: Docker) -> None:
    words = ["--log-opt", "max-size=4k", "--log-opt", "max-file=50"]
    script = "for n in 1 2 3 4 5 6 7 8; do seq 1 100; sleep 0.1; done"
    id = docker("run", "-d", *words, "busybox", "sh", "-c", script).strip()
    assert docker("logs", "-f", id).split() == [str(n) for n in range(1, 101)] * 8
    docker("rm", id)


# ---- rights ----------------------------------------------------------------------------------------------------------


def test_init_passes_on_and_waits(docker: Docker) -> None:
    assert docker("run", "--rm", "--init", "busybox", "cat", "/proc/1/comm") == "kedge-init\n"
    assert docker.run("run", "--rm", "--init", "busybox", "sh", "-c", "exit 9").returncode == 9
    id = docker("run", "-d", "--init", "busybox", "sleep", "1000").strip()
    docker("stop", id)
    assert inspect(docker, id, ".State.ExitCode") == "143"
    docker("rm", id)


def test_capabilities_devices_and_groups(docker: Docker) -> None:
    look = ("grep", "CapBnd", "/proc/self/status")
    assert docker("run", "--rm", "--cap-drop", "all", "busybox", *look).split()[1] == "0" * 16
    some = docker("run", "--rm", "--cap-drop", "all", "--cap-add", "CHOWN", "busybox", *look)
    assert some.split()[1] == "0" * 15 + "1"
    mounted = docker.run("run", "--rm", "--cap-add", "SYS_ADMIN", "busybox", "mount", "-t", "tmpfs", "x", "/tmp")
    assert mounted.returncode == 0, mounted.stderr
    assert docker("run", "--rm", "--group-add", "77", "busybox", "id", "-G").split()[-1] == "77"
    assert "nosuch" in docker.run("run", "--rm", "--group-add", "nosuch", "busybox", "true").stderr
    assert "rw-" in docker("run", "--rm", "--device", "/dev/zero:/dev/mine", "busybox", "ls", "-l", "/dev/mine")
    missing = docker.run("run", "--rm", "--device", "/dev/nosuch", "busybox", "true")
    assert "/dev/nosuch" in missing.stderr


def test_all_rights_need_the_services_word(mirror: Path, tmp_path: Path, docker: Docker) -> None:
    refused = docker.run("run", "--rm", "--privileged", "busybox", "true")
    assert "--allow security.insecure" in refused.stderr
    with running(tmp_path, mirror, "--allow", "security.insecure") as own:
        own.kedge("pull", "-q", "busybox")
        free = Docker(own, docker.config)
        free("run", "--rm", "--privileged", "busybox", "mount", "-t", "tmpfs", "x", "/tmp")


def test_names_resolver_and_sysctls(docker: Docker) -> None:
    words = ["--hostname", "hh", "--dns", "9.9.9.9", "--dns-search", "a.example", "--dns-option", "ndots:2"]
    out = docker("run", "--rm", *words, "busybox", "sh", "-c", "hostname; cat /etc/resolv.conf")
    assert out.startswith("hh\n")
    assert "nameserver 9.9.9.9\n" in out
    assert "search a.example\n" in out
    assert "options ndots:2\n" in out
    sysctl = ["--sysctl", "kernel.shm_rmid_forced=1"]
    assert docker("run", "--rm", *sysctl, "busybox", "cat", "/proc/sys/kernel/shm_rmid_forced") == "1\n"
    bad = docker.run("run", "--rm", "--dns-search", "a b", "busybox", "true")
    assert bad.returncode == 125


# ---- ports -----------------------------------------------------------------------------------------------------------

SERVE = "mkdir /w; echo from-$HOSTNAME > /w/index.html; echo up; exec httpd -f -v -p 80 -h /w"


def fetch(address: str, port: int) -> bytes:
    """What is answered there, once the server is up."""
    got: list[bytes] = []

    def answered() -> bool:
        with suppress(OSError), socket.create_connection((address, port), 60) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            got.append(connection.makefile("rb").read())
        return any(got)

    until(answered)
    return b"".join(got)


def port_of(docker: Docker, name: str, port: str) -> int:
    return int(docker("port", name, port).splitlines()[0].rpartition(":")[2])


def test_published_ports_lead_into_the_container(docker: Docker) -> None:
    for name in ("one", "two"):
        docker("run", "-d", "--name", name, "--hostname", name, "-p", "127.0.0.1::80", "busybox", "sh", "-c", SERVE)
        until(lambda name=name: docker("logs", name))
    for name in ("one", "two"):
        port = port_of(docker, name, "80")
        assert f"from-{name}\n".encode() in fetch("127.0.0.1", port)
        assert f"127.0.0.1:{port}->80/tcp" in docker("ps", "--filter", f"name={name}")
        assert "172.17.0.1]" in docker.run("logs", name).stderr  # nobody outside is taken for 127.0.0.1
    taken = docker.run("run", "-d", "--name", "three", "-p", f"127.0.0.1:{port}:81", "busybox", "true")
    assert "port is already allocated" in taken.stderr
    docker("stop", "-t", "0", "two")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 60)
    assert docker("ps", "-a", "--filter", "name=two", "--format", "{{.Ports}}") == "\n"
    docker("start", "three")
    docker("wait", "three")
    docker("rm", "-f", "one", "two", "three")


def test_all_exposed_ports_can_be_published(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f'FROM busybox\nEXPOSE 80 53/udp\nCMD ["sh", "-c", "{SERVE}"]\n')
    docker("build", "-q", "-t", "exposes", tmp_path)
    docker("run", "-d", "--name", "shown", "-P", "exposes")
    until(lambda: docker("logs", "shown"))
    assert b"from-" in fetch("127.0.0.1", port_of(docker, "shown", "80/tcp"))
    assert re.search(r"^53/udp -> 0\.0\.0\.0:\d+$", docker("port", "shown"), re.M)
    assert docker("ps", "-q", "--filter", "expose=53/udp", "--filter", "name=shown")
    assert docker("ps", "-q", "--filter", "publish=80", "--filter", "name=shown") == ""  # not by that number
    docker("rm", "-f", "shown")


def test_much_goes_both_ways_and_halves_are_closed_apart(docker: Docker) -> None:
    docker("run", "-d", "--name", "echoes", "-p", "127.0.0.1::9", "busybox", "nc", "-ll", "-p", "9", "-e", "cat")
    until(lambda: ":0009 " in docker("exec", "echoes", "cat", "/proc/net/tcp", "/proc/net/tcp6"))
    data = os.urandom(3 << 20)
    with socket.create_connection(("127.0.0.1", port_of(docker, "echoes", "9")), 60) as connection:
        writer = threading.Thread(target=lambda: (connection.sendall(data), connection.shutdown(socket.SHUT_WR)))
        writer.start()
        out = connection.makefile("rb").read()
        writer.join()
    assert out == data
    docker("rm", "-f", "echoes")


def test_a_container_with_ports_of_its_own_reaches_others(docker: Docker) -> None:
    if machine_address() == "127.0.0.1":
        pytest.skip("this machine has no address but loopback")
    warned = "no way out" in docker.run("run", "--rm", "-p", "127.0.0.1::80", "busybox", "true").stderr
    if os.geteuid() == 0:  # who is nobody outside of a namespace cannot try it here
        assert warned == (not has_way_out())
    if warned:
        pytest.skip("this kernel has no nf_tables")
    with socket.create_server((machine_address(), 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            with server.accept()[0] as client:
                client.sendall(b"here " + client.recv(100))

        thread = threading.Thread(target=serve)
        thread.start()
        ask = f"address=$(awk '/machine/ {{print $1}}' /etc/hosts); echo you | nc $address {port}"
        words = ["--add-host", "machine:host-gateway", "-p", "127.0.0.1::80"]
        done = docker.run("run", "--rm", *words, "busybox", "sh", "-c", ask)
        thread.join(60)
    assert (done.stdout, done.stderr) == ("here you\n", "")


def test_a_port_nobody_serves_is_closed_again(docker: Docker) -> None:
    docker("run", "-d", "--name", "deaf", "-p", "127.0.0.1::80", "busybox", *FOREVER)
    with socket.create_connection(("127.0.0.1", port_of(docker, "deaf", "80")), 60) as connection:
        assert connection.recv(10) == b""
    docker("rm", "-f", "deaf")


def test_kedge_run_publishes_too(docker: Docker) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "kedge", "run", "-p", f"127.0.0.1:{port}:80", "busybox", "sh", "-c", SERVE]
    process = subprocess.Popen(words, env=docker.service.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        assert b"from-" in fetch("127.0.0.1", port)
    finally:
        process.kill()
        process.communicate()
