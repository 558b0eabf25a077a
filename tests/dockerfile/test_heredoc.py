"""Heredocs: the reference's words and bodies."""

import json
import os
from pathlib import Path

import pytest

from kedge.dockerfile.heredoc import parse_heredoc
from kedge.dockerfile.parser import parse
from kedge.dockerfile.stages import read_dockerfile
from kedge.model.errors import DockerfileError

SHARED = Path(os.environ.get("KEDGE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
FACTS = SHARED / "conformance/parser-extra/heredoc.json"
TABLE = json.loads(FACTS.read_text()) if FACTS.exists() else {"words": [], "bodies": []}
MISSING = pytest.mark.skip(reason=f"no conformance data in {SHARED}; set KEDGE_SHARED")


def params(found, key):
    return [pytest.param(case, id=case[key]) for case in found] or [pytest.param(None, marks=MISSING)]


def facts(heredoc):
    return {"name": heredoc.name, "fd": heredoc.fd, "expand": heredoc.expand, "chomp": heredoc.chomp}


@pytest.mark.parametrize("case", params(TABLE["words"], "word"))
def test_words_announce_heredocs_alike(case):
    if case.get("error"):
        with pytest.raises(DockerfileError):
            parse_heredoc(case["word"])
    else:
        found = parse_heredoc(case["word"])
        assert (found and facts(found)) == case["heredoc"]


@pytest.mark.parametrize("case", params(TABLE["bodies"], "body"))
def test_bodies_are_read_alike(case):
    text = "FROM alpine:3.6\n" + case["body"] + "\n"
    if case.get("error"):
        with pytest.raises(DockerfileError):
            read_dockerfile(text)  # an instruction that takes no heredoc leaves its body to be read as instructions
        return
    nodes = parse(text).nodes[1:]
    assert len(nodes) == case["instructions"]
    assert [[node.location.start, node.location.end] for node in nodes] == case["lines"]
    assert [facts(h) | {"content": h.content} for h in nodes[0].heredocs] == case["heredocs"]


def test_tabs_in_front_are_dropped_when_asked():
    node = parse("FROM x\nCOPY <<-a <<b /\n\t\tone\n\t two\n\ta\n\tthree\nb\n").nodes[1]
    assert [heredoc.body for heredoc in node.heredocs] == ["one\n two\n", "\tthree\n"]


def test_line_ends_in_bodies_are_kept_and_do_not_hide_the_terminator():
    assert parse("FROM x\r\nRUN <<EOF\r\na\r\nEOF\r\n").nodes[1].heredocs[0].content == "a\r\n"


def test_a_heredoc_in_onbuild_belongs_to_both():
    node = parse("FROM x\nONBUILD COPY <<a /b\nc\na\n").nodes[1]
    assert node.heredocs == node.child.heredocs
    assert node.child.location.end == 4


def test_a_line_that_is_no_word_for_us_has_no_heredoc():
    nodes = parse("FROM x\nRUN echo \"it's <<EOF\nRUN y\n").nodes
    assert [node.heredocs for node in nodes] == [(), (), ()]


def test_a_huge_file_descriptor_is_an_error():
    with pytest.raises(DockerfileError, match="file descriptor"):
        parse_heredoc("9" * 5_000 + "<<a")
