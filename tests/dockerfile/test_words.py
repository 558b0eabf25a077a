"""Words and variables: the reference's tables, and limits against runaway expansion."""

import json
import os
from pathlib import Path

import pytest

from kedge.dockerfile.wildcards import Wildcard
from kedge.dockerfile.words import expand, split
from kedge.model.errors import DockerfileError

SHARED = Path(os.environ.get("KEDGE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
CONFORMANCE = SHARED / "conformance"
MISSING = pytest.mark.skip(reason=f"no conformance data in {SHARED}; set KEDGE_SHARED")
TABLE = json.loads((CONFORMANCE / "shell/expansion.json").read_text()) if SHARED.exists() else {}
RAW = json.loads((CONFORMANCE / "parser-extra/words.json").read_text()) if SHARED.exists() else {}


def params(found):
    return [pytest.param(case, id=str(i)) for i, case in enumerate(found)] or [pytest.param(None, marks=MISSING)]


@pytest.mark.parametrize("case", params(TABLE.get("cases", [])))
def test_the_reference_expands_alike(case):
    if case.get("error"):
        with pytest.raises(DockerfileError):
            expand(case["input"], case["env"])
        return
    found = expand(case["input"], case["env"])
    assert found.text == case["result"]
    assert sorted(found.matched) == case["matched"]
    assert sorted(found.unmatched) == case["unmatched"]
    if case.get("words_quirk"):  # the reference loses text here; see "words" in the table
        assert "".join(found.words) == found.text.replace(" ", "")
    else:
        assert list(found.words) == case["words"]


def table_lines(name):
    path = CONFORMANCE / "shell" / name
    lines = path.read_text().split("\n") if path.exists() else []
    return [(number, line) for number, line in enumerate(lines, 1)]


def word_cases():
    env = {}
    for number, line in table_lines("wordsTest"):
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith("ENV "):
            name, _, value = line[len("ENV ") :].lstrip(" ").partition("=")
            env = env | {name: value}
            continue
        text, _, expected = line.partition("|")
        yield pytest.param(text.strip(), expected.lstrip(), dict(env), id=str(number))


@pytest.mark.parametrize(("text", "expected", "env"), list(word_cases()) or [pytest.param("", "", {}, marks=MISSING)])
def test_words_test_table(text, expected, env):
    if expected.strip() == "error":
        with pytest.raises(DockerfileError):
            expand(text, env)
        return
    assert list(expand(text, env).words) == expected.split(",")


def variable_cases():
    for number, line in table_lines("envVarTest"):
        line = line.partition("#")[0] if line.lstrip().startswith("#") else line
        if not line.strip():
            continue
        platform, text, expected = line.split("|")
        if platform.strip() in ("A", "U"):  # W: Windows, where variable names ignore case
            yield pytest.param(text.strip(), expected.strip(), id=str(number))


@pytest.mark.parametrize(("text", "expected"), list(variable_cases()) or [pytest.param("", "", marks=MISSING)])
def test_env_var_test_table(text, expected):
    env = TABLE["environment_for_envVarTest"]
    if expected == "error":
        with pytest.raises(DockerfileError):
            expand(text, env)
    else:
        assert expand(text, env).text == expected


@pytest.mark.parametrize("case", params(TABLE.get("modifiers", [])))
def test_modifier_table(case):
    if "effect" in case:
        if case["effect"] == "error":
            for form in case["form"].split():
                with pytest.raises(DockerfileError):
                    expand(form, {"v": "value"})
        return
    for state, env in {"unset": {}, "empty": {"v": ""}, "set": {"v": "value"}}.items():
        if case[state].startswith("error("):
            with pytest.raises(DockerfileError, match=f"^v: {case[state][len('error(') : -1]}$"):
                expand(case["form"], env)
        else:
            assert expand(case["form"], env).text == case[state]


@pytest.mark.parametrize("case", params(RAW.get("words", [])))
def test_raw_words_are_split_alike(case):
    assert list(split(case["text"])) == case["words"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("a\\", ("a",)),
        ("'a b", ("'a b",)),
        ('"a\\" b" c', ('"a\\" b"', "c")),
        ("a\\ b c", ("a\\ b", "c")),
        ("'' x", ("''", "x")),
        ("'a\\' b'", ("'a\\'", "b'")),
        ("a\u00a0b", ("a", "b")),
    ],
)
def test_splitting_keeps_quotes_and_escapes(text, words):
    assert split(text) == words


def test_the_backtick_escapes_when_asked():
    assert expand("C:\\`$x `\\", {}, "`").text == "C:\\$x \\"
    assert split("a` b\\ c", "`") == ("a` b\\", "c")


def test_variables_are_reported_in_order_of_first_use():
    found = expand("$b ${a:-$c} $b $d", {"a": "1", "d": "2"})
    assert found.unmatched == ("b", "c")
    assert found.matched == ("a", "d")


def test_unset_variables_can_be_kept():
    found = expand("$a ${b} ${c:-x} ${d/e/f} $g", {"g": "1"}, keep_unset=True)
    assert found.text == "$a ${b} ${c:-x} ${d/e/f} 1"


def test_quotes_can_be_meaningless():
    assert expand('it\'s "$a" \\$a', {"a": "1"}, process_quotes=False).text == 'it\'s "1" $a'


def test_quotes_and_escapes_can_be_kept():
    assert expand('\'a b\' "c\\"" \\d', {}, raw_quotes=True, raw_escapes=True).words == ("'a b'", '"c\\""', "\\d")


@pytest.mark.parametrize(
    ("pattern", "value", "shortest", "longest"),
    [
        ("*", "abc", "abc", ""),
        ("a*", "abc", "bc", ""),
        ("*b", "abcbd", "cbd", "d"),
        ("?", "abc", "bc", "bc"),
        ("?b*", "abc", "c", ""),
        ("*?c", "abcxc", "xc", ""),
        ("x", "abc", "abc", "abc"),
        ("a*b*", "a1b2", "2", ""),
        ("", "abc", "abc", "abc"),
    ],
)
def test_prefixes_and_suffixes_mirror_each_other(pattern, value, shortest, longest):
    wildcard, mirrored = Wildcard(pattern), Wildcard(pattern[::-1])
    assert wildcard.without_prefix(value, longest=False) == shortest
    assert wildcard.without_prefix(value, longest=True) == longest
    assert mirrored.without_suffix(value[::-1], longest=False) == shortest[::-1]
    assert mirrored.without_suffix(value[::-1], longest=True) == longest[::-1]


@pytest.mark.parametrize(
    ("pattern", "value", "once", "everywhere"),
    [
        ("", "ab", "-ab", "-a-b-"),
        ("*", "ab", "-", "-"),
        ("*", "", "-", "-"),
        ("a*b", "xaabbx", "x-x", "x-x"),
        ("?", "ab", "-b", "--"),
        ("aa", "aaaaa", "-aaa", "--a"),
        ("b*", "abcb", "a-", "a-"),
        ("*b", "abcbd", "-d", "-d"),
        ("z", "ab", "ab", "ab"),
    ],
)
def test_replacing_takes_the_leftmost_longest_match(pattern, value, once, everywhere):
    assert Wildcard(pattern).replace(value, "-", everywhere=False) == once
    assert Wildcard(pattern).replace(value, "-", everywhere=True) == everywhere


def test_a_replacement_is_literal():
    assert expand("${v/b/$r}", {"v": "abc", "r": "$1\\1"}).text == "a$1\\1c"


def test_variables_that_double_themselves_end_in_an_error():
    env = {"v": "x" * 1_000_000}
    with pytest.raises(DockerfileError, match="longer than 16 MiB"):
        expand("$v" * 20, env)
    with pytest.raises(DockerfileError, match="longer than 16 MiB"):
        expand("${v//x/$v}", env)


def test_deep_nesting_ends_in_an_error():
    assert expand("${a:-" * 40 + "x" + "}" * 40, {}).text == "x"
    with pytest.raises(DockerfileError, match="nested"):
        expand("${a:-" * 10_000 + "}" * 10_000, {})


def test_a_pattern_with_many_question_marks_ends_in_an_error():
    with pytest.raises(DockerfileError, match="pattern"):
        expand("${v#" + "?" * 2_000 + "}", {"v": "x"})
