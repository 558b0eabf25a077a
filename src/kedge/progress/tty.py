"""The live display: one line per step with a running clock, bars for long transfers, the last output of running steps.

Owns the picture (`frame`, a pure function of the trace, the time and the terminal's size) and how it replaces the one
before: only lines that changed are written, in one write, between the terminal's begin and end of synchronized
update, so nothing flickers. When the picture is taller than the screen, what is done scrolls out of it first. At the
end the whole list stays.
"""

import os
import unicodedata
from collections.abc import Callable
from typing import TextIO

from kedge.model.event import StatusEvent, visible
from kedge.model.value import dataclass
from kedge.progress.drawing import TraceDisplay, Writer
from kedge.progress.trace import Row, Trace
from kedge.progress.words import amount, failure_lines, printable

OUTPUT_LINES = 6  # of a running step's output
BAR_BYTES = 1_000_000  # transfers of at least this size have a bar
BAR_WIDTH = 20
_BLUE, _RED, _YELLOW, _FAINT, _RESET = "\x1b[34m", "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"
_BEGIN, _END = "\x1b[?2026h\x1b[?25l", "\x1b[?25h\x1b[?2026l"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the picture: text on the left, text at the right edge, a colour (an escape sequence or nothing)."""

    left: str
    right: str = ""
    colour: str = ""
    done: bool = True

    def fitted(self, width: int) -> str:
        """Exactly as wide as the screen less one column, so that no terminal wraps it; cut, not folded."""
        room = width - 1 - len(self.right) - (1 if self.right else 0)
        if room < 8:
            return cut(self.left, width - 1)
        left = cut(self.left, room)
        return left + " " * (room - columns(left) + 1) + self.right if self.right else left


class Tty(TraceDisplay):
    """A display that draws over itself. `size` tells the screen's (width, height) now."""

    def __init__(
        self,
        out: Writer,
        clock: Callable[[], float],
        size: Callable[[], tuple[int, int]],
        colour: bool = True,
        doing: str = "Building",
    ) -> None:
        super().__init__(out)
        self._clock = clock
        self._size = size
        self._colour = colour
        self._doing = doing
        self._began = clock()
        self._drawn: list[str] = []
        self._width = 0

    @classmethod
    def on(cls, stream: TextIO, clock: Callable[[], float], doing: str = "Building") -> "Tty":
        """The display on a terminal's stream; the environment's NO_COLOR is obeyed."""
        descriptor = stream.fileno()

        def size() -> tuple[int, int]:
            try:
                width, height = os.get_terminal_size(descriptor)
            except OSError:
                return 80, 24
            return width or 80, height or 24

        return cls(stream, clock, size, colour=not os.environ.get("NO_COLOR"))

    def _tell_failure(self, row: Row) -> None:
        self._out.write("".join(line + "\n" for line in failure_lines(row, 20, clean=True)))

    def _draw(self, final: bool = False) -> None:
        width, height = self._size()
        lines = frame(self._trace, self._clock(), self._began, width, None if final else height, self._doing)
        texts = [self._painted(line, width) for line in lines]
        self._out.write(_BEGIN + self._replace(texts, width) + _END)
        self._out.flush()
        self._drawn, self._width = texts, width

    def _painted(self, line: Line, width: int) -> str:
        text = line.fitted(width)
        return f"{line.colour}{text}{_RESET}" if line.colour and self._colour else text

    def _replace(self, texts: list[str], width: int) -> str:
        """What to send so that `texts` stand where the old picture stood; the cursor ends below."""
        old = self._drawn
        if not old:
            return "".join(text + "\n" for text in texts)
        if self._width > width:
            # The terminal has folded our longer lines: start again at the top of what they take now.
            rows = sum(-(-max(self._width - 1, 1) // max(width, 1)) for _ in old)
            return f"\x1b[{rows}A\r\x1b[J" + "".join(text + "\n" for text in texts)
        out = [f"\x1b[{len(old)}A\r"]
        for index, text in enumerate(texts):
            same = index < len(old) and old[index] == text
            out.append("\n" if same else f"{text}\x1b[K\n")
        if len(old) > len(texts):
            out.append("\x1b[J")
        return "".join(out)


def frame(
    trace: Trace, now: float, began: float, width: int, height: int | None, doing: str = "Building"
) -> list[Line]:
    """The picture of what we are `doing`; with `height` None the whole of it, as it stays when the build is over."""
    done = sum(1 for row in trace.rows if _ended(row, height is None))
    finished = height is None and done == trace.known and done > 0
    head = f"[+] {doing} {max(now - began, 0.0):.1f}s ({done}/{trace.known})" + (" FINISHED" if finished else "")
    blocks = [_block(row, now, width, _ended(row, height is None)) for row in trace.rows]
    if height is None:
        return [Line(head), *(line for block in blocks for line in block)]
    return [Line(head), *_fit(trace.rows, blocks, max(height - 2, 1))]


def _fit(rows: list[Row], blocks: list[list[Line]], room: int) -> list[Line]:
    """The lines that fit: running steps first, their output where there is room, then the newest of what is done."""
    running = [index for index, row in enumerate(rows) if not row.over]
    shown: dict[int, list[Line]] = {}
    for index in running:
        lines = [line for line in blocks[index] if not line.done][: max(room, 0)]
        shown[index] = lines
        room -= len(lines)
    for index in reversed(range(len(rows))):
        if index not in shown and room >= len(blocks[index]):
            shown[index] = blocks[index]
            room -= len(blocks[index])
        elif index not in shown:
            break
    for index in running:
        extra = len(blocks[index]) - len(shown[index])
        if 0 < extra <= room:
            shown[index] = blocks[index]
            room -= extra
        output = _output(rows[index])
        if output and room > len(output):
            shown[index] = shown[index] + output
            room -= len(output)
    return [line for index in sorted(shown) for line in shown[index]]


def _ended(row: Row, final: bool) -> bool:
    return row.over or (final and row.completed is not None)


def _block(row: Row, now: float, width: int, ended: bool) -> list[Line]:
    """A step and its parts."""
    mark, colour = _state(row, ended)
    name = " ".join(row.name.split())
    lines = [Line(f" => {mark}{name}", _timer(row.seconds(now)), colour, ended)]
    for part in row.parts.values():
        status = part.status
        over = part.done or ended
        end = status.completed if status.completed is not None else status.timestamp if ended else now
        seconds = end - status.started if status.started is not None else 0.0
        text = f" => => {visible(status.id)}"
        lines.append(Line(text, f"{_transfer(status, over, width)}{_timer(seconds)}", _BLUE if over else "", over))
    lines.extend(
        Line(f" => => WARN: {' '.join(warning.message.split())}", "", _YELLOW, ended) for warning in row.warnings
    )
    return lines


def _state(row: Row, ended: bool) -> tuple[str, str]:
    if row.cancelled:
        return "CANCELED ", _YELLOW
    if row.failed:
        return "ERROR ", _RED
    if not ended:
        return "", ""
    return ("CACHED " if row.cached else ""), _BLUE


def _transfer(status: StatusEvent, over: bool, width: int) -> str:
    if not status.total:
        return f"{amount(status.current)} " if status.current else ""
    numbers = f"{amount(status.current)} / {amount(status.total)} "
    if over or status.total < BAR_BYTES or width < 70:
        return numbers
    filled = min(BAR_WIDTH, BAR_WIDTH * status.current // status.total)
    head = "=" * filled + (">" if filled < BAR_WIDTH else "")
    return f"[{head[:BAR_WIDTH]:<{BAR_WIDTH}}] {numbers}"


def _output(row: Row) -> list[Line]:
    lines = [printable(line) for _, line in list(row.tail)[-OUTPUT_LINES:]]
    return [Line(f" => => # {line}", "", _FAINT, done=False) for line in lines if line.strip()]


def _timer(seconds: float) -> str:
    return f"{seconds if seconds >= 0.05 else 0.0:.1f}s"


def columns(text: str) -> int:
    """How many columns a terminal gives to `text`."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(character) for character in text)


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """`text`, or as much of it as fits in `width` columns."""
    if columns(text) <= width:
        return text
    used = 0
    for index, character in enumerate(text):
        used += _columns_of(character)
        if used > width:
            return text[:index]
    return text
