"""The display for logs and pipes: one line after the other, each with its step's number, as BuildKit's plain output.

Owns the order in which steps that run side by side take turns. The plan: what has just ended is shown first, to its
end; then the step that was being shown goes on; another takes over only when the shown one has ended, or has had the
screen long enough while others were kept waiting. A step that is left unfinished is marked `#5 ...`; coming back
repeats its name.
"""

from collections.abc import Callable

from kedge.model.event import StatusEvent, visible
from kedge.progress.drawing import TraceDisplay, Writer
from kedge.progress.trace import Part, Row
from kedge.progress.words import failure_lines, log_time, progress

PATIENCE = 5.0  # seconds that a step keeps the screen while others wait
NEGLECT = 10.0  # seconds after which a waiting step is shown in any case
STEP_SECONDS, STEP_SHARE = 5.0, 0.05  # a transfer is shown again after this time or this part of its total
TAIL = 10  # lines of a failed step that are shown again at the end


class Plain(TraceDisplay):
    """A display that only ever appends."""

    def __init__(self, out: Writer, clock: Callable[[], float]) -> None:
        super().__init__(out)
        self._clock = clock
        self._shown: Row | None = None
        self._since = 0.0  # when `_shown` took the screen
        self._waiting: dict[int, float] = {}  # id of a row with news -> since when
        self._numbers = 0
        self._open_line = False  # the cursor stands behind output that had no newline
        self._reported: dict[tuple[int, str], StatusEvent] = {}

    def _tell_failure(self, row: Row) -> None:
        self._lines(failure_lines(row, TAIL))

    # ---- who is shown ------------------------------------------------------------------------------------------------

    def _draw(self, final: bool = False) -> None:
        now = self._clock()
        news = [row for row in self._trace.rows if row.updates]
        for row in news:
            self._waiting.setdefault(id(row), now)
        ended = [row for row in news if row.over]
        if self._shown in ended:
            self._show(self._shown, now)
        for row in sorted((row for row in ended if row.updates), key=lambda row: row.completed or 0.0):
            self._show(row, now)
        running = [row for row in news if row.updates and not row.over]
        for row in running if final else self._turn(running, now):
            self._show(row, now)
        for row in self._trace.rows if final else ():
            if row.completed is not None and not row.told:
                self._show(row, now, final=True)
        self._out.flush()

    def _turn(self, running: list[Row], now: float) -> list[Row]:
        """Which of the running rows with news are shown now."""
        if self._shown is None:
            return [max(running, key=lambda row: row.updates)] if running else []
        turn = [self._shown] if self._shown in running else []
        others = [row for row in running if row is not self._shown]
        neglected = [row for row in others if now - self._waiting.get(id(row), now) > NEGLECT]
        if neglected:
            return [*turn, neglected[0]]
        if others and now - self._since > PATIENCE * (1 + len(turn)):
            return [*turn, max(others, key=lambda row: row.updates)]
        return turn

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def _show(self, row: Row | None, now: float, final: bool = False) -> None:
        if row is None:
            return
        if row is not self._shown:
            self._switch(row, now)
        for part in row.parts.values():
            self._part(row, part)
        for warning in row.warnings:
            self._line(row, f"WARN: {visible(warning.message)}")
        row.warnings.clear()
        self._output(row)
        row.updates = 0
        self._waiting.pop(id(row), None)
        row.told = row.over or final
        if row.told:
            self._line(row, _outcome(row, now))
            self._shown = None

    def _switch(self, row: Row, now: float) -> None:
        if self._shown:
            self._line(self._shown, "...")
        if self._numbers:
            self._lines([""])
        if not row.number:
            self._numbers += 1
            row.number = self._numbers
        self._shown, self._since = row, now
        self._line(row, row.name)

    def _part(self, row: Row, part: Part) -> None:
        if not part.fresh:
            return
        part.fresh = False
        status, key = part.status, (id(row), part.status.id)
        last = self._reported.get(key)
        if last and status.completed is None:
            share = (status.current - last.current) / status.total if status.total else 0.0
            if share < STEP_SHARE and status.timestamp - last.timestamp < STEP_SECONDS:
                return
        self._reported[key] = status
        self._line(row, _status(status))

    def _output(self, row: Row) -> None:
        """Append what a step wrote; a piece of a line is shown at once and goes on where it stopped."""
        for event in row.fresh_output:
            pieces = event.data.split(b"\n")
            for index, piece in enumerate(pieces):
                last = index == len(pieces) - 1
                text = piece.decode("utf-8", "replace")
                if text or not last:
                    head = (
                        "" if self._open_line else f"#{row.number} {log_time(event.timestamp - (row.started or 0.0))} "
                    )
                    self._out.write(head + text)
                    self._open_line = True
                if not last:
                    self._end_line()
        row.fresh_output.clear()

    def _line(self, row: Row, text: str) -> None:
        self._lines([f"#{row.number} {text}"])

    def _lines(self, lines: list[str]) -> None:
        self._end_line()
        self._out.write("".join(line + "\n" for line in lines))

    def _end_line(self) -> None:
        if self._open_line:
            self._out.write("\n")
            self._open_line = False


def _outcome(row: Row, now: float) -> str:
    if row.cancelled:
        return "CANCELED"
    if row.error:
        return f"ERROR: {row.error}"
    return "CACHED" if row.cached else f"DONE {row.seconds(now):.1f}s"


def _status(status: StatusEvent) -> str:
    words = [visible(status.id), progress(status.current, status.total)]
    seconds = (status.completed or status.timestamp) - (
        status.started if status.started is not None else status.timestamp
    )
    if seconds > 0.01:
        words.append(f"{seconds:.1f}s")
    if status.completed is not None:
        words.append("done")
    return " ".join(word for word in words if word)
