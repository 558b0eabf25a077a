"""System calls: errors carry errno and path, structures are laid out as the kernel reads them."""

import errno
import os
from pathlib import Path

import pytest

from kedge.kernel import syscalls


def test_errors_are_os_errors_of_the_right_kind(tmp_path):
    fd = os.open(tmp_path, os.O_PATH)
    with pytest.raises(FileNotFoundError) as caught:
        syscalls.openat2(fd, "none", os.O_RDONLY)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "none")
    os.close(fd)


def test_a_nul_in_a_path_is_refused(tmp_path):
    with pytest.raises(OSError):
        syscalls.openat2(syscalls.AT_FDCWD, f"{tmp_path}\0/x", os.O_PATH)


def test_openat2_stays_beneath(tmp_path):
    fd = os.open(tmp_path, os.O_PATH)
    with pytest.raises(OSError) as caught:
        syscalls.openat2(fd, "..", os.O_PATH, 0, syscalls.RESOLVE_BENEATH)
    assert caught.value.errno == errno.EXDEV
    os.close(fd)


def test_descriptors_are_close_on_exec(tmp_path):
    fd = syscalls.openat2(syscalls.AT_FDCWD, str(tmp_path), os.O_PATH)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_renameat2_refuses_to_replace(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    fd = os.open(tmp_path, os.O_PATH)
    with pytest.raises(FileExistsError):
        syscalls.renameat2(fd, "a", fd, "b", syscalls.RENAME_NOREPLACE)
    os.close(fd)


def test_close_range_closes_that_range_only():
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    high = [os.dup2(fd, 300 + n) for n, fd in enumerate(fds)]
    syscalls.close_range(301, 302)
    assert [os.path.exists(f"/proc/self/fd/{fd}") for fd in high] == [True, False, False]
    for fd in (*fds, high[0]):
        os.close(fd)


def test_capget_agrees_with_proc():
    effective, permitted, _ = syscalls.capget()
    lines = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    assert (effective, permitted) == (int(lines["CapEff"], 16), int(lines["CapPrm"], 16))


def test_the_kernel_s_words_are_in_the_error():
    if os.geteuid():
        pytest.skip("fsopen(2) needs privileges")
    fs = syscalls.fsopen("tmpfs")
    with pytest.raises(OSError) as caught:
        syscalls.fsconfig_string(fs, "nonsense", "1")
    assert "nonsense" in str(caught.value)
    os.close(fs)


def test_reflink_says_whether_it_worked(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 10000)
    with open(tmp_path / "a", "rb") as source, open(tmp_path / "b", "wb") as dest:
        done = syscalls.reflink(source.fileno(), dest.fileno())
    assert done == ((tmp_path / "b").read_bytes() == b"x" * 10000)


def test_pidfds_carry_signals():
    pid = os.fork()
    if pid == 0:
        while True:
            os.sched_yield()
    fd = syscalls.pidfd_open(pid)
    syscalls.pidfd_send_signal(fd, 9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    os.close(fd)
