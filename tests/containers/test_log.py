"""A container's log on disk: what is kept, and what readers see of it."""

import threading
from pathlib import Path

from kedge.containers.log import ContainerLog, LogLimits


def lines(log: ContainerLog, **how: object) -> list[bytes]:
    return [line.data for line in log.read(**how) if line is not None]  # type: ignore[arg-type]


def test_lines_are_kept_whole_whatever_pieces_they_come_in(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "log")
    log.begin()
    for piece in (b"on", b"e\ntwo\nth", b"ree"):
        log.write(1, piece)
    assert lines(log) == [b"one\n", b"two\n"]
    log.end()
    assert lines(log) == [b"one\n", b"two\n", b"three"]
    assert lines(log, tail=1) == [b"three"]


def test_the_oldest_files_go(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "log")
    log.begin(LogLimits(size=1000, files=3))
    for number in range(500):
        log.write(1, b"%d\n" % number)
    log.end()
    kept = lines(log)
    assert kept == [b"%d\n" % n for n in range(500 - len(kept), 500)]
    assert len(kept) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) in (["log", "log.1", "log.2"], ["log.1", "log.2"])
    assert all(path.stat().st_size < 2000 for path in tmp_path.iterdir())


def test_one_file_begins_again_when_it_is_full(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "log")
    log.begin(LogLimits(size=300))
    for number in range(100):
        log.write(1, b"%d\n" % number)
    log.end()
    assert 0 < len(lines(log)) < 50
    assert lines(log)[-1] == b"99\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_is_kept_where_nothing_is_wanted(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "log")
    log.begin(LogLimits(kept=False))
    log.write(1, b"unheard\n")
    log.end()
    assert lines(log) == []


def test_who_follows_misses_nothing_when_files_change(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "log")
    log.begin(LogLimits(size=400, files=200))
    log.write(1, b"first\n")
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.extend(lines(log, follow=True)))
    reader.start()
    for number in range(300):
        log.write(1, b"%d\n" % number)
    log.end()
    reader.join(60)
    assert seen == [b"first\n", *(b"%d\n" % n for n in range(300))]
