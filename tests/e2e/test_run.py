"""`kedge run`: streams, exit codes, signals, users, mounts."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kedge.sandbox import cgroups
from kedge.sandbox.process import Limits
from tests.e2e.conftest import Kedge

GREEDY = "exec tail -c 100000000 /dev/zero"  # keeps all of it in memory


@pytest.fixture(scope="module")
def busybox(shared: Kedge) -> Kedge:
    shared("pull", "-q", "busybox")
    return shared


def test_exit_code_and_streams_are_the_programs_own(busybox: Kedge) -> None:
    done = busybox("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_standard_input_reaches_it_only_when_asked(busybox: Kedge) -> None:
    assert busybox("run", "-i", "busybox", "cat", stdin=b"data").stdout == "data"
    assert busybox("run", "busybox", "cat", stdin=b"data").stdout == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["busybox", "nosuch"], 127),
        (["busybox", "/etc/passwd"], 126),
        (["--volume", "/nonexistent/x:/x", "busybox", "true"], 125),
        (["--pull", "never", "no/such/image", "true"], 125),
        (["--nonsense", "busybox"], 125),
        (["-e", "=x", "busybox", "true"], 125),
        (["--env-file", "/no/such/file", "busybox", "true"], 125),
        (["-w", "relative", "busybox", "true"], 125),
        (["-m", "1", "busybox", "true"], 125),
        (["busybox", "sh", "-c", "kill -9 $$; exit 3"], 3),
    ],
)
def test_what_cannot_start_has_dockers_exit_codes(busybox: Kedge, words: list[str], code: int) -> None:
    done = busybox("run", *words, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-w", "relative"], "the working directory 'relative' is invalid, it needs to be an absolute path"),
        (["-m", "6291455"], "Minimum memory limit allowed is 6MB"),
        (["-e", "=x"], "the variable '=x' has no name"),
        (["--env-file", "/no/such/file"], "cannot read the env file /no/such/file"),
    ],
)
def test_what_docker_refuses_is_refused_in_its_words(busybox: Kedge, words: list[str], said: str) -> None:
    assert said in busybox("run", *words, "busybox", "true", check=False).stderr


def test_a_process_that_memory_ran_out_for_is_told_of(busybox: Kedge) -> None:
    if why := cgroups.why_not(Limits(memory=8 << 20)):
        pytest.skip(f"this machine does not let us limit memory: {why}")
    done = busybox("run", "-m", "8m", "busybox", "sh", "-c", GREEDY, check=False)
    assert done.returncode == 137
    assert done.stderr == "kedge: memory ran out: the kernel killed a process, the limit being 8 MiB\n"
    assert busybox("run", "-m", "8m", "busybox", "true").stderr == ""


def test_user_variables_and_directory(busybox: Kedge) -> None:
    script = "id -u; id -g; pwd; echo $A $B $HOME"
    done = busybox("run", "-u", "nobody", "-e", "A=1", "-e", "B", "-w", "/var", "busybox", "sh", "-c", script, B="2")
    if done.stdout.startswith("0"):
        pytest.skip("one id only: every user is root here")
    assert done.stdout == "65534\n65534\n/var\n1 2 /home\n"


def test_an_entrypoint_replaces_the_images(busybox: Kedge) -> None:
    assert busybox("run", "--entrypoint", "echo", "busybox", "hello").stdout == "hello\n"


def test_volumes_show_the_hosts_files(busybox: Kedge, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("here\n")
    assert (
        busybox("run", "-v", f"{tmp_path}:/m", "busybox", "sh", "-c", "cat /m/in; echo back > /m/out").stdout
        == "here\n"
    )
    assert (tmp_path / "out").read_text() == "back\n"
    assert busybox("run", "-v", f"{tmp_path}:/m:ro", "busybox", "touch", "/m/x", check=False).returncode == 1


def test_a_read_only_container_cannot_write(busybox: Kedge) -> None:
    assert busybox("run", "--read-only", "busybox", "touch", "/x", check=False).returncode == 1
    assert busybox("run", "--read-only", "--tmpfs", "/t", "busybox", "touch", "/t/x").returncode == 0


def test_containers_do_not_share_what_they_write(busybox: Kedge) -> None:
    busybox("run", "busybox", "touch", "/mark")
    assert busybox("run", "busybox", "ls", "/mark", check=False).returncode == 1


def test_no_network_means_only_loopback(busybox: Kedge) -> None:
    done = busybox("run", "--network", "none", "busybox", "ls", "/sys/class/net")
    assert set(done.stdout.split()) <= {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0",
                                        "ip6_vti0", "ip6gre0", "bonding_masters", "teql0"}  # fmt: skip


def start(kedge: Kedge, *words: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"KEDGE_ROOT": str(kedge.store), "KEDGE_CONFIG": str(kedge.config)}
    return subprocess.Popen([sys.executable, "-m", "kedge", "run", *words], env=environment, stdout=subprocess.PIPE)


def test_signals_are_passed_on(busybox: Kedge) -> None:
    process = start(
        busybox, "busybox", "sh", "-c", "trap 'echo got it; exit 4' TERM; echo up; while :; do sleep 0.1; done"
    )
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == b"got it\n"
    assert process.returncode == 4


def test_who_asks_three_times_means_it(busybox: Kedge) -> None:
    process = start(busybox, "busybox", "sh", "-c", "trap 'echo no' INT; echo up; while :; do sleep 0.1; done")
    assert process.stdout
    for said in (b"up\n", b"no\n", b"no\n"):  # one at a time: two at once may be taken for one
        assert process.stdout.readline() == said
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 137


def test_a_name_is_in_use_while_its_container_runs(busybox: Kedge) -> None:
    process = start(
        busybox, "--name", "one", "busybox", "sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"
    )
    assert process.stdout
    process.stdout.readline()
    second = busybox("run", "--name", "one", "busybox", "true", check=False)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert second.returncode == 125
    assert "is in use" in second.stderr
    assert busybox("run", "--name", "one", "busybox", "true").returncode == 0


def test_a_terminal_is_a_real_one(busybox: Kedge) -> None:
    child, master = pty.fork()
    if child == 0:
        os.environ |= {"KEDGE_ROOT": str(busybox.store), "KEDGE_CONFIG": str(busybox.config)}
        os.execv(sys.executable, [sys.executable, "-m", "kedge", "run", "-it", "busybox", "sh"])
    output = _talk(master, [b"tty\n", b"sleep 100\n", b"\x03", b"echo after-$?; exit 5\n"])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(master)
    assert b"/dev/" in output
    assert b"after-130" in output
    assert status == 5


def test_a_closed_terminal_ends_what_ran_on_it(busybox: Kedge) -> None:
    child, master = pty.fork()
    if child == 0:
        os.environ |= {"KEDGE_ROOT": str(busybox.store), "KEDGE_CONFIG": str(busybox.config)}
        words = ["run", "-it", "busybox", "sh", "-c", "trap '' HUP; echo up; sleep 300"]
        os.execv(sys.executable, [sys.executable, "-m", "kedge", *words])
    seen = b""
    while b"up" not in seen:
        seen += os.read(master, 1024)
    os.close(master)
    began = time.monotonic()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 137
    assert time.monotonic() - began < 60


def _talk(master: int, lines: list[bytes]) -> bytes:
    """Type lines, each a moment after the shell has shown a prompt or become quiet."""
    output, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        ready, _, _ = select.select([master], [], [], 0.7)
        if ready:
            try:
                data = os.read(master, 4096)
            except OSError:
                return output
            output += data
            if not data:
                return output
        elif lines and b"# " in output:
            os.write(master, lines.pop(0))
    return output
