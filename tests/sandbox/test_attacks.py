"""Steps and images that try to get out or to see what is not theirs; "
"the numbers are the advisories behind each case."""

import os
import stat
import sys

from kedge.sandbox.process import Content, HostPath, MountPoint, Tmpfs
from tests.sandbox.conftest import SOURCE

DEFAULT_CAPABILITIES = "00000000a80425fb"


def test_capabilities_are_docker_s_default_and_none_is_inheritable(box):
    """CVE-2022-27651, CVE-2022-29162."""
    lines = dict(line.split(":\t") for line in box.sh("cat /proc/self/status").out.splitlines() if ":\t" in line)
    assert {lines[n] for n in ("CapPrm", "CapEff", "CapBnd")} == {DEFAULT_CAPABILITIES}
    assert lines["CapInh"] == lines["CapAmb"] == "0" * 16
    assert lines["NoNewPrivs"] == "1"
    assert lines["Seccomp"] == "2"


def test_an_ordinary_user_in_the_image_has_no_capabilities(root_box):
    lines = dict(
        line.split(":\t") for line in root_box.sh("cat /proc/self/status", uid=5).out.splitlines() if ":\t" in line
    )
    assert lines["CapEff"] == lines["CapPrm"] == "0" * 16


def test_what_the_builder_may_pass_on_reaches_no_user_of_the_image(root_box):
    """CVE-2022-27651."""
    root_box.command = ["setpriv", "--inh-caps=+chown,+net_raw", *root_box.command]
    for uid in (0, 5):
        assert "CapInh:\t" + "0" * 16 in root_box.sh("cat /proc/self/status", uid=uid).out


def test_signals_that_the_builder_ignores_are_not_ignored_in_the_step(box):
    """Some supervisors start us with SIGCHLD ignored."""
    ignore = (
        "import os,signal,sys;[signal.signal(n,signal.SIG_IGN) for n in (10,14,17)];os.execvp(sys.argv[1],sys.argv[1:])"
    )
    box.command = [sys.executable, "-c", ignore, *box.command]
    done = box.sh("(exit 3); grep SigIgn /proc/self/status; exit $?")
    assert done.code == 0
    assert int(done.out.split()[1], 16) & 0x7FFFFFFF == 0


def test_the_builder_s_environment_is_not_to_be_found(box):
    """CVE-2021-3602."""
    done = box.sh("cat /proc/*/environ /proc/*/task/*/environ 2>/dev/null | tr '\\0' '\\n'")
    assert "token-in-the-builder" not in done.out


def test_no_descriptor_is_inherited(box):
    """CVE-2024-21626."""
    assert box.sh(
        "for f in 3 4 5 6 7 8 9 10 11 12 20 100 101; do test -e /proc/self/fd/$f && echo $f; done; true"
    ).out in ("", "3\n")
    assert box.sh("ls -l /proc/1/fd").out.count("->") == 3


def test_a_working_directory_cannot_be_a_leaked_descriptor(box):
    """CVE-2024-21626."""
    for number in range(3, 65, 7):
        done = box.sh("pwd -P; ls ..", cwd=f"/proc/self/fd/{number}")
        assert done.error is not None
        assert "working directory" in done.error[1]


def test_a_working_directory_symlinked_to_a_descriptor_is_refused(box):
    (box.layer / "work").symlink_to("/proc/self/fd/8")
    assert box.sh("pwd -P", cwd="/work").error is not None
    (box.layer / "cwd").symlink_to("/proc/1/cwd")
    assert box.sh("pwd -P", cwd="/cwd").error is not None


def test_the_entry_point_cannot_be_the_interpreter_of_the_helper(box):
    """CVE-2019-5736."""
    (box.layer / "entry").symlink_to("/proc/self/exe")
    done = box.run(("/entry", "-c", "print('out')"))
    assert (done.code, "out" in done.out) == (126, False)


def test_the_interpreter_of_the_helper_cannot_be_written_to(root_box):
    """CVE-2019-5736: a script whose interpreter is /proc/self/exe does get the helper's interpreter, read-only."""
    script = "import os\ntry:\n os.open('/proc/self/exe', os.O_WRONLY); print('writable')\nexcept OSError: print(1)\n"
    (root_box.layer / "entry").write_text("#!/proc/self/exe\n" + script)
    (root_box.layer / "entry").chmod(0o755)
    done = root_box.run(("/entry",))
    assert "writable" not in done.out


def test_masked_paths_show_nothing(box):
    done = box.sh(
        "cat /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug 2>/dev/null | wc -c;"
        " ls -A /sys/firmware /proc/acpi 2>/dev/null"
    )
    assert done.out.split()[0] == "0"
    assert [line for line in done.out.splitlines()[1:] if line and not line.endswith(":")] == []


def test_kernel_settings_are_read_only(box):
    done = box.sh(
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity"
        " /sys/kernel/uevent_helper; do test -e $f && echo x > $f && echo wrote $f; done; true"
    )
    assert "wrote" not in done.out


def test_cgroups_are_not_writable(box):
    """CVE-2023-25809, CVE-2022-0492."""
    done = box.sh(
        "touch /sys/fs/cgroup/x && echo wrote; mkdir /sys/fs/cgroup/y && echo wrote; "
        "mount -t cgroup2 x /tmp && echo mounted"
    )
    assert done.out == ""


def test_nothing_can_be_mounted_and_no_namespace_made(box):
    done = box.sh(
        "mount -t tmpfs x /tmp && echo out; unshare -m true && echo out; unshare -U true && echo out; "
        "umount /proc/keys && echo out"
    )
    assert done.out == ""


def test_a_device_node_made_by_a_step_does_not_open_the_device(root_box):
    nodes = [os.lstat(f"/dev/{name}") for name in os.listdir("/dev")]
    disk = next((info for info in nodes if stat.S_ISBLK(info.st_mode)), os.stat("/dev/zero"))
    number, kind = disk.st_rdev, "b" if stat.S_ISBLK(disk.st_mode) else "c"
    for place in ("/tmp", "/dev", "/dev/shm", "/t"):
        done = root_box.sh(
            f"mknod {place}/disk {kind} {os.major(number)} {os.minor(number)}; "
            f"head -c 16 {place}/disk | wc -c; rm -f {place}/disk",
            MountPoint("/t", Tmpfs()),
        )
        assert done.out == "0\n", place


def test_dev_holds_only_harmless_devices(box):
    done = box.sh("find /dev -type b -o -type c")
    assert {os.path.basename(p) for p in done.out.split()} == {
        "full",
        "null",
        "ptmx",
        "random",
        "tty",
        "urandom",
        "zero",
    }


def test_dev_null_as_symlink_in_the_image_is_not_followed(box):
    """CVE-2025-31133, CVE-2025-52565."""
    victim = box.base / "victim"
    victim.write_text("mine")
    (box.layer / "dev").mkdir()
    (box.layer / "dev" / "null").symlink_to(victim)
    (box.layer / "dev" / "pts").symlink_to("/etc")
    assert box.sh("echo x > /dev/null").code == 0
    assert victim.read_text() == "mine"


def test_system_directories_as_symlinks_in_the_image_lead_nowhere_outside(box):
    """CVE-2019-19921, CVE-2023-27561: proc, sys and dev redirected."""
    (box.layer / "elsewhere").mkdir()
    for name in ("proc", "sys", "dev"):
        (box.layer / name).symlink_to("/elsewhere")
    done = box.sh("cat /proc/self/status 2>/dev/null | head -1; ls /elsewhere")
    assert done.error is None or done.error[0] in ("InvalidInput", "Unsupported")
    assert box.sh("touch /proc/sys/kernel/core_pattern && echo > /proc/sys/kernel/core_pattern && echo wrote").out == ""


def test_targets_through_symlinks_cannot_reach_the_host(box):
    """CVE-2021-30465, CVE-2024-1753, CVE-2024-9341, CVE-2024-45310."""
    outside = box.base / "outside"
    outside.mkdir()
    (outside / "f").write_text("host")
    (box.layer / "a").symlink_to(outside)
    (box.layer / "b").symlink_to("../../../../../.." + str(outside))
    (box.layer / "etc" / "hosts").symlink_to(outside / "hosts")
    for source in (Tmpfs(), Content(b"x"), HostPath(str(box.base / "state"))):
        (box.base / "state").mkdir(exist_ok=True)
        for dest in ("/a/made", "/b/made"):
            assert box.sh("true", MountPoint(dest, source)).code == 0
    assert sorted(os.listdir(outside)) == ["f"]


def test_a_target_that_is_a_fifo_or_a_circle_of_links_hangs_nothing(box):
    """CVE-2024-9676."""
    os.mkfifo(box.layer / "etc" / "hosts")
    (box.layer / "loop").symlink_to("loop")
    assert "localhost" in box.sh("cat /etc/hosts").out
    assert box.sh("true", MountPoint("/loop", Content(b"x"))).error is not None


def test_cleaning_up_a_mount_point_never_follows_what_a_step_left(box):
    """CVE-2024-23652."""
    outside = box.base / "outside"
    (outside / "b").mkdir(parents=True)
    (box.layer / "q").symlink_to("/var/q")
    done = box.sh(
        f"cd /; umount /a/b; mv /a /c; rm -rf /a; ln -s {outside} /a; rm -rf /var/q; mv /var /w; "
        f"ln -s {outside} /var; true",
        MountPoint("/a/b", Tmpfs()),
        MountPoint("/q/b", Tmpfs()),
    )
    assert done.code == 0
    assert (outside / "b").is_dir()


def test_a_bind_mount_s_selector_cannot_lead_out(box):
    """CVE-2024-1753, CVE-2024-23651."""
    shared = box.base / "shared"
    shared.mkdir()
    for name, target in (("root", "/"), ("up", "../../../.."), ("self", "/proc/self/root")):
        (shared / name).symlink_to(target)
        done = box.sh("ls /m", MountPoint("/m", HostPath(str(shared)), selector=name))
        assert done.error is not None or set(done.out.split()) <= {"root", "up", "self"}


def test_a_step_cannot_reach_the_old_root(box):
    done = box.sh("ls -d /../../.. /proc/1/root/work /proc/1/cwd/..; ls /proc/1/root; chroot /proc/1/root ls /")
    names = set(done.out.split())
    assert "work" not in names
    assert "home" not in names


def test_other_processes_of_the_machine_cannot_be_signalled(box):
    done = box.sh(f"kill -0 {os.getpid()} && echo reached; kill -9 -1; echo alive")
    assert done.out == "alive\n"


def test_shared_memory_and_message_queues_are_private(root_box):
    assert root_box.sh("ipcs | grep -c 0x; ls -A /dev/mqueue /dev/shm").out.split()[0] == "0"


def test_kernel_log_and_keyrings_are_closed(box):
    assert box.sh("dmesg 2>/dev/null | head -1").out == ""


def test_insecure_lifts_the_limits_only_when_asked(root_box):
    done = root_box.sh(
        "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; mount -t tmpfs x /tmp && echo mounted",
        security="insecure",
    )
    assert "mounted" in done.out
    assert "Seccomp:\t0" in done.out
    assert "NoNewPrivs:\t0" in done.out


_WRITE = "posix.open('/tmp/pwned', posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND)"
_TROJAN = f"import posix\nposix.write({_WRITE}, b'{{name}}\\n')\n"


def test_no_module_is_ever_imported_from_the_image(box):
    """CVE-2019-14271 as it would look here: a lazy import after the root was entered runs the image's code."""
    places = [
        place for place in sys.path if "/lib/python" in place and "-packages" not in place and os.path.isdir(place)
    ]
    places += [f"/usr/lib/python3.{sys.version_info.minor}", str(SOURCE)]
    modules = {name for name in sys.stdlib_module_names if name.isidentifier()}
    for place in map(box.layer.joinpath, (place.lstrip("/") for place in dict.fromkeys(places))):
        place.mkdir(parents=True, exist_ok=True)
        for name in modules:
            (place / f"{name}.py").write_text(_TROJAN.format(name=name))
        for name in ("encodings", "kedge", "kedge/sandbox", "kedge/kernel", "kedge/model"):
            (place / name).mkdir(parents=True, exist_ok=True)
            (place / name / "__init__.py").write_text(_TROJAN.format(name=name))
        for name in ("idna", "utf_16", "latin_1", "ascii", "punycode"):
            (place / "encodings" / f"{name}.py").write_text(_TROJAN.format(name=name))
    (box.layer / "script").write_text("#!/no/such/interpreter\n")
    (box.layer / "script").chmod(0o755)
    (box.layer / "garbage").write_bytes(b"\x7fELF garbage")
    (box.layer / "garbage").chmod(0o755)
    box.sh("true", cwd="/made/by/the/step", env=("LANG=xx_YY.UTF-16", "PATH=/bin"))
    box.sh("true", cwd="/etc/passwd")
    for program in ("/script", "/garbage", "/no/such/program", "nowhere", "/etc", "\udce9"):
        box.run((program,))
    box.sh("kill -9 $$; exit 3", hostname="b\xfccher" * 3)
    box.sh("true", MountPoint("/a/b", Tmpfs(1 << 20)), MountPoint("/c", Content(b"x")))
    assert "tmp/pwned" not in box.written(), (box.upper / "tmp/pwned").read_text()
