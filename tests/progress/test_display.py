"""Which display is chosen, and that a build's threads may all report to it."""

import io
import os
import threading
import time

import pytest

from kedge.model.digest import Digest
from kedge.model.errors import InvalidInput
from kedge.model.event import Event, LogEvent, VertexEvent
from kedge.progress.display import Quiet, Screen, choose
from kedge.progress.plain import Plain
from kedge.progress.rawjson import RawJson
from kedge.progress.tty import Tty


def test_auto_is_plain_without_a_terminal() -> None:
    assert isinstance(choose("auto", io.StringIO()), Plain)


def test_auto_is_live_on_a_terminal() -> None:
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        assert isinstance(choose("auto", terminal), Tty)
    os.close(master)


def test_modes_by_name() -> None:
    assert isinstance(choose("rawjson", io.StringIO()), RawJson)
    assert isinstance(choose("quiet", io.StringIO()), Quiet)


@pytest.mark.parametrize("mode", ["tty", "fancy"])
def test_what_cannot_be_shown_is_an_error(mode: str) -> None:
    with pytest.raises(InvalidInput):
        choose(mode, io.StringIO())


def test_events_from_many_threads_all_arrive_in_each_threads_order() -> None:
    out = io.StringIO()
    with Screen(Plain(out, time.time)) as screen:
        screen(VertexEvent(Digest("sha256:a"), "x", started=time.time()))

        def report(number: int) -> None:
            for line in range(200):
                screen(LogEvent(Digest("sha256:a"), 1, b"t%d %d\n" % (number, line), time.time()))

        threads = [threading.Thread(target=report, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    words = [line.split()[-2:] for line in out.getvalue().splitlines() if " t" in line]
    for number in range(4):
        assert [int(n) for t, n in words if t == f"t{number}"] == list(range(200))


def test_a_reader_that_goes_away_ends_the_display_and_not_the_build() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with Screen(Plain(Gone(), time.time)) as screen:
        event: Event = VertexEvent(Digest("sha256:a"), "x", started=1.0)
        screen(event)
        time.sleep(0.05)
        screen(event)
