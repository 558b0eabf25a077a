"""What a process is given and what comes back."""

import signal

import pytest

from kedge.model.errors import InvalidInput
from kedge.model.ops import Ulimit
from kedge.sandbox.process import Limits, Process


def test_the_exit_code_is_the_process_s_own(box):
    assert box.sh("exit 7").code == 7


def test_a_signal_is_128_plus_its_number(box):
    assert box.sh("kill -9 $$; sleep 1").code in (0, 137)  # PID 1 cannot be killed from inside
    assert box.sh("sleep 5", signal=signal.SIGKILL).code == 137
    assert box.sh("trap 'exit 3' TERM; sleep 5 & wait", signal=signal.SIGTERM).code == 3


def test_output_of_both_streams_arrives_whole(box):
    done = box.sh("head -c 3000000 /dev/zero | tr '\\0' x; echo problem >&2")
    assert (len(done.out), done.err, done.code) == (3000000, "problem\n", 0)


def test_output_of_background_processes_arrives_until_the_first_process_ends(box):
    done = box.sh("(while true; do sleep 1; done) & echo started")
    assert done.out == "started\n"
    assert done.seconds < 5


def test_standard_input_is_at_its_end_unless_given(box):
    assert box.sh("cat; echo end").out == "end\n"
    assert box.sh("cat; echo end", stdin=b"given ").out == "given end\n"


def test_the_environment_is_exactly_what_was_given(box):
    done = box.run(("/bin/env",), env=("A=1", "B=x=y", "C="))
    assert sorted(done.out.split()) == ["A=1", "B=x=y", "C="]


def test_bytes_that_are_no_text_reach_the_program(box):
    name = b"caf\xe9".decode(errors="surrogateescape")
    assert box.sh(f'printf %s "{name}" | wc -c', env=("PATH=/bin", f"X={name}")).out.strip() == "4"


def test_a_missing_working_directory_is_made_for_the_user(root_box):
    done = root_box.sh("pwd; touch x; stat -c %u:%g:%a .", cwd="/a/b", uid=12, gid=34)
    assert done.out.split() == ["/a/b", "12:34:755"]


def test_a_working_directory_may_be_a_symlink_inside_the_root(box):
    (box.layer / "link").symlink_to("/tmp")
    assert box.sh("pwd", cwd="/link").out == "/tmp\n"


def test_a_working_directory_that_is_a_file_is_refused(box):
    assert box.sh("pwd", cwd="/etc/passwd").error == (
        "InvalidInput",
        "cannot use /etc/passwd as the working directory: Not a directory",
    )


def test_user_group_and_supplementary_groups_are_set(root_box):
    done = root_box.sh("id -u; id -g; id -G", uid=1234, gid=55, groups=(55, 66, 77))
    assert done.out.splitlines() == ["1234", "55", "55 66 77"]


def test_a_user_can_reopen_its_standard_streams(root_box):
    assert root_box.sh("echo hello > /dev/stdout", uid=1234, gid=55).out == "hello\n"


def test_a_program_that_is_nowhere_in_path(box):
    done = box.run(("nothing-such",))
    assert (done.code, done.err) == (127, 'exec: "nothing-such": executable file not found in $PATH\n')


def test_a_program_whose_path_does_not_exist(box):
    done = box.run(("/opt/none",))
    assert (done.code, done.err) == (127, 'exec: "/opt/none": no such file or directory\n')


def test_a_program_without_execute_permission(box):
    (box.layer / "plain").write_text("echo")
    (box.layer / "plain").chmod(0o644)
    done = box.run(("/plain",))
    assert (done.code, done.err) == (126, 'exec: "/plain": permission denied\n')


def test_a_script_whose_interpreter_is_missing_says_which(box):
    (box.layer / "script").write_text("#!/bin/bash-of-old\n")
    (box.layer / "script").chmod(0o755)
    done = box.run(("/script",))
    assert (done.code, done.err) == (127, 'exec: "/script": its interpreter /bin/bash-of-old does not exist\n')


def test_a_program_for_another_machine(box):
    (box.layer / "alien").write_bytes(b"\x7fELF" + bytes(60))
    (box.layer / "alien").chmod(0o755)
    done = box.run(("/alien",))
    assert done.code == 126
    assert "exec format error" in done.err


def test_the_process_is_pid_1_and_sees_only_its_own(box):
    done = box.sh("echo $$; ls -d /proc/[0-9]* | wc -l")
    assert done.out.split()[0] == "1"
    assert int(done.out.split()[1]) <= 4


def test_hostname_and_hosts(box):
    done = box.sh("hostname; cat /etc/hosts", hostname="ship", extra_hosts=(("db", "10.0.0.9"),))
    lines = done.out.splitlines()
    assert lines[0] == "ship"
    assert "127.0.0.1\tlocalhost ship" in lines
    assert "10.0.0.9\tdb" in lines


def test_network_none_has_only_loopback_and_it_is_up(box):
    done = box.sh("ls /sys/class/net; ip addr show lo", network="none")
    assert done.out.split()[0] == "lo"
    assert "127.0.0.1/8" in done.out
    assert "eth0" not in done.out


def test_files_are_made_with_umask_022(box):
    assert box.sh("umask; touch /tmp/f; stat -c %a /tmp/f").out.split() == ["0022", "644"]


def test_ulimits_are_set_and_capped_where_they_cannot_be_raised(box):
    done = box.sh("ulimit -n; ulimit -Hn", ulimits=(Ulimit("nofile", 64, 128),))
    assert done.out.split() == ["64", "128"]
    done = box.sh("true", ulimits=(Ulimit("nofile", 1 << 40, 1 << 40),))
    assert done.code == 0


def test_a_step_has_the_limit_of_open_files_that_a_service_was_started_with_not_the_one_it_took(box):
    assert box.sh("ulimit -n; ulimit -Hn", open_files=(100, 200)).out.split() == ["100", "200"]
    done = box.sh("ulimit -n; ulimit -Hn", open_files=(100, 200), ulimits=(Ulimit("nofile", 64, 128),))
    assert done.out.split() == ["64", "128"]
    assert box.sh("ulimit -n; ulimit -Hn", open_files=(200, 200)).out.split() == ["200", "200"]


def test_cancelling_kills_the_whole_step_at_once(box):
    done = box.sh("(sleep 30) & trap '' TERM INT; sleep 30", cancel_after=0.3)
    assert done.error == ("Cancelled", "the step was stopped")
    assert done.seconds < 1.5


def test_what_a_step_writes_is_in_the_upper_directory_for_the_next(box):
    step = Process(("/bin/sh", "-c", "cat /new 2>/dev/null; echo one >> /new"), env=("PATH=/bin",))
    done = box.steps([(step, (box.root(),)), (step, (box.root(),))])
    assert done.out == "one\n"
    assert box.written() == ["new"]


def test_memory_of_a_step_is_limited_where_cgroups_allow(root_box):
    done = root_box.sh("head -c 200000000 /dev/zero | tail -c 100000000 | wc -c", limits=Limits(memory=30 << 20))
    if done.notes:
        pytest.skip(f"this machine: {done.notes[0]}")
    assert "100000000" not in done.out


def test_impossible_processes_cannot_be_written_down():
    for wrong in (
        lambda: Process(()),
        lambda: Process(("a\0b",)),
        lambda: Process(("a",), uid=4294967295),
        lambda: Process(("a",), gid=-1),
    ):
        with pytest.raises(InvalidInput):
            wrong()


def test_owners_are_faked_where_only_one_id_exists(user_box):
    done = user_box.sh(
        "chown 12:34 /tmp && chmod 711 /tmp && su -s /bin/sh root -c 'echo as root'; mknod /tmp/n c 1 3; echo $?"
    )
    if not done.single_id:
        pytest.skip("this user has subordinate ids")
    assert done.out.split("\n")[-2] == "0"
    assert done.code == 0
