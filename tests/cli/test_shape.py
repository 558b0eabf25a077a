"""How things look: tables, sizes, ages, errors."""

import pytest

from kedge.cli.failure import describe
from kedge.cli.parse import UsageError
from kedge.cli.spelling import age, cut, size
from kedge.cli.table import Column, listing
from kedge.model.errors import DockerfileError, InvalidInput, Location, SourceFile

COLUMNS = (Column("ID", "IMAGE ID"), Column("Size", "SIZE"), Column("Note", "NOTE", longest=10))
RECORDS = [{"ID": "abc", "Size": "5MB", "Note": "short"}, {"ID": "defdefdefdef", "Size": "12.5MB", "Note": "x" * 20}]


def test_a_table_has_dockers_columns() -> None:
    assert list(listing(RECORDS, COLUMNS, None)) == [
        "IMAGE ID       SIZE      NOTE",
        "abc            5MB       short",
        "defdefdefdef   12.5MB    xxxxxxxxx…",
    ]


def test_full_output_cuts_nothing() -> None:
    assert list(listing(RECORDS, COLUMNS, None, full=True))[-1].endswith("x" * 20)


def test_other_formats() -> None:
    assert list(listing(RECORDS, COLUMNS, None, "ID")) == ["abc", "defdefdefdef"]
    assert next(iter(listing(RECORDS, COLUMNS, "{{.ID}}:{{.Size}}"))) == "abc:5MB"
    assert list(listing(RECORDS[:1], COLUMNS, "json")) == ['{"ID": "abc", "Size": "5MB", "Note": "short"}']
    assert next(iter(listing(RECORDS, COLUMNS, "table {{.Size}}\\t{{.ID}}"))) == "SIZE      IMAGE ID"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (2_290_000, "2.29MB"),
        (1_234_567_890, "1.23GB"),
        (999_999, "1MB"),
        (None, "N/A"),
    ],
)
def test_sizes_have_three_digits(count: int | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second ago"), (1, "1 second ago"), (59, "59 seconds ago"), (60, "About a minute ago"),
        (150, "2 minutes ago"), (3600, "About an hour ago"), (7200, "2 hours ago"), (48 * 3600, "2 days ago"),
        (15 * 86400, "2 weeks ago"), (90 * 86400, "3 months ago"), (800 * 86400, "2 years ago"),
    ],
)  # fmt: skip
def test_ages_are_dockers(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_cut_text_ends_with_an_ellipsis() -> None:
    assert cut("abcdef", 4) == "abc…"


def error_at(start: int, end: int, lines: int = 8, columns: tuple[int, int] | None = None) -> list[str]:
    file = SourceFile("Dockerfile", "".join(f"line {n}\n" for n in range(1, lines + 1)))
    return list(
        describe(DockerfileError("no such thing", location=Location(file, start, end, columns), hint="Do this."))
    )


def test_an_error_shows_the_lines_with_an_arrow() -> None:
    assert error_at(4, 5) == [
        "Dockerfile:4",
        "--------------------",
        "   2 |     line 2",
        "   3 |     line 3",
        "   4 | >>> line 4",
        "   5 | >>> line 5",
        "   6 |     line 6",
        "   7 |     line 7",
        "--------------------",
        "ERROR: no such thing",
        "",
        "Do this.",
    ]


def test_an_error_marks_the_columns_where_they_are_known() -> None:
    assert error_at(1, 1, columns=(0, 4))[2:4] == ["   1 | >>> line 1", "     |     ^^^^"]


def test_a_long_fault_is_shortened() -> None:
    lines = error_at(1, 5000, 5000)
    assert len(lines) < 50
    assert " ... | >>> (4969 more lines)" in lines


def test_a_place_behind_the_text_shows_no_lines() -> None:
    assert error_at(99, 99)[0] == "ERROR: no such thing"


def test_a_place_in_an_empty_file_is_named_once() -> None:
    error = DockerfileError("no instructions", location=Location(SourceFile("Dockerfile", ""), 1, 1))
    assert list(describe(error)) == ["ERROR: Dockerfile:1: no instructions"]


def test_control_characters_of_the_users_text_do_not_reach_the_terminal() -> None:
    file = SourceFile("Dockerfile", "FROM \x1b[31mx\n")
    assert not any("\x1b" in line for line in describe(InvalidInput("bad", location=Location(file, 1, 1))))


def test_wrong_usage_names_the_help_to_read() -> None:
    assert list(describe(UsageError("unknown flag: --x", "build")))[-1] == "See `kedge build --help`."
