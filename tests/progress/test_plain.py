"""Plain output is BuildKit's, line by line."""

import io

import pytest

from kedge.model.digest import Digest
from kedge.model.event import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from kedge.progress.plain import Plain

A, B, C = Digest("sha256:a"), Digest("sha256:b"), Digest("sha256:c")


class Recorder:
    """A plain display whose clock the test turns."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        self.now = 100.0
        self.display = Plain(self.out, lambda: self.now)

    def show(self, *events: Event, at: float | None = None) -> "Recorder":
        self.now = self.now if at is None else at
        self.display.update(list(events))
        return self

    def text(self) -> str:
        self.display.close()
        return self.out.getvalue()


def running(vertex: Digest, name: str, start: float = 100.0) -> VertexEvent:
    return VertexEvent(vertex, name, started=start)


def done(vertex: Digest, name: str, start: float = 100.0, end: float = 100.5, **more: object) -> VertexEvent:
    return VertexEvent(vertex, name, started=start, completed=end, **more)  # type: ignore[arg-type]


def test_a_step_shows_its_name_its_parts_and_its_time() -> None:
    name = "[internal] load build definition from Dockerfile"
    part = StatusEvent(A, "transferring dockerfile:", 100.0, 123, 0, 100.0, 100.001)
    assert Recorder().show(running(A, name), part, done(A, name, end=100.04)).text() == (
        "#1 [internal] load build definition from Dockerfile\n#1 transferring dockerfile: 123B done\n#1 DONE 0.0s\n"
    )


def test_steps_are_numbered_in_the_order_they_are_shown_with_a_blank_line_between() -> None:
    assert Recorder().show(done(A, "first"), done(B, "second", end=101.0)).text() == (
        "#1 first\n#1 DONE 0.5s\n\n#2 second\n#2 DONE 1.0s\n"
    )


def test_a_cached_step_says_so() -> None:
    assert Recorder().show(done(A, "[2/4] WORKDIR /src", cached=True)).text() == "#1 [2/4] WORKDIR /src\n#1 CACHED\n"


def test_output_has_the_time_since_the_step_began() -> None:
    logs = [
        LogEvent(A, 1, b"one\ntwo\n", 100.2134),
        LogEvent(A, 2, b"three\n", 112.5),
        LogEvent(A, 1, b"four\n", 223.0),
    ]
    assert Recorder().show(running(A, "RUN x"), *logs, done(A, "RUN x", end=224.0)).text() == (
        "#1 RUN x\n#1 0.213 one\n#1 0.213 two\n#1 12.50 three\n#1 123.0 four\n#1 DONE 124.0s\n"
    )


def test_a_line_that_comes_in_pieces_is_one_line() -> None:
    recorder = Recorder().show(running(A, "RUN x"), LogEvent(A, 1, b"half", 100.1))
    recorder.show(LogEvent(A, 1, b" and half\nnext", 100.2)).show(done(A, "RUN x"))
    assert recorder.text() == "#1 RUN x\n#1 0.100 half and half\n#1 0.200 next\n#1 DONE 0.5s\n"


def test_a_failed_step_ends_with_its_last_ten_lines() -> None:
    error = 'process "/bin/sh -c false" did not complete successfully: exit code: 1'
    lines = b"".join(b"line %d\n" % n for n in range(15))
    text = (
        Recorder()
        .show(running(A, "[2/2] RUN false"), LogEvent(A, 1, lines, 100.0))
        .show(done(A, "[2/2] RUN false", error=error))
        .text()
    )
    assert f"#1 ERROR: {error}\n" in text
    assert text.endswith(
        "------\n > [2/2] RUN false:\n" + "".join(f"0.000 line {n}\n" for n in range(5, 15)) + "------\n"
    )


@pytest.mark.parametrize("error", ["context canceled", "cancelled: another step failed", "the build was stopped"])
def test_a_cancelled_step_is_no_failure(error: str) -> None:
    assert Recorder().show(done(A, "RUN x", error=error)).text() == "#1 RUN x\n#1 CANCELED\n"


def test_a_step_left_unfinished_is_marked_and_named_again() -> None:
    recorder = Recorder().show(running(A, "RUN slow"), LogEvent(A, 1, b"a\n", 100.1))
    recorder.show(running(B, "RUN quick"), done(B, "RUN quick")).show(done(A, "RUN slow", end=103.0), at=103.0)
    assert recorder.text() == (
        "#1 RUN slow\n#1 0.100 a\n#1 ...\n\n#2 RUN quick\n#2 DONE 0.5s\n\n#1 RUN slow\n#1 DONE 3.0s\n"
    )


def test_running_steps_take_turns_only_after_a_while() -> None:
    recorder = Recorder().show(running(A, "RUN a"), LogEvent(A, 1, b"a\n", 100.1))
    recorder.show(running(B, "RUN b"), LogEvent(B, 1, b"b\n", 101.0), LogEvent(A, 1, b"a\n", 101.0), at=101.0)
    assert "RUN b" not in recorder.out.getvalue()
    recorder.show(LogEvent(B, 1, b"b\n", 112.0), at=112.0)
    assert recorder.out.getvalue().endswith("#1 ...\n\n#2 RUN b\n#2 1.000 b\n#2 12.00 b\n")


def test_a_transfer_is_shown_again_only_when_it_got_on() -> None:
    recorder = Recorder().show(running(A, "pull"))
    for step in range(101):
        recorder.show(StatusEvent(A, "sha256:ab", 100 + step / 100, step * 10_000, 1_000_000, 100.0))
    recorder.show(StatusEvent(A, "sha256:ab", 101.0, 1_000_000, 1_000_000, 100.0, 101.0), done(A, "pull", end=101.0))
    lines = [line for line in recorder.text().splitlines() if "sha256" in line]
    assert len(lines) == 22
    assert lines[2] == "#1 sha256:ab 100.00kB / 1.00MB 0.1s"
    assert lines[-1] == "#1 sha256:ab 1.00MB / 1.00MB 1.0s done"


def test_vertices_of_a_group_are_one_step() -> None:
    recorder = Recorder().show(
        VertexEvent(A, "a", started=100.0, completed=101.0, group="together"),
        VertexEvent(B, "b", started=100.5, completed=102.0, group="together"),
    )
    assert recorder.text() == "#1 together\n#1 DONE 2.0s\n"


def test_a_group_is_cached_only_when_all_of_it_is() -> None:
    half = [VertexEvent(A, "a", started=100.0, completed=100.0, group="g", cached=True),
            VertexEvent(B, "b", started=100.0, completed=100.0, group="g")]  # fmt: skip
    assert "CACHED" not in Recorder().show(*half).text()


def test_events_of_a_vertex_that_is_announced_later_are_not_lost() -> None:
    recorder = Recorder().show(LogEvent(A, 1, b"early\n", 100.1)).show(done(A, "RUN x"))
    assert recorder.text() == "#1 RUN x\n#1 0.100 early\n#1 DONE 0.5s\n"


def test_a_warning_of_a_step_stands_with_it() -> None:
    warning = WarningEvent("Rule", "odd", vertex=A)
    assert Recorder().show(running(A, "x"), warning, done(A, "x")).text() == "#1 x\n#1 WARN: odd\n#1 DONE 0.5s\n"


def test_a_vertex_that_runs_twice_counts_each_second_once() -> None:
    recorder = Recorder().show(done(A, "x", 100.0, 101.0), done(A, "x", 100.5, 102.0))
    assert recorder.text().endswith("#1 DONE 2.0s\n")


def test_output_that_is_no_text_is_shown_all_the_same() -> None:
    assert "\ufffd" in Recorder().show(running(A, "x"), LogEvent(A, 1, b"\xff\n", 100.1), done(A, "x")).text()


def test_what_still_runs_when_the_display_closes_is_shown() -> None:
    recorder = Recorder().show(running(A, "x"), LogEvent(A, 1, b"a\n", 100.0))
    recorder.show(running(B, "y"), LogEvent(B, 1, b"b\n", 100.0))
    assert "#2 y" in recorder.text()


def test_layers_that_come_after_their_step_are_shown_with_it() -> None:
    part = StatusEvent(A, "sha256:ab", 103.0, 5, 10, 102.0)
    recorder = (
        Recorder().show(done(A, "FROM x", end=100.0)).show(running(B, "RUN y", 101.0), LogEvent(B, 1, b"a\n", 101.0))
    )
    recorder.show(done(B, "RUN y", 101.0, 101.5)).show(part)
    recorder.show(StatusEvent(A, "sha256:ab", 104.0, 10, 10, 102.0, 104.0))
    recorder.show(StatusEvent(A, "sha256:ab", 104.0, 10, 10, 102.0, 104.0))
    assert recorder.text().split("\n\n")[2] == (
        "#1 FROM x\n#1 sha256:ab 5B / 10B 1.0s\n#1 sha256:ab 10B / 10B 2.0s done\n#1 DONE 2.0s\n"
    )


def test_a_part_that_never_ends_does_not_keep_its_step_from_ending() -> None:
    recorder = Recorder().show(running(A, "x"), StatusEvent(A, "part", 100.1, started=100.1), done(A, "x"))
    assert recorder.text().endswith("#1 DONE 0.5s\n")


def test_a_vertex_told_to_start_again_while_it_runs_ends_once() -> None:
    recorder = Recorder().show(running(A, "x", 100.0), running(A, "x", 100.2), done(A, "x", 100.2, 101.0))
    assert recorder.text() == "#1 x\n#1 DONE 1.0s\n"


def test_names_and_errors_cannot_steer_the_terminal() -> None:
    steps = [
        running(A, "[1/1] COPY \x1b[31mred\x07 \u202efdp.exe \udce9 /"),
        StatusEvent(A, "sha256:\x1b]0;title\x07", 100.0, 1, 1, 100.0, 100.0),
        done(A, "[1/1] COPY \x1b[31mred\x07 \u202efdp.exe \udce9 /", error="\x1b[2J: not found"),
    ]
    text = Recorder().show(*steps).text()
    assert "[1/1] COPY \ufffd[31mred\ufffd \ufffdfdp.exe \ufffd /\n" in text
    assert "ERROR: \ufffd[2J: not found" in text
    assert not set(text) & set("\x1b\x07\u202e\udce9")
