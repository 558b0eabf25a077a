"""Steps where no /proc can be mounted: refused with the cure, and run without a process namespace when that is allowed.

`masked` makes the machine: a container with a masked /proc, without CAP_SYS_ADMIN.
"""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kedge.kernel import syscalls as sc
from kedge.sandbox.process import Content, MountPoint, Overlay, Process
from tests import masked
from tests.sandbox import test_enter
from tests.sandbox.conftest import Box, _make_box

FACTS = "grep -E 'Cap(Bnd|Eff|Inh)' /proc/self/status"
walled = pytest.mark.skipif(sc.landlock_version() < 6, reason="this kernel has no Landlock that scopes signals (6.12)")


@pytest.fixture(params=["root", "user"] if os.geteuid() == 0 else ["user"])
def pod(request: pytest.FixtureRequest) -> Iterator[Box]:
    """A box in such a container, in which steps may do without a process namespace."""
    for box in _make_box(request.param == "user"):
        at = len(box.command) - 2  # before the interpreter, behind what makes us somebody else
        script = str(Path(masked.__file__))
        box.command[at:at] = [box.command[at], script]
        box.process_sandbox = False
        yield box


def test_without_the_switch_the_error_names_it(pod: Box) -> None:
    pod.process_sandbox = True
    done = pod.sh("true")
    assert done.error == ("Unsupported", "cannot mount /proc: Operation not permitted")
    assert "process-sandbox = false" in done.hint
    assert "--oci-worker-no-process-sandbox" in done.hint
    assert "may signal" in done.hint


def test_a_step_runs_and_sees_the_surrounding_proc_with_its_masks(pod: Box) -> None:
    covered = next(name for name in masked.COVERED if os.path.isfile(f"/proc/{name}"))
    done = pod.sh(
        f"test $$ -ne 1 && test -d /proc/$$ && test -e /proc/{os.getpid()}/stat && echo sees; wc -c </proc/{covered};"
        f" echo x >/proc/sys/kernel/hostname || echo closed; umount /proc/{covered} || echo stays"
    )
    assert (done.code, done.out.split()) == (0, ["sees", "0", "closed", "stays"]), done.err
    assert not done.dumpable


def test_it_is_otherwise_shut_in_as_ever(pod: Box) -> None:
    script = f"{FACTS}; grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; hostname; ls /proc/self/fd | wc -l"
    ours = pod.sh(script)
    expected = 0x00000000A80425FB & ((2 << int(Path("/proc/sys/kernel/cap_last_cap").read_text())) - 1)
    assert f"CapEff:\t{expected:016x}" in ours.out
    assert "NoNewPrivs:\t1\nSeccomp:\t2\nkedge\n4\n" in ours.out


@pytest.mark.parametrize("end", ["", "exit 7", "kill -9 $$"])
def test_daemons_end_with_their_step(pod: Box, end: str) -> None:
    mark = f"9{uuid.uuid4().int % 10**8}"
    daemons = (
        f"setsid sh -c 'sleep {mark} & (setsid sleep {mark} &)' >/dev/null 2>&1 & (trap '' TERM HUP; sleep {mark}) &"
    )
    done = pod.sh(f"{daemons} sleep 0.3; {end}")
    assert done.code == {"": 0, "exit 7": 7, "kill -9 $$": 137}[end]
    assert not _running(mark)


def test_what_runs_as_somebody_else_ends_too(pod: Box) -> None:
    mark = f"9{uuid.uuid4().int % 10**8}"
    done = pod.sh(f"(setsid sleep {mark} >/dev/null 2>&1 &); sleep 0.2; id -u", uid=0 if _single(pod) else 9)
    assert done.code == 0
    assert not _running(mark)


def test_a_cancelled_step_is_dead_with_all_that_it_started(pod: Box) -> None:
    mark = f"9{uuid.uuid4().int % 10**8}"
    script = f"trap '' TERM; (setsid sleep {mark} &) >/dev/null 2>&1; sleep {mark}; sleep {mark}"
    done = pod.run(("/bin/sh", "-c", script), cancel_after=0.6)
    assert done.error is not None
    assert done.error[0] == "Cancelled"
    assert not _running(mark)


def test_signals_reach_the_first_process(pod: Box) -> None:
    done = pod.run(("/bin/sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.05; done"), signal=signal.SIGUSR1)
    assert done.code == 5


def test_a_killed_builder_leaves_no_step_behind(pod: Box) -> None:
    mark = f"9{uuid.uuid4().int % 10**8}"
    script = f"(setsid sleep {mark} &) >/dev/null 2>&1; sleep {mark}"
    with pytest.raises(subprocess.TimeoutExpired):
        pod.steps([(Process(("/bin/sh", "-c", script)), (pod.root(),))], timeout=4)
    _until(lambda: not _running(mark))


@pytest.mark.parametrize("wall", [True, False])
def test_a_step_cannot_look_into_kedge(pod: Box, wall: bool) -> None:
    """By the rules of ptrace(2): neither keeper, nor helper, nor the builder. Holds without Landlock, too."""
    script = """
        pid=$$; seen=
        while pid=$(awk '/^PPid/ {print $2}' /proc/$pid/status); [ "$pid" -gt 1 ]; do
            case "$(tr '\\0' ' ' </proc/$pid/cmdline)" in *kedge*|*harness*) ;; *) break ;; esac
            seen="$seen $(cat /proc/$pid/comm)"
            for part in environ maps auxv; do cat /proc/$pid/$part >/dev/null 2>&1 && echo "read $part of $pid"; done
            for part in root cwd exe fd/0 fd/3; do readlink /proc/$pid/$part && echo "followed $part of $pid"; done
            for part in root cwd; do ls /proc/$pid/$part/ 2>/dev/null | grep . && echo "saw $part of $pid"; done
            head -c 1 /proc/$pid/mem 2>&1 | grep -v -i 'denied' && echo "opened mem of $pid"
        done
        echo "tried:$seen"
    """
    process = Process(("/bin/sh", "-c", script), env=("PATH=/bin",))
    done = pod.steps([(process, (pod.root(),))], wall=wall)
    assert done.out.startswith("tried: kedge-keeper kedge-zygote"), done.out + done.err
    assert len(done.out.split()) >= 4, "the builder was not tried"


def test_no_step_may_trace_what_is_not_its_own(pod: Box) -> None:
    traces = 1 << sc.CAPABILITIES.index("sys_ptrace")
    asked = frozenset({"sys_ptrace", "chown"})
    for more in ({"security": "insecure"}, {"capabilities": asked}):
        done = pod.sh("awk '/CapBnd/ {print $2}' /proc/self/status", **more)
        assert int(done.out, 16) & 1, done
        assert not int(done.out, 16) & traces


@walled
def test_a_step_signals_nothing_but_its_own(pod: Box) -> None:
    script = "kill -9 $PPID 2>&1; sleep 30 & kill -9 $! && wait $!; echo ended $?; kill -9 -1; echo still here"
    done = pod.sh(script)
    assert done.code == 0, done
    assert "ermitted" in done.out
    assert "ended 137" in done.out
    assert "still here" in done.out


@walled
def test_a_secret_cannot_be_read_from_a_step_beside(pod: Box) -> None:
    mark = f"9{uuid.uuid4().int % 10**8}"
    secret = MountPoint("/run/secrets/s", Content(b"hidden"))
    has = (Process(("/bin/sh", "-c", f"sleep {mark}"), env=("PATH=/bin", "TOKEN=hidden")), (pod.root(), secret))
    script = f"""
        for i in $(seq 300); do
            for p in /proc/[0-9]*; do [ "$(tr '\\0' ' ' <$p/cmdline)" = "sleep {mark} " ] && break 2; done
            sleep 0.05
        done 2>/dev/null
        [ "$i" != 300 ] && echo found; cat $p/environ $p/root/run/secrets/s; ls $p/fd/; true
    """
    looks = (Process(("/bin/sh", "-c", script), env=("PATH=/bin",)), (MountPoint("/", Overlay((str(pod.layer),))),))
    done = pod.steps([looks], beside=[has])
    assert "found" in done.out, done
    assert "hidden" not in done.out


def test_a_killed_keeper_takes_its_step_along(pod: Box) -> None:
    """Where nothing keeps a step from it, it can kill its keeper; that gains it nothing."""
    mark = f"9{uuid.uuid4().int % 10**8}"
    script = f"(setsid sleep {mark} &) >/dev/null 2>&1; sleep {mark}"
    done = pod.steps([(Process(("/bin/sh", "-c", script)), (pod.root(),))], kill_parent=True)
    assert done.code == 137
    assert not _running(mark)


def test_who_joins_a_step_sees_its_files_and_ends(pod: Box) -> None:
    pod.give()
    program = test_enter.PROGRAM.replace('"state")', '"state", False)')
    words = [*pod.command[:-1], "-c", program, str(pod.base), "sandbox", "cat /tmp/mark; hostname; exit 5"]
    environment = {"PYTHONPATH": str(test_enter.SOURCE)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (5, ["first", "kedge", "Unsupported"]), done.stderr


@pytest.mark.parametrize("last", ["held[0][0](9); thread.join(); joined.join()", "executor.close()"])
def test_who_joined_a_step_ends_with_it(pod: Box, last: str) -> None:
    pod.give()
    mark = f"9{uuid.uuid4().int % 10**8}"
    before, _, _ = test_enter.PROGRAM.replace('"state")', '"state", False)').partition("code = executor.enter")
    program = f"""{before}
inside = threading.Event()
joined = threading.Thread(target=executor.enter, args=(second, held[0][1], Stdio(on_program=inside.set)))
joined.start()
assert inside.wait(50)
{last}
"""
    words = [*pod.command[:-1], "-c", program, str(pod.base), "sandbox", f"trap '' TERM; sleep {mark}; sleep {mark}"]
    subprocess.run(words, env={"PYTHONPATH": str(test_enter.SOURCE)}, timeout=60, check=True)
    assert not _running(mark)


def _single(box: Box) -> bool:
    return box.sh("true").single_id


def _running(mark: str) -> list[str]:
    """The processes on this machine with that word in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"sleep") and mark.encode() in words:
            found.append(str(path))
    return found


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
