"""Each instruction, from its text to its typed value; and what is refused, with the line."""

from typing import Any

import pytest

from kedge.dockerfile import instructions as i
from kedge.dockerfile.durations import duration_text, parse_duration, parse_size
from kedge.dockerfile.findings import Findings
from kedge.dockerfile.history import healthcheck_text, quoted, quoted_list
from kedge.dockerfile.stages import read_dockerfile
from kedge.model.errors import DockerfileError
from kedge.model.image import Healthcheck

SECOND = 10**9


def only(line: str) -> Any:
    """The one instruction behind FROM."""
    return read_dockerfile(f"FROM scratch\n{line}\n").stages[0].commands[0]


def fields(typed: Any, *names: str) -> list[Any]:
    return [getattr(typed, name) for name in names]


def test_from_has_base_stage_and_platform() -> None:
    file = read_dockerfile("FROM --platform=$BUILDPLATFORM golang:1.25 AS Build\n")
    source = file.stages[0].source
    assert fields(source, "base", "stage", "platform", "stage_as_written", "as_word") == [
        "golang:1.25", "build", "$BUILDPLATFORM", "Build", "AS",
    ]  # fmt: skip


def test_arg_has_defaults_and_comments() -> None:
    file = read_dockerfile("# VERSION which one to build\nARG VERSION=1 EMPTY= NONE\nFROM scratch\n")
    assert file.args[0].args == (
        i.ArgEntry("VERSION", "1", "which one to build"),
        i.ArgEntry("EMPTY", ""),
        i.ArgEntry("NONE"),
    )


@pytest.mark.parametrize("word", ["ENV", "LABEL"])
def test_pairs_are_read_in_both_forms(word: str) -> None:
    assert only(f'{word} a=1 b="two words"').pairs == (i.Pair("a", "1"), i.Pair("b", '"two words"'))
    assert only(f"{word} a some text").pairs == (i.Pair("a", "some text", legacy=True),)


def test_copy_has_all_its_flags() -> None:
    copy = only("COPY --from=build --chown=1:2 --chmod=755 --link --parents --exclude=*.md --exclude=*.txt a b /dest/")
    assert copy == i.Copy(
        copy.word, copy.text, copy.location, copy.comments,
        ("a", "b"), (), "/dest/", "build", "1:2", "755", True, True, ("*.md", "*.txt"),
    )  # fmt: skip


def test_copy_takes_json_for_names_with_blanks() -> None:
    assert fields(only('COPY ["a b", "/c d/"]'), "sources", "dest") == [("a b",), "/c d/"]


def test_boolean_flags_take_true_and_false() -> None:
    assert [only(f"COPY {flag} a b").link for flag in ("--link", "--link=true", "--link=False")] == [True, True, False]


def test_add_knows_what_was_not_said() -> None:
    assert fields(only("ADD a b"), "unpack", "keep_git_dir") == [None, None]
    assert fields(only("ADD --unpack=false --keep-git-dir a b"), "unpack", "keep_git_dir") == [False, True]
    assert only("ADD --checksum=sha256:0 https://x/y /").checksum == "sha256:0"


def test_copy_takes_heredocs_as_files() -> None:
    copy = only("COPY <<one.txt <<-'two' plain /dest/\nfirst $x\none.txt\n\tsecond $y\ntwo")
    assert copy.sources == ("plain",)
    assert copy.inline == (i.InlineFile("one.txt", "first $x\n"), i.InlineFile("two", "second $y\n", expand=False))


def test_run_has_shell_exec_and_heredoc_form() -> None:
    assert fields(only("RUN echo  hi"), "args", "shell") == [("echo  hi",), True]
    assert fields(only('RUN ["echo", "hi"]'), "args", "shell") == [("echo", "hi"), False]
    run = only("RUN <<EOF\necho hi\nEOF")
    assert fields(run, "args", "shell", "inline") == [("<<EOF",), True, (i.InlineFile("EOF", "echo hi\n"),)]


def test_run_has_its_flags() -> None:
    run = only("RUN --mount=type=cache,target=/c --mount=type=ssh --network=none --security=insecure --device=a/b=c x")
    assert fields(run, "mounts", "network", "security", "devices") == [
        ("type=cache,target=/c", "type=ssh"), "none", "insecure", (i.Device("a/b=c"),),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("vendor1.com/device=foo", i.Device("vendor1.com/device=foo")),
        ("vendor1.com/device", i.Device("vendor1.com/device")),
        ("vendor1.com/device=foo,required", i.Device("vendor1.com/device=foo", True)),
        ("vendor1.com/device=foo,required=false", i.Device("vendor1.com/device=foo", False)),
        ("name=vendor1.com/device=foo,required=true", i.Device("vendor1.com/device=foo", True)),
    ],
)
def test_devices_are_named_by_cdi(text: str, device: i.Device) -> None:
    assert only(f"RUN --device={text} x").devices == (device,)


def test_commands_have_two_forms() -> None:
    assert fields(only("CMD run me"), "args", "shell") == [("run me",), True]
    assert fields(only('ENTRYPOINT ["run", "me"]'), "args", "shell") == [("run", "me"), False]
    assert fields(only("ENTRYPOINT []"), "args", "shell") == [None, False]


def test_small_instructions() -> None:
    assert only('SHELL ["/bin/bash", "-c"]').args == ("/bin/bash", "-c")
    assert only("WORKDIR /a b").path == "/a b"
    assert only("USER me:us").user == "me:us"
    assert only("EXPOSE 90 80/udp 8000-8001").ports == ("80/udp", "8000-8001", "90")
    assert only("VOLUME /a /b").paths == ("/a", "/b")
    assert only('VOLUME ["/a b"]').paths == ("/a b",)
    assert only("STOPSIGNAL SIGINT").signal == "SIGINT"
    assert only("MAINTAINER A. Person").maintainer == "A. Person"


def test_healthcheck_has_all_options() -> None:
    line = "HEALTHCHECK --interval=5m --timeout=3s --start-period=1.5s --start-interval=100ms --retries=4 CMD curl -f x"
    times = (300 * SECOND, 3 * SECOND, SECOND * 3 // 2, SECOND // 10)
    assert only(line).health == Healthcheck(("CMD-SHELL", "curl -f x"), *times, 4)
    assert only('HEALTHCHECK CMD ["a", "b"]').health == Healthcheck(("CMD", "a", "b"))
    assert only("HEALTHCHECK none").health == Healthcheck(("NONE",))


def test_onbuild_keeps_its_trigger_as_text() -> None:
    assert only("onbuild  COPY --from=x a b").trigger == "COPY --from=x a b"
    assert only("ONBUILD RUN <<EOF\necho hi\nEOF").trigger == "RUN <<EOF\necho hi\nEOF"


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("COPPY a b", "unknown instruction COPPY", "COPY"),
        ("COPY --form=x a b", "unknown flag --form for COPY", "--from"),
        ("COPY --chwon=x a b", "unknown flag --chwon for COPY", "--chown"),
        ("RUN --netwrok=none x", "unknown flag --netwrok for RUN", "--network"),
        ("RUN --network=hots x", "invalid value 'hots' for --network", "host"),
        ("RUN --security=none x", "invalid value 'none' for --security", "sandbox"),
        ("ADD --from=x a b", "unknown flag --from for ADD", ""),
        ("USER --x=1 me", "unknown flag --x for USER", "no flags"),
        ("COPY --link=maybe a b", "either true or false", ""),
        ("COPY --link= a b", "either true or false", ""),
        ("COPY --chown a b", "--chown has no value", ""),
        ("COPY --chown=1 --chown=2 a b", "--chown is given twice", ""),
        ("COPY a", "at least one source and a destination", ""),
        ("COPY a <<EOF\nx\nEOF", "cannot have a heredoc as destination", ""),
        ("RUN --mount=from=$X,target=/x x", "'from' of a mount cannot have variables", "stage"),
        ("RUN --device=a,b=c x", "unknown device option 'b=c'", ""),
        ("ARG", "ARG needs at least one argument", ""),
        ("ARG =x", "blank name", ""),
        ("ENV =x", "blank name", ""),
        ("LABEL", "at least one argument", ""),
        ("SHELL /bin/bash -c", "JSON form", "SHELL ["),
        ("SHELL []", "at least one argument", ""),
        ("RUN []", "RUN needs a command", ""),
        ('VOLUME [" "]', "cannot be an empty string", ""),
        ("EXPOSE", "at least one argument", ""),
        ("WORKDIR", "exactly one argument", ""),
        ("HEALTHCHECK", "at least one argument", ""),
        ("HEALTHCHECK NONE x", "takes no arguments", ""),
        ("HEALTHCHECK CMD", "needs a command", ""),
        ("HEALTHCHECK PING x", "unknown healthcheck", "CMD or NONE"),
        ("HEALTHCHECK --interval=1 CMD x", "invalid duration '1'", "30s"),
        ("HEALTHCHECK --interval=1us CMD x", "less than 1ms", ""),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries is a number", ""),
        ("HEALTHCHECK --intervall=1s CMD x", "unknown flag --intervall", "--interval"),
        ("ONBUILD", "needs an instruction", ""),
        ("ONBUILD FROM x", "FROM cannot stand behind ONBUILD", ""),
        ("ONBUILD MAINTAINER x", "MAINTAINER cannot stand behind ONBUILD", ""),
        ("ONBUILD ONBUILD RUN x", "ONBUILD cannot stand behind ONBUILD", ""),
    ],
)
def test_what_cannot_be_meant_is_refused_at_its_line(line: str, message: str, hint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        read_dockerfile(f"FROM scratch AS base\nUSER me\n{line}\n")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.location
    assert caught.value.location.start == 3
    assert caught.value.stage == "base"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUN x\nFROM scratch", "RUN stands before the first FROM"),
        ("ARG X=1", "has no stage"),
        ("FROM a b", "an image and maybe a stage name"),
        ("FROM a AS", "an image and maybe a stage name"),
        ("FROM a AS 1st", "invalid stage name '1st'"),
        ("FROM a AS x/y", "invalid stage name 'x/y'"),
        ("FROM --platfrom=x a", "unknown flag --platfrom"),
    ],
)
def test_stages_that_cannot_be_meant_are_refused(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message) as caught:
        read_dockerfile(text)
    assert caught.value.location


def test_only_the_named_check_rules_are_reported_while_reading() -> None:
    findings = Findings()
    text = "from a as Base\nMAINTAINER x\nRUN x\nUSER y\nFROM b AS base\n"
    read_dockerfile(text, findings=findings)
    assert [(finding.rule, finding.location.start) for finding in findings.found] == [
        ("StageNameCasing", 1),
        ("MaintainerDeprecated", 2),
        ("DuplicateStageName", 5),
        ("ConsistentInstructionCasing", 1),
    ]


# ---- Go's spellings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0), ("5s", 5 * SECOND), ("-5s", -5 * SECOND), ("1.5h", 5400 * SECOND), ("1h30m", 5400 * SECOND),
        ("+3ms", 3 * 10**6), ("1us", 1000), ("1µs", 1000), (".5s", SECOND // 2), ("5.s", 5 * SECOND), ("7ns", 7),
    ],
)  # fmt: skip
def test_durations_are_read(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "s", "1", "1d", "1s x", "1 s", ".s", "1e3s", "99999999999h", "--1s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(DockerfileError, match="invalid duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"), (1, "1ns"), (1100, "1.1µs"), (2200000, "2.2ms"), (3300000000, "3.3s"), (5 * 60 * SECOND, "5m0s"),
        (5 * 60 * SECOND + SECOND + 1000000, "5m1.001s"), (3600 * SECOND, "1h0m0s"), (-SECOND, "-1s"),
    ],
)  # fmt: skip
def test_durations_are_written_as_go_does(nanoseconds: int, text: str) -> None:
    assert duration_text(nanoseconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("64m", 64 << 20), ("1.5g", 3 << 29), ("1 GiB", 1 << 30), ("12", 12), ("3kb", 3072), ("7b", 7), ("2TB", 2 << 40)],
)
def test_sizes_are_binary(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1m", "1x", "1mx", "1 m m", "9999999999999p", "1bb"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(DockerfileError, match="size"):
        parse_size(text)


def test_strings_are_quoted_as_go_does() -> None:
    assert quoted('a"b\\c\n\t\x01\x7f ü\u200b') == '"a\\"b\\\\c\\n\\t\\x01\\x7f ü\\u200b"'
    assert quoted("\udcff") == '"\\xff"'
    assert quoted_list(["sh", "-c"]) == '["sh" "-c"]'
    assert quoted_list(None) == "[]"


def test_healthchecks_are_written_as_go_does() -> None:
    assert healthcheck_text(Healthcheck(("CMD", "x"), SECOND, retries=3)) == (
        "{Test:[CMD x] Interval:1s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}"
    )
