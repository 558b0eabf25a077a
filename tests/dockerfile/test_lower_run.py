"""RUN: the Exec vertex, its command line, environment and mounts."""

from collections.abc import Callable
from typing import Any

import pytest

from kedge.model import ops
from kedge.model.errors import DockerfileError
from kedge.model.image import ImageConfig
from kedge.model.ops import NO_INPUT, NO_OUTPUT, Exec, File, MakeDir, MakeFile, Mount, Owner
from kedge.model.platform import Platform

Lower = Callable[..., Any]
AMD = Platform("linux", "amd64")


def run(lowered: Lower, text: str, **options: Any) -> Exec:
    """The Exec of the last RUN of a text that starts from an image."""
    op = lowered(f"FROM a\n{text}\n", **options).top.op
    assert isinstance(op, Exec)
    return op


def mounts(lowered: Lower, line: str, before: str = "", **options: Any) -> list[Mount]:
    return list(run(lowered, f"{before}RUN {line} x", **options).mounts[1:])


# ---- command line ----------------------------------------------------------------------------------------------------


def test_the_shell_form_goes_to_the_shell(lowered: Lower) -> None:
    result = lowered("FROM a\nRUN echo  'hi'\n")
    assert result.top.op == Exec(("/bin/sh", "-c", "echo  'hi'"), (Mount("/", 0, 0),), env=("PATH=/bin",))
    assert result.top.platform == AMD
    assert result.history == ["RUN /bin/sh -c echo  'hi' # buildkit"]


def test_the_exec_form_goes_as_it_is(lowered: Lower) -> None:
    result = lowered('FROM a\nRUN ["echo", "$HOME"]\n')
    assert result.top.op.args == ("echo", "$HOME")
    assert result.history == ["RUN echo $HOME # buildkit"]


def test_shell_changes_the_shell(lowered: Lower) -> None:
    result = lowered('FROM a\nSHELL ["/bin/bash", "-eo", "pipefail", "-c"]\nRUN x\n')
    assert result.top.op.args == ("/bin/bash", "-eo", "pipefail", "-c", "x")
    assert result.history == ["SHELL [/bin/bash -eo pipefail -c]", "RUN /bin/bash -eo pipefail -c x # buildkit"]


def test_the_shell_of_the_base_image_counts(lowered: Lower) -> None:
    base = ImageConfig(AMD, shell=("ash",))
    assert lowered("FROM a\nRUN x\n", {"docker.io/library/a:latest": base}).top.op.args == ("ash", "x")


def test_a_heredoc_alone_is_the_script(lowered: Lower) -> None:
    result = lowered("FROM a\nRUN <<-EOF\n\techo one\n\techo $two\n\tEOF\n")
    assert result.top.op.args == ("/bin/sh", "-c", "echo one\necho $two\n")
    assert result.top.hints.name == "[2/2] RUN <<-EOF (echo one...)"
    assert result.history == ["RUN /bin/sh -c echo one\necho $two\n # buildkit"]


def test_a_heredoc_with_a_command_goes_to_the_shell_again(lowered: Lower) -> None:
    op = run(lowered, "RUN cat <<A - <<B > /f\none\nA\ntwo\nB\n")
    assert op.args == ("/bin/sh", "-c", "cat <<A - <<B > /f\none\nA\ntwo\nB")


def test_a_heredoc_with_an_interpreter_is_a_file_that_runs(lowered: Lower) -> None:
    result = lowered("FROM a\nRUN <<script\n#!/usr/bin/env python3\nprint(1)\nscript\n")
    assert result.top.op.args == ("/bin/sh", "-c", "/dev/pipes/script")
    assert result.top.op.mounts[1] == Mount("/dev/pipes", 1, NO_OUTPUT, readonly=True)
    assert result.top.inputs[1].vertex.op == File(
        (MakeFile("/script", b"#!/usr/bin/env python3\nprint(1)\n", 0o755, input=NO_INPUT),)
    )


def test_run_on_nothing_has_no_input(lowered: Lower) -> None:
    result = lowered('FROM scratch\nRUN ["/x"]\n')
    assert result.top.op.mounts == (Mount("/", NO_INPUT, 0),)
    assert result.top.inputs == ()


# ---- environment -----------------------------------------------------------------------------------------------------


def test_steps_see_variables_in_the_order_of_their_last_change(lowered: Lower) -> None:
    assert run(lowered, "ENV A=1 B=2\nARG C=3\nENV A=4\nRUN x").env == ("PATH=/bin", "B=2", "C=3", "A=4")


def test_build_arguments_are_in_the_history_of_steps(lowered: Lower) -> None:
    result = lowered("FROM a\nARG V=1 W\nENV V=2\nRUN x\n", build_args={"W": "3"})
    assert result.history[-1] == "RUN |2 V=2 W=3 /bin/sh -c x # buildkit"


def test_working_directory_and_user_are_those_of_the_moment(lowered: Lower) -> None:
    op = run(lowered, "WORKDIR /a\nWORKDIR b\nUSER me:us\nRUN x\nRUN y")
    assert (op.cwd, op.user) == ("/a/b", "me:us")


def test_the_base_image_gives_directory_user_and_environment(lowered: Lower) -> None:
    base = ImageConfig(AMD, env=("X=1",), user="me", working_dir="/home/me")
    op = lowered("FROM a\nRUN x\n", {"docker.io/library/a:latest": base}).top.op
    assert (op.cwd, op.user) == ("/home/me", "me")
    assert op.env == ("X=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def test_proxies_reach_steps_without_being_declared(lowered: Lower) -> None:
    op = run(lowered, "RUN x", build_args={"HTTP_PROXY": "http://p", "no_proxy": "x", "OTHER": "y"})
    assert op.proxy_env == (
        ("HTTP_PROXY", "http://p"), ("NO_PROXY", "x"), ("http_proxy", "http://p"), ("no_proxy", "x"),
    )  # fmt: skip
    assert op.env == ("PATH=/bin",)


def test_options_of_the_build_reach_steps(lowered: Lower) -> None:
    limit = ops.Ulimit("nofile", 1, 2)
    op = run(
        lowered, "RUN x", hostname="h", network="host", add_hosts=(("db", "10.0.0.1"),), ulimits=(limit,),
        shm_size=1 << 20, cgroup_parent="/kedge", devices=(("gpu", True),),
    )  # fmt: skip
    assert (op.hostname, op.network, op.extra_hosts, op.ulimits) == ("h", "host", (("db", "10.0.0.1"),), (limit,))
    assert (op.shm_size, op.cgroup_parent, op.devices) == (1 << 20, "/kedge", (("gpu", True),))


def test_the_host_name_may_be_a_build_argument(lowered: Lower) -> None:
    assert run(lowered, "RUN x", build_args={"BUILDKIT_SANDBOX_HOSTNAME": "box"}).hostname == "box"


@pytest.mark.parametrize(("word", "network"), [("default", "none"), ("none", "none"), ("host", "host")])
def test_network_of_a_step_wins_over_that_of_the_build(lowered: Lower, word: str, network: str) -> None:
    assert run(lowered, f"RUN --network={word} x", network="none").network == network


def test_security_and_devices_of_a_step(lowered: Lower) -> None:
    op = run(lowered, "RUN --security=insecure --device=a/b=c,required --device=d x")
    assert op.security == "insecure"
    assert op.devices == (("a/b=c", False), ("d", True))


# ---- mounts ----------------------------------------------------------------------------------------------------------


def test_bind_shows_the_context(lowered: Lower) -> None:
    result = lowered("FROM a\nWORKDIR /w\nRUN --mount=source=go.mod,target=go.mod x\n")
    assert result.top.op.mounts[1] == Mount("/w/go.mod", 1, selector="/go.mod", readonly=True)
    assert dict(result.top.inputs[1].vertex.op.attrs)["local.followpaths"] == '["go.mod"]'


def test_a_writable_bind_is_thrown_away(lowered: Lower) -> None:
    (mount,) = mounts(lowered, "--mount=target=/src,rw")
    assert (mount.readonly, mount.output) == (False, NO_OUTPUT)


def test_bind_shows_a_stage_or_an_image(lowered: Lower) -> None:
    text = "FROM b AS tools\nRUN make\nFROM a\n"
    text += "RUN --mount=from=tools,target=/t --mount=from=busybox,source=bin,target=/b x\n"
    result = lowered(text)
    assert result.top.op.mounts[1:] == (
        Mount("/b", 1, selector="/bin", readonly=True),
        Mount("/t", 2, readonly=True),
    )
    assert [edge.vertex.hints.name for edge in result.top.inputs[1:]] == [
        "FROM docker.io/library/busybox:latest",
        "[tools 2/2] RUN make",
    ]


def test_equal_trees_are_one_input(lowered: Lower) -> None:
    result = lowered("FROM a\nRUN --mount=from=b,target=/x --mount=from=b,source=y,target=/y x\n")
    assert len(result.top.inputs) == 2


def test_mounts_are_in_the_order_of_their_targets(lowered: Lower) -> None:
    found = mounts(lowered, "--mount=type=tmpfs,target=/z --mount=target=/a --mount=type=cache,target=/m")
    assert [mount.dest for mount in found] == ["/a", "/m", "/z"]


def test_cache_mounts_are_known_by_id_or_target(lowered: Lower) -> None:
    first, second = mounts(
        lowered, "--mount=type=cache,target=/root/.cache --mount=type=cache,id=go,sharing=locked,target=/x,ro"
    )
    assert first == Mount("/root/.cache", kind="cache", cache=ops.CacheOptions("//root/.cache"))
    assert second == Mount("/x", kind="cache", readonly=True, cache=ops.CacheOptions("/go", "locked"))


def test_cache_mounts_may_have_a_namespace(lowered: Lower) -> None:
    (mount,) = mounts(lowered, "--mount=type=cache,target=/x,id=i", build_args={"BUILDKIT_CACHE_MOUNT_NS": "ns"})
    assert mount.cache == ops.CacheOptions("ns/i")


def test_cache_mounts_may_have_an_owner(lowered: Lower) -> None:
    result = lowered("FROM a\nRUN --mount=type=cache,target=/x,uid=5,mode=0700 x\n")
    assert result.top.op.mounts[1].selector == "/cache"
    vertex = result.top.inputs[1].vertex
    assert vertex.op == File((MakeDir("/cache", 0o700, input=NO_INPUT, owner=Owner(5, 0)),))
    assert vertex.hints.name == "[internal] setting cache mount permissions"


def test_a_cache_mount_may_start_from_a_stage(lowered: Lower) -> None:
    result = lowered("FROM b AS seed\nFROM a\nRUN --mount=type=cache,from=seed,source=/s,target=/x x\n")
    mount = result.top.op.mounts[1]
    assert (mount.kind, mount.input, mount.selector) == ("cache", 1, "/s")


def test_tmpfs_needs_no_context(lowered: Lower) -> None:
    text = "FROM a\nCOPY f /\nRUN --mount=type=tmpfs,target=/t,size=1m x\n"
    result = lowered(text)
    assert result.top.op.mounts[1] == Mount("/t", kind="tmpfs", tmpfs=ops.TmpfsOptions(1 << 20))
    context = result.by_name["[internal] load build context"]
    assert dict(context.op.attrs)["local.followpaths"] == '["f"]'


def test_secrets_are_files_or_variables(lowered: Lower) -> None:
    result = lowered(
        "FROM a\nRUN --mount=type=secret,id=one --mount=type=secret,target=/etc/two,required,uid=5 "
        "--mount=type=secret,id=three,env=TOKEN --mount=type=secret,id=four,env=FOUR,target=/four,mode=0444 x $TOKEN\n"
    )
    assert result.top.op.mounts[1:] == (
        Mount("/run/secrets/one", kind="secret", secret=ops.SecretOptions("one", optional=True)),
        Mount("/etc/two", kind="secret", secret=ops.SecretOptions("two", uid=5)),
        Mount("/four", kind="secret", secret=ops.SecretOptions("four", mode=0o444, optional=True)),
    )
    assert result.top.op.secret_env == (ops.SecretEnv("three", "TOKEN", True), ops.SecretEnv("four", "FOUR", True))
    assert result.top.hints.name.endswith("x ****")
    assert [(use.id, use.required) for use in result.target.secrets] == [
        ("four", False), ("one", False), ("three", False), ("two", True),
    ]  # fmt: skip


def test_agents_have_sockets_and_a_variable(lowered: Lower) -> None:
    op = run(lowered, "RUN --mount=type=ssh --mount=type=ssh,id=git,required,target=/s,uid=1 x")
    assert op.mounts[1:] == (
        Mount("/run/buildkit/ssh_agent.0", kind="ssh", ssh=ops.SshOptions(optional=True)),
        Mount("/s", kind="ssh", ssh=ops.SshOptions("git", uid=1)),
    )
    assert op.env[-1] == "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"


def test_mount_values_may_have_variables(lowered: Lower) -> None:
    (mount,) = mounts(lowered, "--mount=type=$T,target=/$D/x,id=$D", before="ARG T=cache D=dir\n")
    assert (mount.kind, mount.dest, mount.cache) == ("cache", "/dir/x", ops.CacheOptions("/dir"))


def test_what_a_stage_shows_is_all_of_it_once_a_process_ran(lowered: Lower) -> None:
    result = lowered("FROM data AS d\nRUN ls\nFROM scratch\nCOPY --from=d /f /\n", contexts={"data": "local:data"})
    assert dict(result.by_name["[context data] load from client"].op.attrs) == {"local.sharedkeyhint": "context:data-"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RUN --mount=type=bind,target=/x,bind-propagation=rshared x", "unknown mount option 'bind-propagation'"),
        ("RUN --mount=type=bnid,target=/x x", "unsupported type 'bnid'"),
        ("RUN --mount=target=/ x", "invalid mount target"),
        ("RUN --mount=source=x x", "invalid mount target"),
        ("RUN --mount=type=secret x", "needs an id or a target"),
        ("RUN --mount=type=cache,target=${X:?no-X} x", "no-X"),
    ],
)
def test_mounts_that_cannot_be_are_refused_at_their_line(lowered: Lower, line: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        lowered(f"FROM a AS one\nUSER x\n{line}\n")
    assert message in caught.value.message
    assert (str(caught.value.location), caught.value.stage) == ("Dockerfile:3", "one")


def test_a_mount_of_a_later_stage_is_refused(lowered: Lower) -> None:
    with pytest.raises(DockerfileError, match="RUN from stage two before it is defined"):
        lowered("FROM a AS one\nRUN --mount=from=two,target=/x x\nFROM b AS two\n", target="one")
