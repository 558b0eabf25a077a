"""Ignore files and globs: the reference's cases, and time that grows with the path only."""

import json
import os
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.model.errors import InvalidInput
from kedge.model.globs import Automaton
from kedge.model.patterns import Patterns, clean_path, glob_match, read_ignore_file

SHARED = Path(os.environ.get("KEDGE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
CASES = json.loads((SHARED / "conformance/dockerignore/cases.json").read_text()) if SHARED.exists() else {}


def cases(group):
    found = CASES.get(group, [])
    missing = pytest.mark.skip(reason=f"no conformance data in {SHARED}; set KEDGE_SHARED")
    return [pytest.param(case, id=str(i)) for i, case in enumerate(found)] or [pytest.param(None, marks=missing)]


@pytest.mark.parametrize("case", cases("match"))
def test_the_reference_matches_alike(case):
    assert Patterns(case["patterns"]).matches(case["path"]) == case["match"]


@pytest.mark.parametrize("case", cases("invalid"))
def test_malformed_patterns_are_refused(case):
    with pytest.raises(InvalidInput):
        Patterns(case["patterns"])


@pytest.mark.parametrize("case", cases("read"))
def test_ignore_files_are_read_alike(case):
    assert read_ignore_file(case["text"]) == case["patterns"]


@pytest.mark.parametrize("case", cases("context"))
def test_contexts_keep_the_same_files(case):
    patterns = Patterns(read_ignore_file(case["dockerignore"]))
    assert [name for name in case["files"] if not patterns.matches(name)] == case["kept"]


@pytest.mark.parametrize("case", cases("ignore_file_selection"))
def test_ignore_file_of_each_dockerfile_keeps_the_same_files(case):
    files = case["ignore_files"]
    text = files.get(case["dockerfile"] + ".dockerignore", files.get(".dockerignore", ""))
    patterns = Patterns(read_ignore_file(text))
    assert [name for name in case["files"] if not patterns.matches(name)] == case["kept"]


def test_the_line_that_decided_is_told():
    patterns = Patterns(["*.md", "docs/", "!README.md", "./docs//old"])
    assert patterns.lines == ("*.md", "docs", "!README.md", "docs/old")
    assert patterns.deciding("CHANGES.md") == "*.md"
    assert patterns.deciding("README.md") == "!README.md"
    assert patterns.deciding("docs/index.html") == "docs"
    assert patterns.deciding("docs/old/x") == "docs/old"
    assert patterns.deciding("src/main.c") is None


def test_case_counts():
    assert not Patterns(["Makefile"]).matches("makefile")


@pytest.mark.parametrize(
    ("lines", "directory", "expected"),
    [
        (["*"], "a", False),
        (["*", "!a/b"], "a", True),
        (["*", "!a/b"], "b", False),
        (["*", "!a/b"], "a/c", False),
        (["!a/b", "*"], "a", False),
        (["*", "!**/keep"], "any/where", True),
        (["node_modules", "!node_modules/*/x/**"], "node_modules/p", True),
        (["node_modules", "!node_modules/*/x/**"], "node_modules/p/y", False),
        (["**", "!*.txt"], "sub", False),
        (["*", "!a"], "a/b", True),
    ],
)
def test_a_directory_is_pruned_unless_an_exception_reaches_into_it(lines, directory, expected):
    assert Patterns(lines).may_match_below(directory) is expected


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.go", "main.go", True),
        ("*.go", "cmd/main.go", False),
        ("a?c", "a/c", False),
        ("a[^b]c", "adc", True),
        ("[a-c]x", "bx", True),
        ("[c-a]x", "bx", False),
        ("\\*", "*", True),
        ("\\*", "x", False),
        ("**", "ab", True),
        ("**", "a/b", False),
        ("a*b*c", "a_b_b_c", True),
        ("[!a]", "!", True),
        ("", "", True),
        ("é?", "éü", True),
    ],
)
def test_globs_follow_filepath_match(pattern, path, expected):
    assert glob_match(pattern, path) is expected


@pytest.mark.parametrize("pattern", ["[", "[]", "[a", "a\\", "[-a]", "[a-]", "x[\\"])
def test_malformed_globs_are_refused(pattern):
    with pytest.raises(InvalidInput):
        glob_match(pattern, "x")


@pytest.mark.parametrize(
    ("path", "clean"),
    [("", "."), ("//a", "/a"), ("a/./b//../c/", "a/c"), ("/..", "/"), ("../x", "../x"), ("a/..", ".")],
)
def test_paths_are_cleaned_as_go_does(path, clean):
    assert clean_path(path) == clean


def test_hostile_patterns_take_steps_linear_in_the_path(monkeypatch):
    steps = 0
    original = Automaton._step

    def counted(self, state, character):
        nonlocal steps
        steps += len(state.alive)
        return original(self, state, character)

    monkeypatch.setattr(Automaton, "_step", counted)
    patterns = ["*a*a*a*a*a*a*a*b", "**/*a/**/*a/**/*b", "**a**a**a*b"]
    places = sum(len(pattern) + 1 for pattern in patterns) * 2
    for length in (1_000, 4_000):
        steps = 0
        assert not Patterns(patterns).matches("a/a" * length)
        assert steps <= 3 * length * places


def test_a_hundred_thousand_paths_cost_few_steps(monkeypatch):
    made = 0
    original = Automaton._step

    def counted(self, state, character):
        nonlocal made
        made += 1
        return original(self, state, character)

    monkeypatch.setattr(Automaton, "_step", counted)
    patterns = Patterns([".git", "**/node_modules", "**/*.log", "*.md", "!README.md", "**/*.py[co]", "build/**"])
    excluded = sum(patterns.matches(f"d{i % 97}/s{i % 1000}/f{i}.{'pyc' if i % 2 else 'py'}") for i in range(100_000))
    assert excluded == 50_000
    assert made < 5_000  # all other steps were remembered


PATHS = st.text(st.sampled_from("ab./*!\\[]-^? é"), max_size=30)


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(PATHS, max_size=6), PATHS)
def test_no_pattern_and_no_path_breaks_the_matcher(lines, path):
    try:
        patterns = Patterns(lines)
    except InvalidInput:
        return
    decided = patterns.deciding(path)
    assert patterns.matches(path) == (decided is not None and not decided.startswith("!"))
    patterns.may_match_below(path)
    assert all(isinstance(line, str) for line in read_ignore_file("\n".join(lines)))


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.lists(st.from_regex(r"[ab*][ab/*]{0,7}", fullmatch=True), max_size=4),
    st.lists(st.text(st.sampled_from("ab"), min_size=1, max_size=2), min_size=1, max_size=4),
)
def test_nothing_below_a_pruned_directory_is_ever_kept(lines, names):
    patterns = Patterns(["*", *("!" + line for line in lines)])
    for depth in range(1, len(names)):
        directory = "/".join(names[:depth])
        if patterns.matches(directory) and not patterns.may_match_below(directory):
            assert patterns.matches("/".join(names))


def test_memories_stay_bounded():
    patterns = Patterns(["**/[a-z]*[0-9]"])
    for i in range(70_000):
        patterns.matches(f"{i}/x")
    assert len(patterns._directories) <= 65_536
    automaton = patterns._automaton
    for code in range(300, 9_000):
        automaton.advance(automaton.start, chr(code))
    assert len(automaton.start.after) <= Automaton._MOST_STATES
    assert patterns.matches(f"q/{string.ascii_lowercase}7")
