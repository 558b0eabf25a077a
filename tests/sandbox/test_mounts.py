"""What is mounted where, and that making mount points leaves no trace."""

import os
import socket

import pytest

from kedge.model.errors import InvalidInput
from kedge.sandbox.process import Content, HostPath, MountPoint, Overlay, SocketAt, Tmpfs


def test_a_step_that_writes_nothing_leaves_nothing(box):
    assert box.sh("true").code == 0
    assert box.written() == []


def test_contents_are_files_with_mode_and_owner(box):
    mount = MountPoint("/run/secrets/token", Content(b"hush", mode=0o400), readonly=True)
    done = box.sh("cat /run/secrets/token; stat -c ' %a %u' /run/secrets/token; echo x > /run/secrets/token", mount)
    assert done.out == "hush 400 0\n"
    assert done.code != 0
    assert box.written() == []


def test_many_contents_do_not_mix(box):
    mounts = [MountPoint(f"/run/s{n}", Content(b"%d" % n)) for n in range(5)]
    assert box.sh("cat /run/s*", *mounts).out == "01234"


def test_a_secret_never_reaches_the_disk(root_box):
    root_box.sh("cp /s /tmp/copy; rm /tmp/copy; df /s | tail -1", MountPoint("/s", Content(b"hush")))
    for path in root_box.base.rglob("*"):
        if path.is_file() and path.parent.name != "bin":
            assert b"hush" not in path.read_bytes()


def test_tmpfs_is_empty_writable_and_of_the_size(box):
    done = box.sh("ls -A /t; touch /t/f && df -k /t | tail -1", MountPoint("/t", Tmpfs(size=1 << 20)))
    assert "1024" in done.out
    assert box.written() == []


def test_a_tmpfs_takes_the_mode_of_what_it_covers(box):
    points = [MountPoint(path, Tmpfs(mode=None)) for path in ("/tmp", "/bin/new", "/bin/new/er")]
    done = box.sh("stat -c %a /tmp /bin/new /bin/new/er; grep -c '^tmpfs /tmp tmpfs' /proc/mounts", *points)
    assert done.out.split() == ["1777", "1777", "755", "1"]
    assert box.written() == []


def test_a_host_directory_is_bound_and_protected_when_read_only(box):
    shared = box.base / "shared"
    shared.mkdir()
    (shared / "f").write_text("host")
    done = box.sh("cat /m/f; echo new > /m/g", MountPoint("/m", HostPath(str(shared)), readonly=True))
    assert done.out == "host"
    assert "Read-only file system" in done.err
    assert box.sh("echo new > /m/g", MountPoint("/m", HostPath(str(shared)))).code == 0
    assert (shared / "g").read_text() == "new\n"


def test_a_file_of_the_host_is_bound_on_a_missing_path(box):
    (box.base / "f").write_text("host")
    assert box.sh("cat /deep/er/f", MountPoint("/deep/er/f", HostPath(str(box.base / "f")))).out == "host"
    assert box.written() == []


def test_a_selector_takes_a_part_and_is_resolved_inside(box):
    shared = box.base / "shared"
    (shared / "sub").mkdir(parents=True)
    (shared / "sub" / "f").write_text("part")
    (shared / "link").symlink_to("/sub")
    for selector in ("sub", "/sub", "link", "../sub"):
        assert box.sh("cat /m/f", MountPoint("/m", HostPath(str(shared)), selector=selector)).out == "part"
    missing = box.sh("true", MountPoint("/m", HostPath(str(shared)), selector="none"))
    assert missing.error == ("InvalidInput", "cannot mount 'none' at /m: does not exist")


def test_an_overlay_s_selector_works_too(box):
    layer = box.base / "layers" / "tools"
    (layer / "opt" / "x").mkdir(parents=True)
    (layer / "opt" / "x" / "f").write_text("tool")
    done = box.sh("cat /m/f; touch /m/g", MountPoint("/m", Overlay((str(layer),)), selector="/opt/x"))
    assert done.out == "tool"
    assert "Read-only" in done.err
    assert box.sh("cat /f", MountPoint("/f", Overlay((str(layer),)), selector="/opt/x/f")).out == "tool"
    assert box.written() == []


def test_writes_to_a_writable_overlay_stay_in_its_upper(box):
    layer = box.base / "layers" / "context"
    layer.mkdir()
    (layer / "f").write_text("mine")
    for part in ("u", "w"):
        (box.base / part).mkdir()
    source = Overlay((str(layer),), str(box.base / "u"), str(box.base / "w"))
    assert box.sh("echo yours > /m/f; echo more > /m/g", MountPoint("/m", source)).code == 0
    assert (layer / "f").read_text() == "mine"
    assert sorted(os.listdir(box.base / "u")) == ["f", "g"]


def test_mounts_may_nest_in_any_order(box):
    layer = box.base / "layers" / "context"
    layer.mkdir()
    (layer / "f").write_text("context")
    done = box.sh(
        "cat /src/f; touch /src/node_modules/x && ls /src/node_modules; touch /src/new",
        MountPoint("/src/node_modules", Tmpfs()),
        MountPoint("/src", Overlay((str(layer),)), readonly=True),
    )
    assert done.out == "contextx\n"
    assert "Read-only" in done.err
    assert sorted(os.listdir(layer)) == ["f"]


def test_a_socket_can_be_connected_to(box):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(box.base / "agent"))
    server.listen()
    assert box.sh("test -S /run/agent", MountPoint("/run/agent", SocketAt(str(box.base / "agent")))).code == 0
    server.close()
    assert box.written() == []


def test_a_target_through_a_symlink_of_the_image_is_inside_the_image(box):
    (box.layer / "run").symlink_to("/var/run")
    (box.layer / "var" / "run").mkdir(parents=True)
    done = box.sh("cat /var/run/deep/token", MountPoint("/run/deep/token", Content(b"hush")))
    assert done.out == "hush"
    assert [name for name in box.written() if "deep" in name or "token" in name] == []


def test_a_dangling_resolv_conf_is_mounted_where_it_points(box):
    (box.layer / "etc" / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    done = box.sh("ls -l /etc/resolv.conf; test -f /run/systemd/resolve/stub-resolv.conf")
    assert done.code == 0
    assert [name for name in box.written() if "resolve" in name] == []


def test_a_target_deleted_in_an_upper_layer_is_made_and_removed_again(root_box):
    over = root_box.base / "layers" / "over"
    (over / "etc").mkdir(parents=True)
    os.mknod(over / "etc" / "hosts", 0o600 | 0o020000, os.makedev(0, 0))
    root_box.lowers = [str(over)]
    assert "localhost" in root_box.sh("cat /etc/hosts").out
    assert [name for name in root_box.written() if "hosts" in name] == []


def test_a_directory_is_not_mounted_on_a_file(box):
    done = box.sh("true", MountPoint("/etc/passwd", Tmpfs()))
    assert done.error == ("InvalidInput", "cannot mount a directory on a file at /etc/passwd")


def test_nothing_is_mounted_in_proc(box):
    for dest in ("/proc", "/proc/self/attr"):
        done = box.sh("true", MountPoint(dest, Tmpfs()))
        assert done.error == ("InvalidInput", f"cannot mount at {dest}: /proc belongs to the sandbox")


def test_a_read_only_root(box):
    done = box.sh("touch /x; touch /dev/shm/y && echo shm", root=box.root(readonly=True))
    assert "Read-only" in done.err
    assert done.out == "shm\n"


def test_a_root_without_lower_layers(box):
    lower = box.layer
    source = Overlay((), str(lower), str(box.base / "draft" / "work"))
    assert box.sh("echo hello", root=MountPoint("/", source)).out == "hello\n"


def test_four_hundred_layers(box):
    for n in range(400):
        layer = box.base / "layers" / f"{n:03}"
        layer.mkdir()
        (layer / f"f{n}").touch()
    box.lowers = [str(box.base / "layers" / f"{n:03}") for n in range(400)]
    assert box.sh("ls / | grep -c '^f[0-9]'").out == "400\n"


def test_targets_are_cleaned_and_must_be_absolute():
    assert MountPoint("//a/../b/", Tmpfs()).dest == "/b"
    assert MountPoint("/../..", Tmpfs()).dest == "/"
    with pytest.raises(InvalidInput):
        MountPoint("relative", Tmpfs())
