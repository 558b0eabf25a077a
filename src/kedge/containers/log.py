"""What a container said, line by line, on disk.

Owns the files: records of a header (stream, length, nanoseconds since the epoch) and a line's bytes. A line without an
end is kept once it is long, or the container has ended. A file that has reached its size becomes `log.1`, which was
`log.2` before, and the oldest goes. Does not know who reads.
"""

import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from kedge.model.errors import StoreError
from kedge.model.value import dataclass

_HEAD = struct.Struct(">BxxxIQ")
_LONGEST = 16 << 10  # bytes of a line that are held back


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line with its end, or a part of a long one; `time` in nanoseconds since the epoch."""

    stream: int
    time: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much is kept: files of `size` bytes (0: one, without end), `files` of them. `kept` False: nothing."""

    size: int = 0
    files: int = 1
    kept: bool = True


class ContainerLog:
    """The log of one container, for one writing and any number of reading threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._limits = LogLimits()
        self._partial: dict[int, bytes] = {}
        self._changed = threading.Condition()
        self._ended = True
        self._fd = -1

    def begin(self, limits: LogLimits | None = None) -> None:
        """The container starts (again): readers that follow now wait for it."""
        with self._changed:
            self._ended = False
            self._limits = limits or self._limits

    def write(self, stream: int, data: bytes) -> None:
        """Keep what came on a stream."""
        with self._changed:
            lines = (self._partial.pop(stream, b"") + data).split(b"\n")
            rest = lines.pop()
            now = time.time_ns()
            records = [_record(stream, now, line + b"\n") for line in lines]
            while len(rest) >= _LONGEST:
                records.append(_record(stream, now, rest[:_LONGEST]))
                rest = rest[_LONGEST:]
            if rest:
                self._partial[stream] = rest
            self._append(records)

    def end(self) -> None:
        """The container has ended: nothing more comes."""
        with self._changed:
            now = time.time_ns()
            self._append([_record(stream, now, rest) for stream, rest in self._partial.items()])
            self._partial.clear()
            self._ended = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            self._changed.notify_all()

    def _append(self, records: list[bytes]) -> None:
        if not records or not self._limits.kept:
            return
        try:
            for piece in _pieces(records, self._limits.size):
                if self._fd < 0:
                    self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                os.write(self._fd, piece)
                if self._limits.size and os.fstat(self._fd).st_size >= self._limits.size:
                    self._rotate()
        except OSError:
            return  # a full disk must not stop the container; what it says still reaches those attached
        self._changed.notify_all()

    def _rotate(self) -> None:
        os.close(self._fd)
        self._fd = -1
        last = max(1, self._limits.files) - 1
        if not last:
            self._path.unlink(missing_ok=True)
        for number in range(last, 0, -1):
            newer = self._old(number - 1) if number > 1 else self._path
            if newer.exists():
                newer.replace(self._old(number))

    def _old(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def read(self, *, tail: int | None = None, since: int = 0, until: int = 0, follow: bool = False) -> Iterator[
        LogLine | None
    ]:  # fmt: skip
        """The lines, oldest first: the last `tail`, those between two times; then, with `follow`, what is still to
        come.

        Following gives None now and then while nothing comes, so that a reader may look whether it is still wanted.
        """
        files = self._open(follow)
        lines = (
            line for file in files for line in _lines(file) if since <= line.time and (not until or line.time <= until)
        )
        try:
            yield from deque(lines, tail) if tail is not None else lines
            if follow:
                yield from self._follow(files[-1], until)
        finally:
            for file in files:
                file.close()

    def _open(self, follow: bool) -> list[BinaryIO]:
        """The files, oldest first. The lock keeps them in place meanwhile."""
        with self._changed:
            older: list[Path] = []
            while (path := self._old(len(older) + 1)).exists():
                older.insert(0, path)
            try:
                if follow:
                    self._path.touch(0o600)
                return [open(path, "rb") for path in (*older, self._path) if path.exists()]
            except OSError as error:
                raise StoreError(f"cannot read the container's log: {error.strerror}") from None

    def _follow(self, file: BinaryIO, until: int) -> Iterator[LogLine | None]:
        """What comes from now on, from one file to the next; None now and then."""
        with ExitStack() as stack:
            while True:
                with self._changed:
                    ended = self._ended
                    if not ended and file.tell() >= os.fstat(file.fileno()).st_size:
                        self._changed.wait(1.0)
                    full = os.fstat(file.fileno()).st_nlink == 0 or not _is_at(file, self._path)
                come = False
                for line in _lines(file):
                    come = True
                    if until and line.time > until:
                        return
                    yield line
                if full and (file_after := self._after(file)) is not None:
                    file = stack.enter_context(file_after)
                    continue
                if ended and not come:
                    return
                if not come:
                    yield None

    def _after(self, file: BinaryIO) -> BinaryIO | None:
        """The file that was begun after that one."""
        with self._changed:
            for number in range(1, self._limits.files):
                if _is_at(file, self._old(number)):
                    newer = self._old(number - 1) if number > 1 else self._path
                    return open(newer, "rb") if newer.exists() else None
            return open(self._path, "rb") if self._path.exists() else None


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _pieces(records: list[bytes], size: int) -> Iterator[bytes]:
    """The records in pieces that are small beside a file of that size; 0: in one."""
    if not size:
        yield b"".join(records)
        return
    piece = b""
    for record in records:
        piece += record
        if len(piece) * 8 >= size:
            yield piece
            piece = b""
    if piece:
        yield piece


def _record(stream: int, now: int, data: bytes) -> bytes:
    return _HEAD.pack(stream, len(data), now) + data


def _lines(file: BinaryIO) -> Iterator[LogLine]:
    """The whole records from here on; the file stands behind the last one afterwards."""
    while True:
        here = file.tell()
        head = file.read(_HEAD.size)
        if len(head) == _HEAD.size:
            stream, length, moment = _HEAD.unpack(head)
            data = file.read(length)
            if len(data) == length:
                yield LogLine(stream, moment, data)
                continue
        file.seek(here)
        return
