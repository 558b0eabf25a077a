"""What a RUN step sees, may do, and leaves behind."""

import contextlib
import os
import socket
import threading

import pytest

from kedge.model.errors import InvalidInput, KedgeError, NotFound, StepFailed
from kedge.sandbox import cgroups
from kedge.sandbox.process import Limits
from kedge.session.secrets import Secret


def output(bench, name=""):
    from kedge.model.event import LogEvent

    return b"".join(e.data for e in bench.events if isinstance(e, LogEvent)).decode()


def test_environment_user_home_and_directory(bench):
    step = "id; pwd; echo $HOME $A $B; touch /tmp/f; stat -c %u:%g /tmp/f"
    bench.build(f"FROM base\nENV A=1\nARG B=2\nWORKDIR /w\nUSER bob\nRUN {step}")
    assert "uid=1234(bob) gid=1235(bob)" in output(bench)
    assert "10(wheel)" in output(bench)
    assert "/w\n/home/bob 1 2\n1234:1235\n" in output(bench)


def test_nothing_of_the_builder_is_seen(bench, monkeypatch):
    monkeypatch.setenv("BUILDER_TOKEN", "hunter2")
    bench.build("FROM base\nRUN env; cat /proc/*/environ; ls /proc/self/fd; ls -la /")
    assert "hunter2" not in output(bench)
    assert "BUILDER_TOKEN" not in output(bench)


def test_a_step_that_memory_ran_out_for_says_so(bench):
    if why := cgroups.why_not(Limits(memory=8 << 20)):
        pytest.skip(f"this machine does not let us limit memory: {why}")
    with pytest.raises(StepFailed, match="exit code: 137"):
        bench.build("FROM base\nRUN exec tail -c 100000000 /dev/zero", memory=8 << 20)
    assert output(bench) == "kedge: memory ran out: the kernel killed a process, the limit being 8 MiB\n"


def test_a_limit_below_which_no_step_starts_is_refused(bench):
    with pytest.raises(InvalidInput, match="Minimum memory limit allowed is 6MB"):
        bench.build("FROM base\nRUN true", memory=1)


def test_only_root_is_held_to_no_new_privileges_so_that_sudo_works_for_others(bench):
    step = "grep NoNewPrivs /proc/self/status"
    bench.build(f"FROM base\nRUN {step}\nUSER bob\nRUN {step}")
    assert output(bench) == "NoNewPrivs:\t1\nNoNewPrivs:\t0\n"


def test_a_secret_is_a_file_and_a_variable_and_stays_out_of_everything(bench):
    bench.secrets = [Secret("s", data=b"hunter2")]
    step = "wc -c < /s; stat -c %a /s; test $S = $(cat /s)"
    text = f"FROM base\nRUN --mount=type=secret,id=s,target=/s --mount=type=secret,id=s,env=S {step}"
    result = bench.build(text, tags=("x",))
    assert output(bench) == "7\n400\n"
    assert all("hunter2" not in repr(part) for part in (result, bench.events))
    for folder, _, files in os.walk(bench.root):
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                assert b"hunter2" not in file.read(), name
    assert "s" not in bench.listing("x")


def test_a_missing_secret_is_an_error_only_when_required(bench):
    bench.build("FROM base\nRUN --mount=type=secret,id=no test ! -e /run/secrets/no")
    with pytest.raises(NotFound, match="no secret"):
        bench.build("FROM base\nRUN --mount=type=secret,id=no,required=true true")


def test_a_bind_from_the_context_is_read_only_and_leaves_nothing(bench):
    bench.write(a="1", sub__b="2")
    bench.build("FROM base\nRUN --mount=type=bind,target=/c cat /c/a /c/sub/b > /out; ! touch /c/x", tags=("x",))
    assert bench.read("x", "out") == "12"
    assert "c" not in "".join(name[:2] for name in bench.listing("x") if name.startswith("c/"))


def test_writes_to_a_writable_bind_are_thrown_away(bench):  # CVE-2025-4953
    bench.write(a="1")
    bench.build(
        "FROM base\nRUN --mount=type=bind,target=/c,rw touch /c/x && echo 2 > /c/a\n"
        "RUN --mount=type=bind,target=/c,rw test ! -e /c/x && test $(cat /c/a) = 1"
    )
    assert sorted(os.listdir(bench.context)) == ["a"]
    assert (bench.context / "a").read_text() == "1"


def test_a_bind_of_a_link_stays_in_its_stage(bench, tmp_path):  # CVE-2024-1753
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "secret").write_text("host")
    text = f"FROM base AS evil\nRUN ln -s {tmp_path}/host /rootdir && ln -s / /all\n"
    for source in ("rootdir", "all", "all/../../.."):
        try:
            bench.build(
                text + f"FROM base\nRUN --mount=type=bind,from=evil,source={source},target=/m,rw "
                "touch /m/written; ls /m; ! test -e /m/secret"
            )
        except KedgeError:
            assert "secret\n" not in output(bench)
    assert os.listdir(tmp_path / "host") == ["secret"]
    assert not os.path.exists("/written")


def test_a_cache_keeps_its_files_between_builds_and_out_of_the_image(bench):
    text = "FROM base\nRUN --mount=type=cache,target=/c echo {0} >> /c/log; cat /c/log > /out"
    bench.build(text.format(1), tags=("x",))
    bench.build(text.format(2), tags=("x",))
    assert bench.read("x", "out") == "1\n2\n"
    assert not any(name.startswith("c/") for name in bench.listing("x"))


@pytest.mark.parametrize("options", ["", ",mode=0773"])
def test_a_step_without_cache_begins_with_empty_cache_mounts(bench, options):
    """As in BuildKit: --no-cache must give what a first build gives, whatever the cache began with."""
    text = "FROM base\nARG N\nRUN --mount=type=cache,target=/c" + options + " touch /c/$N; ls /c > /out"
    for number, no_cache, seen in ("one", False, "one\n"), ("two", True, "two\n"), ("zwei", False, "two\nzwei\n"):
        bench.build(text, tags=("x",), build_args=(("N", number),), no_cache=no_cache)
        assert bench.read("x", "out") == seen


def test_no_cache_for_one_stage_leaves_the_caches_of_others(bench):
    text = (
        "FROM base AS one\nARG N\nRUN --mount=type=cache,target=/c,id=1 touch /c/$N; ls /c > /one\n"
        "FROM base\nARG N\nRUN --mount=type=cache,target=/c,id=2 touch /c/$N; ls /c > /two\nCOPY --from=one /one /\n"
    )
    bench.build(text, tags=("x",), build_args=(("N", "a"),))
    bench.build(text, tags=("x",), build_args=(("N", "b"),), no_cache_filter=("one",))
    assert (bench.read("x", "one"), bench.read("x", "two")) == ("b\n", "a\nb\n")


def test_a_cache_with_first_content_and_owner(bench):
    bench.build(
        "FROM base AS seed\nRUN mkdir /s && echo first > /s/f\n"
        "FROM base\nRUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/f > /out\n"
        "RUN --mount=type=cache,target=/d,uid=1234,gid=1235,mode=0750 stat -c %u:%g:%a /d > /owner",
        tags=("x",),
    )
    assert bench.read("x", "out") == "first\n"
    assert bench.read("x", "owner") == "1234:1235:750\n"


def test_a_locked_cache_is_used_by_one_step_at_a_time(bench):
    mount = "--mount=type=cache,target=/c,sharing=locked,id=l"
    step = f"RUN {mount} test ! -e /c/busy && touch /c/busy && sleep 1 && rm /c/busy\n"
    text = f"FROM base AS a\n{step}FROM base AS b\nRUN true\n{step}"
    bench.build(f"{text}FROM base\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n")


@pytest.mark.parametrize("id", ["../../../etc", "/etc", "..", "a/b", "ü" * 50, "x" * 4000])
def test_cache_ids_are_no_paths(bench, id):  # CVE-2024-9675
    bench.build(f"FROM base\nRUN --mount=type=cache,id={id},target=/c touch /c/made; ls /c")
    assert output(bench) == "made\n"
    made = [os.path.join(folder, name) for folder, _, files in os.walk(bench.root) for name in files if name == "made"]
    assert all("/cache-mounts/" in path for path in made)
    assert len(made) == 1


def test_two_steps_cannot_race_a_shared_cache_out_of_its_root(bench, tmp_path):  # CVE-2024-23651
    (tmp_path / "host").mkdir()
    turn = f"ln -sfn {tmp_path}/host /c/sub; rm -f /c/sub; mkdir -p /c/sub; rmdir /c/sub"
    swap = f"i=0; while test $i -lt 300; do {turn}; i=$((i+1)); done; true"
    use = "i=0; while test $i -lt 10; do ls /c > /dev/null; touch /c/here 2>/dev/null; i=$((i+1)); done; true"
    text = f"FROM base AS a\nRUN --mount=type=cache,id=r,target=/c {swap}\n"
    for n in range(4):
        text += f"FROM base AS b{n}\nRUN --mount=type=cache,id=r,target=/c,source=sub {use} # {n}\n"
    text += "FROM base\nCOPY --from=a /etc/passwd /a\n" + "".join(
        f"COPY --from=b{n} /etc/passwd /b{n}\n" for n in range(4)
    )
    with contextlib.suppress(KedgeError):  # a selector that is not there is an error; the host stays untouched
        bench.build(text)
    assert os.listdir(tmp_path / "host") == []


def test_a_tmpfs_is_empty_sized_and_gone(bench):
    bench.build(
        "FROM base\nRUN --mount=type=tmpfs,target=/t,size=1m ls /t; touch /t/x; grep ' /t ' /proc/mounts", tags=("x",)
    )
    assert " /t tmpfs" in output(bench)
    assert "size=1024k" in output(bench)
    assert not any(name.startswith("t/") for name in bench.listing("x"))


def test_a_mount_target_through_a_link_leaves_the_host_alone(bench, tmp_path):  # CVE-2024-23652
    (tmp_path / "dir").mkdir()
    bench.build(
        f"FROM base\nRUN --mount=type=tmpfs,target=/a/b rm -rf /a 2>/dev/null; mv /a /old; ln -s {tmp_path} /a; true"
    )
    assert (tmp_path / "dir").is_dir()


def test_an_agent_is_forwarded(bench, tmp_path):
    from kedge.builder import BuildRequest, build
    from kedge.model.event import LogEvent
    from kedge.session.local import LocalSession
    from kedge.session.ssh import SshSpec

    events = []
    text = b"FROM base\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && stat -c %a:%u $SSH_AUTH_SOCK"
    request = BuildRequest(context=bench.context, store=bench.root, dockerfile_text=text)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()
        build(request, LocalSession(ssh=[SshSpec("default", (tmp_path / "agent",))]), events.append)
    assert b"".join(e.data for e in events if isinstance(e, LogEvent)) == b"600:0\n"
    with pytest.raises(NotFound, match="agent"):
        bench.build("FROM base\nRUN --mount=type=ssh,required=true true")


def test_hosts_and_names_and_no_network(bench):
    bench.build(
        "FROM base\nRUN --network=none cat /etc/hosts; ls /sys/class/net 2>/dev/null; cat /proc/net/dev",
        add_hosts=(("db", "10.9.8.7"),),
        tags=("x",),
    )
    assert "10.9.8.7" in output(bench)
    assert "eth" not in output(bench)
    assert not any(name in ("etc/hosts", "etc/resolv.conf") for name in bench.listing("x"))


@pytest.mark.parametrize("path", ["etc/hosts", "etc/resolv.conf"])
def test_files_we_mount_may_be_links_or_worse_in_the_image(bench, path, tmp_path):  # CVE-2024-9341
    (tmp_path / "host").write_text("host")
    bench.build(
        f"FROM base AS evil\nRUN --network=none rm -rf /{path}; ln -s {tmp_path}/host /{path} || true\n"
        "FROM evil\nRUN cat /etc/hosts > /dev/null; true"
    )
    assert (tmp_path / "host").read_text() == "host"


def test_full_output_is_kept_in_the_store(bench):
    bench.build("FROM base\nRUN i=0; while test $i -lt 3000; do echo line $i; i=$((i+1)); done")
    with bench.store() as store:
        (record,) = [r for r in store.logs.list() if "while" in r.name]
        with store.logs.open(record.vertex) as file:
            assert file.read().decode() == "".join(f"line {i}\n" for i in range(3000))


def test_a_failed_steps_changes_are_gone(bench):
    with pytest.raises(KedgeError):
        bench.build("FROM base\nRUN echo unique-mark > /x; false")
    for folder, _, files in os.walk(bench.root):
        for name in files:
            if "kedge.db" not in name:
                with open(os.path.join(folder, name), "rb") as file:
                    assert file.read(20) != b"unique-mark\n"


def test_sixteen_stages_run_side_by_side(bench):
    meet = "RUN --mount=type=cache,target=/m touch /m/{0}; until test $(ls /m | wc -l) = 16; do sleep 0.1; done"
    text = "".join(f"FROM base AS s{n}\n{meet.format(n)}; echo {n} > /n\n" for n in range(16))
    text += "FROM scratch\n" + "".join(f"COPY --from=s{n} /n /{n}\n" for n in range(16))
    bench.build(text, tags=("x",))  # each waits for all others
    assert len(bench.listing("x")) == 16


def test_max_parallelism_limits_running_steps(bench):
    text = "".join(
        f"FROM base AS s{n}\nRUN --mount=type=cache,target=/c mkdir /c/one && sleep 0 && rmdir /c/one # {n}\n"
        for n in range(4)
    )
    text += "FROM scratch\n" + "".join(f"COPY --from=s{n} /etc/passwd /{n}\n" for n in range(4))
    bench.build(text, max_parallelism=1)


def test_no_thread_is_left_behind(bench):
    before = threading.active_count()
    bench.build("FROM base\nRUN true")
    assert threading.active_count() == before


def test_a_device_is_there_when_allowed(bench, monkeypatch, tmp_path):
    import json

    from kedge.operations import devices

    node = {"path": "/dev/mine", "hostPath": "/dev/zero"}
    spec = {"kind": "kedge.test/zero", "devices": [{"name": "one", "containerEdits": {"deviceNodes": [node]}}]}
    (tmp_path / "x.json").write_text(json.dumps(spec))
    monkeypatch.setattr(devices.edits_for, "__defaults__", ([tmp_path],))
    text = "FROM base\nRUN --device=kedge.test/zero=one head -c 3 /dev/mine | wc -c"
    with pytest.raises(KedgeError, match="entitlement"):
        bench.build(text)
    bench.build(text, entitlements=("device",))
    assert output(bench) == "3\n"


def test_labels_and_annotations_of_an_image_ask_for_nothing(bench, monkeypatch, tmp_path):
    """CVE-2026-53488, CVE-2026-53492: what an image says of itself starts nothing and brings no device."""
    import json

    from kedge.operations import devices

    edits = {"deviceNodes": [{"path": "/dev/mine", "hostPath": "/dev/zero"}], "env": ["STOLEN=yes"]}
    spec = {"kind": "kedge.test/zero", "devices": [{"name": "one", "containerEdits": edits}]}
    (tmp_path / "x.json").write_text(json.dumps(spec))
    monkeypatch.setattr(devices.edits_for, "__defaults__", ([tmp_path],))
    asking = "LABEL cdi.k8s.io/gpu=kedge.test/zero=one devices.cdi=kedge.test/zero=one security.insecure=true"
    bench.build(f"FROM base\n{asking}\nENV CDI_DEVICES=kedge.test/zero=one\n", tags=("asking",))
    bench.build("FROM asking\nRUN ls /dev; env; grep Seccomp: /proc/self/status", entitlements=("device",))
    said = output(bench)
    assert "mine" not in said
    assert "STOLEN" not in said
    assert "Seccomp:\t2" in said
