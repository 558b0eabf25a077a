"""Any text: only Kedge's own errors come out, nothing hangs, and cost grows with length, not with its square."""

import contextlib
import cProfile
import pstats

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.dockerfile.dump import dump
from kedge.dockerfile.parser import parse
from kedge.dockerfile.words import expand, split
from kedge.model.errors import DockerfileError

FRAGMENTS = st.sampled_from(
    [
        "FROM x\n",
        "RUN ",
        "COPY ",
        "ENV ",
        "ARG ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "CMD ",
        "LABEL ",
        "--from=",
        "--mount=",
        "--",
        "<<EOF",
        "<<-'E F'",
        "EOF\n",
        "\n",
        "\\\n",
        "`\n",
        "\r\n",
        " ",
        "\t",
        "#",
        "# escape=`\n",
        "# check=skip=all\n",
        "${",
        "}",
        "$",
        ":-",
        ":+",
        "?",
        "#",
        "%%",
        "//",
        "/",
        "*",
        "a",
        "b",
        "=",
        "'",
        '"',
        "\\",
        "[",
        "]",
        '["a", "b"]',
        "{",
        ",",
        "1",
        "é",
        "\u2028",
        "�",
        "�",
        "\x00",
        "<<<",
        "3<<x",
        "\ufeff",
    ]
)
TEXTS = st.lists(FRAGMENTS, max_size=40).map("".join) | st.text(max_size=80)


@settings(max_examples=500, deadline=None, database=None)
@given(TEXTS)
def test_the_parser_raises_nothing_else(text):
    for prefix in ("", "FROM x\n"):
        try:
            file = parse(prefix + text)
        except DockerfileError as error:
            places = [error.location]
        else:
            dump(file)
            places = [node.location for node in file.nodes]
        assert all(place is not None and 1 <= place.start <= place.end for place in places)


@settings(max_examples=500, deadline=None, database=None)
@given(TEXTS, st.sampled_from("\\`"), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_the_word_splitter_raises_nothing_else(text, escape, quotes, escapes, process, keep):
    env = {"a": "b", "b": "a*b/?\\}", "ab": ""}
    assert all(word for word in split(text, escape))
    try:
        found = expand(
            text, env, escape, raw_quotes=quotes, raw_escapes=escapes, process_quotes=process, keep_unset=keep
        )
    except DockerfileError:
        return
    assert set(found.matched) <= set(env)
    assert not set(found.unmatched) & set(env)


def calls(function, *arguments):
    """How many function calls, C functions included, the work takes: a measure that no busy machine disturbs."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        function(*arguments)
    except DockerfileError:
        pass
    finally:
        profile.disable()
    return pstats.Stats(profile).total_calls


SHAPES = {
    "many lines": lambda n: "FROM x\n" + "RUN echo hello\n" * n,
    "many continuations": lambda n: "FROM x\nRUN a" + " \\\n  b" * n + "\n",
    "many comments": lambda n: "FROM x\n" + "# c\n" * n + "RUN x\n",
    "many gaps": lambda n: "FROM x\nRUN a \\\n" + "\n" * n + "b\n",
    "many heredocs": lambda n: "FROM x\n" + "COPY <<a /b\nc\na\n" * n,
    "many heredocs in a line": lambda n: "FROM x\nCOPY " + "<<a \\\n" * n + "/b\n" + "a\n" * n,
    "a long heredoc": lambda n: "FROM x\nCOPY <<a /b\n" + "c\n" * n + "a\n",
    "an open heredoc": lambda n: "FROM x\nCOPY <<a /b\n" + "c\n" * n,
    "many pairs": lambda n: "FROM x\nENV " + "a=b \\\n" * n + "c=d\n",
    "many flags": lambda n: "FROM x\nCOPY " + "--a=b \\\n" * n + "c d\n",
    "many quotes": lambda n: "FROM x\nARG " + "a='b \"c' \\\n" * n + "\n",
    "many nested onbuilds": lambda n: "FROM x\n" + "ONBUILD \\\n" * n + "RUN x\n",
    "many variables": lambda n: "FROM x\nRUN <<a" + " ${b:-'c'} \\\n" * n + "\na\n",
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_calls_grow_no_faster_than_the_text(shape):
    small, large = calls(parse, shape(300)), calls(parse, shape(3_000))
    assert large <= 14 * small


EXPANSIONS = {
    "plain": lambda n: "abc " * n,
    "variables": lambda n: "$a ${b} " * n,
    "modifiers": lambda n: "${a:-x}${b#y*}${c/x/y}" * n,
    "quotes": lambda n: "'a' \"b$a\" " * n,
    "escapes": lambda n: "\\a\\ " * n,
    "braces": lambda n: "${a:-" * n,
    "dollars": lambda n: "$" * n,
    "angles": lambda n: "<< " * n,
    "open quotes": lambda n: "\"a' " * n,
}


@pytest.mark.parametrize("shape", EXPANSIONS.values(), ids=EXPANSIONS)
def test_expansion_calls_grow_no_faster_than_the_text(shape):
    env = {"a": "x" * 10}
    small, large = calls(expand, shape(300), env), calls(expand, shape(3_000), env)
    assert large <= 14 * small


BIG = 1_000_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("FROM x\nRUN " + "a" * BIG, id="one line"),
        pytest.param("FROM x\nRUN " + " " * BIG + "b", id="one line of blanks"),
        pytest.param("FROM x\nENV " + "a=b \\\n" * (BIG // 6) + "c=d\n", id="pairs"),
        pytest.param("FROM x\nRUN " + ("'" * 60_000 + "\\\n") * 16, id="quotes"),
        pytest.param("FROM x\nRUN " + ("\\ " * 30_000 + " \\\n") * 16, id="escapes"),
        pytest.param("FROM x\nCOPY " + ("--" * 30_000 + "\\\n") * 16, id="a long flag"),
        pytest.param("FROM x\nCOPY " + ("--a='" * 12_000 + "\\\n") * 16, id="flags with quotes"),
        pytest.param("FROM x\nCMD " + ("[" * 60_000 + "\\\n") * 16, id="brackets"),
        pytest.param('FROM x\nCMD ["' + ("\\\\" * 30_000 + "\\\n") * 16, id="backslashes in JSON"),
        pytest.param("FROM x\nRUN <<" + ("${a:-" * 12_000 + "\\\n") * 16, id="nested variables"),
        pytest.param("FROM x\nRUN <<" + (" " * 60_000 + "\\\n") * 16 + "a\na\n", id="blanks before a heredoc's name"),
        pytest.param("FROM x\nRUN " + "9" * 60_000 + ("9" * 60_000 + "\\\n") * 15 + "<<a\na\n", id="digits"),
        pytest.param("# syntax=" + " " * BIG + "x\nFROM y", id="a directive"),
        pytest.param("{" + '"a":' * (BIG // 4), id="JSON for a Dockerfile"),
        pytest.param("FROM x\n" + "RUN true # comment\n" * 100_000, id="100,000 lines"),
    ],
)
def test_a_megabyte_is_read_in_time(text):
    with contextlib.suppress(DockerfileError):
        parse(text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("${v#" + "*a" * 500 + "b}", {"v": "a" * BIG}),
        ("${v%%" + "*?a" * 300 + "b}", {"v": "a" * BIG}),
        ("${v//" + "a" * 400 + "?b/x}", {"v": "a" * 100_000}),
        ("${v//*a/x}", {"v": "a" * BIG}),
        ("${v//a/b}" * 10, {"v": "a" * BIG}),
        ("a b " * (BIG // 4), {}),
        ("$" * BIG, {}),
        ('"' * BIG, {}),
    ],
)
def test_a_megabyte_is_expanded_in_time(text, env):
    with contextlib.suppress(DockerfileError):
        expand(text, env)
