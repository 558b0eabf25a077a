"""RUN --mount: every option of every type, and nothing but those."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.dockerfile.mounts import RunMount, mount_stage, parse_mount, split_fields
from kedge.model.errors import DockerfileError


def mount(text: str) -> RunMount:
    return parse_mount(text, lambda word: word)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("target=/x", RunMount("bind", target="/x", readonly=True)),
        ("type=bind,from=a,source=s,target=/x,rw", RunMount("bind", "a", "s", "/x", False)),
        ("TYPE=Bind,src=s,dst=/x,ro=false", RunMount("bind", "", "s", "/x", False)),
        ("type=bind,destination=/x,readwrite=false", RunMount("bind", target="/x", readonly=True)),
        (
            "type=cache,target=/c,id=i,sharing=locked,mode=0700,uid=1,gid=2",
            RunMount("cache", target="/c", readonly=False, id="i", sharing="locked", mode=0o700, uid=1, gid=2),
        ),
        ("type=cache,target=/c,readonly", RunMount("cache", target="/c", readonly=True)),
        ("type=tmpfs,target=/t,size=64m", RunMount("tmpfs", target="/t", readonly=False, size=64 << 20)),
        ("type=secret,id=s,env=TOKEN", RunMount("secret", id="s", readonly=True, env="TOKEN")),
        (
            "type=secret,id=s,target=/s,required,mode=0440,uid=5,gid=6",
            RunMount("secret", target="/s", id="s", readonly=True, required=True, mode=0o440, uid=5, gid=6),
        ),
        ("type=ssh,id=git,required=true", RunMount("ssh", id="git", readonly=True, required=True)),
        ("type=ssh", RunMount("ssh", readonly=True)),
        ('"target=/with,comma","source=a ""b"""', RunMount("bind", "", 'a "b"', "/with,comma", True)),
    ],
)
def test_mounts_are_read(text: str, wanted: RunMount) -> None:
    assert mount(text) == wanted


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("type=bind,target=/x,bind-propagation=rshared", "unknown mount option 'bind-propagation'", "Options are"),
        ("target=/x,relabel=shared", "unknown mount option 'relabel'", ""),
        ("type=cahce,target=/x", "unsupported type 'cahce'", "cache"),
        ("type=bind,taget=/x", "unknown mount option 'taget'", "target"),
        ("type=bind,tagret", "expected key=value", "target"),
        ("type=bind,target", "'target' needs a value", ""),
        ("type=cache,target=/x,sharing=lockd", "unsupported sharing 'lockd'", "locked"),
        ("type=bind,target=/x,sharing=locked", "sharing is not for mounts of type bind", ""),
        ("type=bind,target=/x,mode=0700", "mode is not for mounts of type bind", ""),
        ("type=tmpfs,target=/x,uid=1", "uid is not for mounts of type tmpfs", ""),
        ("type=bind,target=/x,size=1m", "not for mounts of type bind", "type=tmpfs"),
        ("required,type=secret,id=x", "not for mounts of type bind", "type"),
        ("type=cache,target=/x,required", "not for mounts of type cache", ""),
        ("type=cache,target=/x,mode=999", "invalid value '999' for mount option 'mode'", ""),
        ("type=cache,target=/x,uid=-1", "invalid value '-1'", ""),
        ("type=cache,target=/x,uid=4294967296", "invalid value '4294967296'", ""),
        ("type=cache,target=/x,uid=+0", "invalid value '+0'", ""),
        ("type=cache,target=/x,uid=\u0661", "invalid value", ""),
        ("type=bind,target=/x,ro=maybe", "invalid value 'maybe'", ""),
        ("type=secret", "needs an id or a target", ""),
        ("type=secret,id=a,source=b", "not both", ""),
        ("type=secret,id=a,from=b", "has no from", ""),
        ("type=ssh,source=a", "has no source", ""),
        ("type=tmpfs,target=/x,size=big", "invalid size 'big'", ""),
        ('target="/x"', "stands inside", ""),
        ('"target=/x', "does not end properly", ""),
        ('"target=/x"y', "does not end properly", ""),
        ("", "at least one option", ""),
        ("target=/x,", "expected key=value", ""),
    ],
)
def test_what_is_not_listed_is_refused(text: str, message: str, hint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        mount(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_values_are_expanded_and_keys_are_not() -> None:
    found = parse_mount("type=cache,target=$D,id=$D", lambda word: word.replace("$D", "/d"))
    assert (found.target, found.id) == ("/d", "/d")
    with pytest.raises(DockerfileError):
        parse_mount("$D=/x", lambda word: word.replace("$D", "target"))


def test_the_stage_of_a_mount_is_known_before_variables_are() -> None:
    assert mount_stage("type=$T,from=build,target=$X") == "build"
    assert mount_stage("type=tmpfs,target=/x") == ""
    with pytest.raises(DockerfileError, match="cannot have variables"):
        mount_stage("from=${STAGE},target=/x")


KEYS = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "ro",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
]
VALUES = [
    "bind",
    "cache",
    "tmpfs",
    "secret",
    "ssh",
    "/x",
    "../..",
    "true",
    "0",
    "0755",
    "64m",
    "locked",
    "\0",
    '"',
    "$X",
]
options = st.lists(st.tuples(st.sampled_from([*KEYS, "env", "gid", "x"]), st.sampled_from(VALUES)), max_size=6)


@given(st.one_of(st.text(max_size=60), options.map(lambda o: ",".join(f"{k}={v}" for k, v in o))))
def test_any_text_is_a_mount_or_an_error_of_ours(text: str) -> None:
    with suppress(DockerfileError):
        mount_stage(text)
        mount(text)


@given(st.lists(st.text(alphabet='ab",= \n', max_size=8), min_size=1, max_size=5))
def test_fields_survive_quoting(fields: list[str]) -> None:
    text = ",".join('"' + field.replace('"', '""') + '"' for field in fields)
    assert split_fields(text) == fields
