"""The live display, seen through a terminal emulator."""

import os
import re

import pytest

from kedge.model.digest import Digest
from kedge.model.event import Event, LogEvent, StatusEvent, VertexEvent
from kedge.progress.tty import Tty, columns, cut

pyte = pytest.importorskip("pyte", reason="pyte (a terminal emulator, extra dev) is not installed")

A, B = Digest("sha256:a"), Digest("sha256:b")


class Screen:
    """A display on an emulated terminal; the test turns its clock and resizes it."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self.emulator = pyte.Screen(width, height)
        self.stream = pyte.Stream(self.emulator)
        self.written: list[str] = []
        self.now = 100.0
        self.display = Tty(self, lambda: self.now, lambda: (self.emulator.columns, self.emulator.lines))

    def write(self, text: str) -> None:
        self.written.append(text)
        self.stream.feed(text.replace("\n", "\r\n"))  # what the kernel's terminal does on output

    def flush(self) -> None:
        pass

    def show(self, *events: Event, at: float | None = None) -> "Screen":
        self.now = self.now if at is None else at
        self.display.update(list(events))
        return self

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.emulator.display if line.strip()]


def running(vertex: Digest, name: str) -> VertexEvent:
    return VertexEvent(vertex, name, started=100.0)


def done(vertex: Digest, name: str, **more: object) -> VertexEvent:
    return VertexEvent(vertex, name, started=100.0, completed=101.0, **more)  # type: ignore[arg-type]


def test_a_running_step_has_a_clock() -> None:
    screen = Screen().show(running(A, "[1/2] RUN make"))
    screen.show(at=102.3)
    assert screen.lines() == ["[+] Building 2.3s (0/1)", f" => {'[1/2] RUN make':<71}2.3s"]


def test_the_end_shows_everything_and_says_finished() -> None:
    screen = Screen().show(running(A, "one"), done(B, "two", cached=True)).show(done(A, "one"), at=101.0)
    screen.display.close()
    assert [re.sub(r"  +", " ", line) for line in screen.lines()] == [
        "[+] Building 1.0s (2/2) FINISHED",
        " => one 1.0s",
        " => CACHED two 1.0s",
    ]


def test_a_long_transfer_has_a_bar_until_it_is_done() -> None:
    status = StatusEvent(A, "sha256:ab", 100.0, 5_000_000, 10_000_000, 100.0)
    screen = Screen(100).show(running(A, "pull"), status)
    assert "[==========>         ] 5.00MB / 10.00MB" in screen.lines()[2]
    screen.show(StatusEvent(A, "sha256:ab", 101.0, 10_000_000, 10_000_000, 100.0, 101.0))
    assert "[=" not in screen.lines()[2]
    assert "10.00MB / 10.00MB" in screen.lines()[2]


def test_running_steps_show_their_last_lines_without_control_characters() -> None:
    output = b"\x1b[31mred\x1b[0m\n10%\r50%\r90%\n" + b"".join(b"line %d\n" % n for n in range(9))
    screen = Screen().show(running(A, "RUN x"), LogEvent(A, 1, output, 100.1))
    assert screen.lines()[2:] == [f" => => # line {n}" for n in range(3, 9)]
    screen.show(LogEvent(A, 1, b"10%\r99%", 100.2))
    assert screen.lines()[-1] == " => => # 99%"


def test_output_is_gone_when_the_step_is_done() -> None:
    screen = Screen().show(running(A, "RUN x"), LogEvent(A, 1, b"hello\n", 100.1)).show(done(A, "RUN x"))
    assert len(screen.lines()) == 2


def test_a_picture_taller_than_the_screen_keeps_what_runs() -> None:
    vertices = [Digest(f"sha256:{n}") for n in range(40)]
    screen = Screen(height=10).show(running(vertices[0], "long one"), *(done(v, f"step {v}") for v in vertices[1:]))
    lines = screen.lines()
    assert len(lines) <= 9
    assert any("long one" in line for line in lines)
    assert any("step sha256:39" in line for line in lines)
    screen.display.close()
    text = "".join(screen.written)
    assert all(f"step sha256:{n}" in text for n in range(1, 40))


@pytest.mark.parametrize("width", [30, 50, 79])
def test_a_narrower_terminal_leaves_no_remains(width: int) -> None:
    screen = Screen().show(running(A, "RUN something with a long name that fills the line nicely"))
    screen.emulator.resize(24, width)
    screen.show(at=103.0)
    screen.show(at=104.0)
    assert [line[:14] for line in screen.lines()][-2:] == ["[+] Building 4", " => RUN someth"]


def test_only_changed_lines_are_written_again() -> None:
    screen = Screen().show(done(A, "finished long ago"), running(B, "RUN x"))
    screen.written.clear()
    screen.show(at=105.0)
    assert "finished long ago" not in "".join(screen.written)
    assert "RUN x" in "".join(screen.written)


def test_every_picture_is_one_synchronized_write_and_the_cursor_comes_back() -> None:
    screen = Screen().show(running(A, "x"))
    assert len(screen.written) == 1
    assert screen.written[0].startswith("\x1b[?2026h")
    assert screen.written[0].endswith("\x1b[?25h\x1b[?2026l")


def test_a_failed_step_ends_with_its_output() -> None:
    screen = Screen().show(running(A, "RUN false"), LogEvent(A, 1, b"oh no\n", 100.5))
    screen.show(done(A, "RUN false", error="exit code: 1"))
    screen.display.close()
    assert screen.lines()[-4:] == ["------", " > RUN false:", "0.500 oh no", "------"]


def test_wide_characters_count_twice() -> None:
    assert columns("日本") == 4
    assert cut("日本語", 5) == "日本"
    screen = Screen(40).show(running(A, "RUN echo 日本語日本語日本語日本語日本語"))
    assert len(screen.lines()) == 2


def test_colours_can_be_switched_off() -> None:
    written: list[str] = []

    class Out:
        def write(self, text: str) -> None:
            written.append(text)

        def flush(self) -> None:
            pass

    display = Tty(Out(), lambda: 100.0, lambda: os.terminal_size((80, 24)), colour=False)
    display.update([done(A, "x")])
    assert "\x1b[34m" not in "".join(written)


def test_a_transfer_is_no_build() -> None:
    screen = Screen()
    screen.display = Tty(screen, lambda: screen.now, lambda: (80, 24), doing="Pulling")
    assert screen.show(running(A, "pulling busybox")).lines()[0] == "[+] Pulling 0.0s (0/1)"
