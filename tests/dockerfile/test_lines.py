"""Physical and logical lines: ends, continuations, comments, limits."""

import json
import os
from pathlib import Path

import pytest

from kedge.dockerfile.lines import decode
from kedge.dockerfile.parser import parse
from kedge.model.errors import DockerfileError

SHARED = Path(os.environ.get("KEDGE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
EXTRA = SHARED / "conformance/parser-extra"
needs_data = pytest.mark.skipif(not SHARED.exists(), reason=f"no conformance data in {SHARED}; set KEDGE_SHARED")


@needs_data
def test_blank_lines_in_continuations_are_warned_of_once_for_each_instruction():
    case = json.loads((EXTRA / "empty-continuation.json").read_text())
    file = parse(case["text"])
    assert [
        {"keyword": n.keyword, "lines": [n.location.start, n.location.end], "original": n.original} for n in file.nodes
    ] == case["instructions"]
    assert len(file.warnings) == case["warnings"]
    warned = {warning.location.end for warning in file.warnings}
    ends = [node.location.end for node in file.nodes]
    assert [i for i, end in enumerate(ends) if end in warned] == case["warned_instruction_indexes"]


@needs_data
def test_the_longest_line_is_the_reference_s():
    longest = json.loads((EXTRA / "words.json").read_text())["max_line_bytes"]
    assert parse("FROM x\nRUN " + "a" * (longest - 4) + "\n").nodes[1].location.start == 2
    with pytest.raises(DockerfileError):
        parse("FROM x\nRUN " + "a" * (longest - 3) + "\n")
    with pytest.raises(DockerfileError):
        parse("FROM x\nRUN <<EOF\n" + "é" * (longest // 2 + 1) + "\nEOF\n")


@pytest.mark.parametrize(
    ("text", "original"),
    [
        ("RUN a \\\n  b", "RUN a   b"),
        ("RUN a\\\nb", "RUN ab"),
        ("RUN a \\  \t\n b", "RUN a  b"),
        ("RUN a \\\\\nENV b=c", "RUN a \\\\"),
        ("RUN a \\\r\n  b\r\n", "RUN a   b"),
        ("RUN a \\\n# comment\n  # another\n b", "RUN a  b"),
        ("RUN a \\", "RUN a "),
        ("\\\nRUN a", "RUN a"),
        ("   RUN a", "RUN a"),
        ("\u00a0RUN a", "RUN a"),
    ],
)
def test_continuations_are_joined(text, original):
    assert parse("FROM x\n" + text).nodes[1].original == original


def test_another_escape_character_continues_lines():
    nodes = parse("# escape=`\nFROM x\nRUN a `\n b \\\nUSER u\n").nodes
    assert [node.original for node in nodes] == ["FROM x", "RUN a  b \\", "USER u"]


def test_a_byte_order_mark_is_dropped():
    assert parse("\ufeffFROM x").nodes[0].keyword == "FROM"
    assert decode(b"\xef\xbb\xbfFROM x") == "FROM x"


def test_only_line_feeds_end_lines():
    nodes = parse("FROM x\nRUN a\x0bb\x0cc\x85d\u2028e\nRUN f").nodes
    assert nodes[1].values == ("a\x0bb\x0cc\x85d\u2028e",)
    assert nodes[2].location.start == 3


def test_bytes_that_are_not_utf_8_are_kept():
    node = parse(decode(b"FROM x\nRUN echo \xff\xfe\n")).nodes[1]
    assert node.args.encode("utf-8", "surrogateescape") == b"echo \xff\xfe"


def test_a_hash_in_the_middle_is_no_comment():
    assert parse("FROM x # y\nRUN echo \\\n a # b\n").nodes[1].args == "echo  a # b"
