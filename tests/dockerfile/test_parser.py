"""Whole Dockerfiles: the reference's trees, directives, flags and forms, and what errors point at."""

import json
import os
from pathlib import Path

import pytest

from kedge.dockerfile.arguments import json_strings
from kedge.dockerfile.directives import find_directive, read_directives, require_own_frontend
from kedge.dockerfile.dump import dump
from kedge.dockerfile.lines import decode
from kedge.dockerfile.parser import parse
from kedge.model.errors import DockerfileError, SourceFile, Unsupported

SHARED = Path(os.environ.get("KEDGE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
CONFORMANCE = SHARED / "conformance"
MISSING = pytest.mark.skip(reason=f"no conformance data in {SHARED}; set KEDGE_SHARED")
NO_PATH = [pytest.param(None, marks=MISSING)]


def folders(name):
    found = sorted((CONFORMANCE / name).iterdir()) if SHARED.exists() else []
    return [pytest.param(folder, id=folder.name) for folder in found] or NO_PATH


def table(name, group):
    found = json.loads((CONFORMANCE / name).read_text())[group] if SHARED.exists() else []
    return [pytest.param(case, id=str(i)) for i, case in enumerate(found)] or NO_PATH


@pytest.mark.parametrize("folder", folders("parser"))
def test_the_reference_tree_comes_out(folder):
    assert dump(parse(decode((folder / "Dockerfile").read_bytes()))) == (folder / "result").read_text()


@pytest.mark.parametrize("folder", folders("parser-negative"))
def test_what_the_reference_refuses_is_refused(folder):
    with pytest.raises(DockerfileError) as caught:
        parse(decode((folder / "Dockerfile").read_bytes()))
    assert caught.value.location is not None


@pytest.mark.skipif(not SHARED.exists(), reason=f"no conformance data in {SHARED}; set KEDGE_SHARED")
def test_line_numbers_are_the_reference_s():
    expected = json.loads((CONFORMANCE / "parser-line/expected.json").read_text())
    nodes = parse((CONFORMANCE / "parser-line/Dockerfile").read_text()).nodes
    assert [[node.location.start, node.location.end] for node in nodes] == expected["children"]
    assert [nodes[0].location.start, nodes[-1].location.end] == expected["ast"]


real_files = sorted((SHARED / "dockerfiles").glob("*.Dockerfile")) if SHARED.exists() else []


@pytest.mark.parametrize("path", [pytest.param(p, id=p.name) for p in real_files] or NO_PATH)
def test_dockerfiles_of_real_projects_parse(path):
    file = parse(decode(path.read_bytes()), path.name)
    assert any(node.name == "FROM" for node in file.nodes)


# ---- directives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", table("parser-extra/directives.json", "cases"))
def test_directives_are_read_alike(case):
    text = case["text"]
    source = SourceFile("Dockerfile", text)
    syntax, check = find_directive(source, "syntax"), find_directive(source, "check")
    assert (syntax.word if syntax else None) == case["syntax"]
    if case["escape"] is None and "parse_error" not in case:
        # The table's own rule has a null escape only for texts that do not parse, and this one does: its nulls are no
        # facts. BuildKit's own test of this very text finds the check.
        assert check is not None
        assert check.value == "skip=all"
        assert parse(text).escape == "\\"
    else:
        assert (check.word if check else None) == case["check"]
    if case.get("directives_error"):
        with pytest.raises(DockerfileError):
            read_directives(source)
    else:
        assert [[d.name, d.value] for d in read_directives(source)] == case["directives"]
    if case.get("parse_error"):
        with pytest.raises(DockerfileError):
            parse(text)
    elif case["escape"] is not None:
        assert parse(text).escape == case["escape"]


def test_directives_are_no_comments_of_the_first_instruction():
    file = parse("# syntax=docker/dockerfile:1\n# check=skip=all\n# base image\nFROM x\n")
    assert file.nodes[0].comments == ("base image",)
    assert [(d.name, d.location.start) for d in file.directives] == [("syntax", 1), ("check", 2)]


@pytest.mark.parametrize(
    "image",
    [
        "docker/dockerfile:1",
        "docker/dockerfile:1.7-labs",
        "docker.io/docker/dockerfile",
        "docker/dockerfile-upstream:master",
        "mirror.example.com/hub/docker/dockerfile:1.2@sha256:" + "0" * 64,
    ],
)
def test_docker_s_own_frontends_are_served(image):
    require_own_frontend(find_directive(SourceFile("Dockerfile", f"# syntax={image} opts\nFROM x"), "syntax"))


@pytest.mark.parametrize("image", ["myfrontend", "docker/dockerfile-x", "evil/dockerfile:1", "xdocker/dockerfile"])
def test_another_frontend_is_a_clear_error(image):
    with pytest.raises(Unsupported, match=image) as caught:
        require_own_frontend(find_directive(SourceFile("Dockerfile", f"# syntax={image}\nFROM x"), "syntax"))
    assert caught.value.location.start == 1
    assert "docker/dockerfile:1" in caught.value.hint


# ---- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", table("parser-extra/words.json", "json_arrays"))
def test_json_arrays_are_told_from_shell_text(case):
    if case.get("error"):
        with pytest.raises(DockerfileError):
            json_strings(case["text"])
    else:
        found = json_strings(case["text"])
        assert (found is not None) == case["json"]
        assert list(found or ()) == case.get("values", [])


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ('["\\ud83d\\ude00", "\\ud800"]', ("😀", "\ufffd")),
        ("[" * 100_000, None),
        ('["a", NaN]', None),
        ("[1" + "0" * 10_000 + "]", None),
        ("[1e999]", None),
        ("[1e99]", "error"),
    ],
)
def test_odd_json_is_read_as_go_reads_it(text, members):
    if members == "error":
        with pytest.raises(DockerfileError):
            json_strings(text)
    else:
        assert json_strings(text) == members


@pytest.mark.parametrize("case", table("parser-extra/words.json", "name_values"))
def test_names_and_values_are_read_alike(case):
    text = "FROM x\n" + case["text"]
    if case["values"] is None:
        with pytest.raises(DockerfileError):
            parse(text)
    else:
        assert [list(pair) for pair in parse(text).nodes[1].pairs] == case["values"]


@pytest.mark.parametrize(
    ("line", "flags", "args"),
    [
        ("COPY --from=a --link b c", ("--from=a", "--link"), "b c"),
        ("COPY -- --b c", (), "--b c"),
        ("COPY --x --", ("--x",), ""),
        ('RUN --mount=type=secret,id="a b" x', ("--mount=type=secret,id=a b",), "x"),
        ("RUN --a='b\"c' d", ('--a=b"c',), "d"),
        ("RUN --a=b\\ c d", ("--a=b c",), "d"),
        ("RUN --a='b\\'c' d", ("--a=b'c",), "d"),
        ("RUN --a='b c", ("--a=b c",), ""),
        ("RUN -a --b", (), "-a --b"),
        ("RUN --a=é b", ("--a=é",), "b"),
        ("RUN --a\\\\", ("--a\\",), ""),
        ("RUN --a='b'\"c\" --'d'", ("--a=bc", "--d"), ""),
    ],
)
def test_flags_end_where_the_arguments_begin(line, flags, args):
    node = parse("FROM x\n" + line + "\n").nodes[1]
    assert (node.flags, node.args) == (flags, args)


def test_instructions_keep_their_words():
    nodes = parse('from x AS y\nARG a="b c" d\nEXPOSE 80 81/udp\nUSER a b\nHEALTHCHECK --retries=1 CMD ["x"]\n').nodes
    assert [node.name for node in nodes] == ["FROM", "ARG", "EXPOSE", "USER", "HEALTHCHECK"]
    assert nodes[0].keyword == "from"
    assert [node.values for node in nodes] == [
        ("x", "AS", "y"),
        ('a="b c"', "d"),
        ("80", "81/udp"),
        ("a b",),
        ("CMD", "x"),
    ]
    assert nodes[4].json
    assert nodes[4].flags == ("--retries=1",)


def test_onbuild_holds_its_instruction_and_no_second_onbuild():
    node = parse("FROM x\nONBUILD COPY --link a b\n").nodes[1]
    assert (node.child.name, node.child.flags, node.child.values) == ("COPY", ("--link",), ("a", "b"))
    chained = parse("FROM x\n" + "ONBUILD " * 5_000 + "RUN x\n").nodes[1]
    assert chained.child.name == "ONBUILD"
    assert chained.child.child is None


def test_comments_above_reach_up_to_an_empty_comment():
    nodes = parse("# old\n#\n# a\n\n# b\nFROM x\n# c\nRUN y \\\n# inside\n z\nRUN w\n").nodes
    assert [node.comments for node in nodes] == [("a", "b"), ("c",), ()]


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("FROM x\nENV a\n", 2, "two arguments"),
        ("FROM x\nENV a=b c\n", 2, "can't find = in 'c'"),
        ("FROM x\n\nRUN <<EOF\nx\n", 3, "heredoc EOF is not ended"),
        ('FROM x\nCMD ["a", 1]\n', 2, "strings only"),
        ("# escape=x\nFROM x\n", 1, "escape character"),
        ("# syntax=a\n# syntax=b\nFROM x\n", 2, "only one syntax"),
        ("FROM x\nRUN a \\\n" + "b" * 65_536 + "\n", 3, "longer than 65535 bytes"),
        ("", 1, "no instructions"),
    ],
)
def test_errors_point_at_their_line(text, line, message):
    with pytest.raises(DockerfileError, match=message) as caught:
        parse(text, "my.Dockerfile")
    assert caught.value.location.start == line
    assert str(caught.value.location) == f"my.Dockerfile:{line}"


def test_a_value_with_blanks_gets_a_hint_how_to_quote_it():
    with pytest.raises(DockerfileError) as caught:
        parse("FROM x\nLABEL title=My image\n")
    assert 'title="My image"' in caught.value.hint


def test_a_fault_is_located_by_line_and_columns():
    node = parse("FROM x\nCOPY --from=a \\\n  --lnk b c\n").nodes[1]
    found = node.locate("--lnk")
    assert (found.start, found.end, found.columns) == (3, 3, (2, 7))
    assert node.locate("nowhere") == node.location
