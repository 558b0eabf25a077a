"""What a container said, line by line, on disk.

Owns the file: records of a header (stream, length, nanoseconds since the epoch) and a line's bytes. A line without an
end is kept once it is long, or the container has ended. Does not know who reads.
"""

import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
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


class ContainerLog:
    """The log of one container, for one writing and any number of reading threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial: dict[int, bytes] = {}
        self._changed = threading.Condition()
        self._ended = True
        self._fd = -1

    def begin(self) -> None:
        """The container starts (again): readers that follow now wait for it."""
        with self._changed:
            self._ended = False

    def write(self, stream: int, data: bytes) -> None:
        """Keep what came on a stream."""
        with self._changed:
            lines = (self._partial.pop(stream, b"") + data).split(b"\n")
            rest = lines.pop()
            now = time.time_ns()
            whole = b"".join(_record(stream, now, line + b"\n") for line in lines)
            while len(rest) >= _LONGEST:
                whole += _record(stream, now, rest[:_LONGEST])
                rest = rest[_LONGEST:]
            if rest:
                self._partial[stream] = rest
            self._append(whole)

    def end(self) -> None:
        """The container has ended: nothing more comes."""
        with self._changed:
            now = time.time_ns()
            self._append(b"".join(_record(stream, now, rest) for stream, rest in self._partial.items()))
            self._partial.clear()
            self._ended = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            self._changed.notify_all()

    def _append(self, data: bytes) -> None:
        if not data:
            return
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(self._fd, data)
        except OSError:
            return  # a full disk must not stop the container; what it says still reaches those attached
        self._changed.notify_all()

    def read(self, *, tail: int | None = None, since: int = 0, until: int = 0, follow: bool = False) -> Iterator[
        LogLine | None
    ]:  # fmt: skip
        """The lines, oldest first: the last `tail`, those between two times; then, with `follow`, what is still to
        come.

        Following gives None now and then while nothing comes, so that a reader may look whether it is still wanted.
        """
        try:
            file = open(self._path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            if not follow:
                return
            self._path.touch(0o600)
            file = open(self._path, "rb")  # noqa: SIM115
        except OSError as error:
            raise StoreError(f"cannot read the container's log: {error.strerror}") from None
        with file:
            lines = (line for line in _lines(file) if since <= line.time and (not until or line.time <= until))
            yield from deque(lines, tail) if tail is not None else lines
            while follow:
                with self._changed:
                    ended = self._ended
                    if not ended and file.tell() >= os.fstat(file.fileno()).st_size:
                        self._changed.wait(1.0)
                come = False
                for line in _lines(file):
                    come = True
                    if until and line.time > until:
                        return
                    yield line
                if ended and not come:
                    return
                if not come:
                    yield None


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
