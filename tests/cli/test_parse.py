"""Command lines mean what they mean to Docker's client."""

from typing import Any

import pytest

from kedge.cli.build_flags import annotation, cache, fields, host, named_context, output, ulimit
from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.parse import UsageError, parse
from kedge.cli.spelling import parse_duration, parse_size
from kedge.model.errors import InvalidInput
from kedge.model.ops import Ulimit

FLAGS = (
    Flag("tag", "", short="t", metavar="NAME", many=True),
    Flag("file", "", short="f", metavar="PATH", default="Dockerfile"),
    Flag("interactive", "", short="i"),
    Flag("tty", "", short="y"),
    Flag("rm", "", default=True),
    Flag("memory", "", short="m", metavar="SIZE", convert=parse_size, default=0),
    Flag("progress", "", metavar="MODE", choices=("auto", "plain")),
    Flag("sbom", "", metavar="ATTRIBUTES", optional="true"),
)


def read(*words: str, interspersed: bool = True, many: bool = False) -> Options:
    arguments = (Argument("CONTEXT"), Argument("REST", many=True, optional=True)) if many else (Argument("CONTEXT"),)
    command = Command("test", "", lambda options, console: 0, FLAGS, arguments, interspersed=interspersed)
    return parse(command, list(words))


@pytest.mark.parametrize(
    ("words", "attribute", "value"),
    [
        (["-t", "a", "--tag", "b", "--tag=c", "-td", "."], "tag", ["a", "b", "c", "d"]),
        (["."], "tag", []),
        (["."], "file", "Dockerfile"),
        ([".", "-f", "-"], "file", "-"),
        (["-f=x", "."], "file", "x"),
        (["-iy", "."], "tty", True),
        (["-iyf", "x", "."], "file", "x"),
        (["--interactive=false", "."], "interactive", False),
        (["-i=true", "."], "interactive", True),
        (["."], "rm", True),
        (["--rm=0", "."], "rm", False),
        (["-m", "1g", "."], "memory", 1 << 30),
        (["--sbom", "."], "sbom", "true"),
        (["--sbom=generator=x", "."], "sbom", "generator=x"),
        (["--sbom", "form=index", "."], "sbom", "form=index"),
        (["--sbom", "false", "."], "sbom", "false"),
        (["--sbom", "--file=x", "."], "sbom", "true"),
        (["--sbom", "./a=b"], "sbom", "true"),
        (["--", "-weird"], "context", "-weird"),
        (["-"], "context", "-"),
    ],
)
def test_words_become_values(words: list[str], attribute: str, value: Any) -> None:
    assert getattr(read(*words), attribute) == value


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--tagg", "x", "."], "unknown flag: --tagg", "Did you mean --tag?"),
        (["-z", "."], "unknown shorthand flag: 'z' in -z", ""),
        (["--file"], "flag needs an argument: --file", ""),
        ([".", "-f"], "flag needs an argument: -f", ""),
        (["--rm=maybe", "."], "invalid argument 'maybe' for --rm: expected true or false", ""),
        (["--progress", "plian", "."], "invalid argument 'plian' for --progress", "Did you mean plain?"),
        (["-m", "lots", "."], "invalid argument 'lots' for --memory: 'lots' is no size", None),
        ([], "kedge test needs a CONTEXT", ""),
        ([".", "extra"], "unexpected argument 'extra'", ""),
    ],
)
def test_wrong_words_are_told(words: list[str], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        read(*words)
    assert caught.value.message == message
    assert caught.value.command == "test"
    if hint is not None:
        assert caught.value.hint == hint


def test_flags_behind_arguments_are_flags_unless_the_command_is_somebody_elses() -> None:
    assert read(".", "-t", "a").tag == ["a"]
    options = read("-t", "a", "image", "sh", "-c", "exit", "--tag", interspersed=False, many=True)
    assert (options.context, options.rest, options.tag) == ("image", ["sh", "-c", "exit", "--tag"], ["a"])


def test_help_needs_no_arguments() -> None:
    assert read("--help").help


def test_global_flags_are_understood_behind_the_command_too() -> None:
    assert read("--root", "/x", ".").root == "/x"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("out", {"type": "local", "dest": "out"}),
        ("-", {"type": "tar", "dest": "-"}),
        ("type=oci,dest=x.tar,name=a", {"type": "oci", "dest": "x.tar", "name": "a"}),
        ('type=image,"name=a,b",push=true', {"type": "image", "name": "a,b", "push": "true"}),
    ],
)
def test_outputs(text: str, value: dict[str, str]) -> None:
    assert output(text) == value


@pytest.mark.parametrize("text", ["type=zip,dest=x", "dest=x", "type=local", "type=oci,tar"])
def test_wrong_outputs(text: str) -> None:
    with pytest.raises(InvalidInput):
        output(text)


def test_a_cache_is_a_registrys_by_default() -> None:
    assert cache("app:cache") == {"type": "registry", "ref": "app:cache"}
    assert cache("type=local,src=x")["type"] == "local"


def test_hosts_of_both_families() -> None:
    assert host("db:10.0.0.7") == ("db", "10.0.0.7")
    assert host("db:::1") == ("db", "::1")
    assert host("db=[::1]") == ("db", "::1")
    assert host("me:host-gateway") == ("me", "host-gateway")
    for wrong in ("db", "db:", ":1.2.3.4", "db:nonsense"):
        with pytest.raises(InvalidInput):
            host(wrong)


def test_ulimits() -> None:
    assert ulimit("nofile=10") == Ulimit("nofile", 10, 10)
    assert ulimit("nofile=10:20") == Ulimit("nofile", 10, 20)
    assert ulimit("core=0:-1") == Ulimit("core", 0, -1)
    for wrong in ("nofile", "files=1", "nofile=2:1", "nofile=-1:5", "nofile=1:2:3", "nofile=x"):
        with pytest.raises(InvalidInput):
            ulimit(wrong)


def test_an_annotation_needs_a_value() -> None:
    assert annotation("index:a=b=c") == ("index:a", "b=c")
    assert annotation("a=") == ("a", "")
    for wrong in ("a", "=x"):
        with pytest.raises(InvalidInput):
            annotation(wrong)


def test_named_contexts_need_both_sides() -> None:
    assert named_context("base=docker-image://a:b=c") == ("base", "docker-image://a:b=c")
    for wrong in ("base", "=x", "base="):
        with pytest.raises(InvalidInput):
            named_context(wrong)


def test_fields_in_quotes_may_hold_commas_and_quotes() -> None:
    assert fields('a=1,"b=x,""y""",c=', "test") == {"a": "1", "b": 'x,"y"', "c": ""}


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("64", 64), ("1k", 1024), ("1.5g", 1610612736), ("2MiB", 2 << 20)]
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize(("text", "value"), [("1h30m", 5400), ("72h", 259200), ("500ms", 0.5), ("7d", 604800)])
def test_durations(text: str, value: float) -> None:
    assert parse_duration(text) == value


def test_a_flag_that_is_near_to_none_gets_no_suggestion() -> None:
    from kedge.cli.start import load

    with pytest.raises(UsageError) as caught:
        parse(load("build"), ["--bogus", "."])
    assert caught.value.hint == ""
    with pytest.raises(UsageError) as caught:
        parse(load("build"), ["--tagg=x", "."])
    assert caught.value.hint == "Did you mean --tag?"
