"""The end of an HTTP/2 connection that is asked.

Owns what only a server does: taking up streams, answering, saying that it goes. Does not know what a stream says.
"""

from collections.abc import Callable
from typing import Final

from kedge.daemon.wire import frames as f
from kedge.daemon.wire.http2 import LARGEST_HEADERS, MOST_OWED, WINDOW, Connection, Headers, Stream

_MOST_STREAMS: Final = 4096  # that a client may have open at once


class Asked(Stream):
    """A stream as a server has it: the request is read from it, the answer sent to it."""

    _connection: "Server"

    def __init__(self, connection: "Server", id: int, window: int) -> None:
        super().__init__(connection, id, window)
        self.metadata: list[tuple[str, str]] = []  # the request's headers, a name as often as it was told
        self.begun, self.answered = False, False
        self._callbacks: list[Callable[[], None]] = []

    def answer(self, headers: Headers) -> None:
        """The answer's headers, before its bytes."""
        with self._connection._lock:
            if self.error is None and not self._ended:
                self.answered = True
                self._connection._put_headers(self.id, headers, 0)

    def finish(self, trailers: Headers) -> None:
        """The answer's end."""
        with self._connection._lock:
            if self.error is None and not self._ended:
                self._ended = True
                self._connection._put_headers(self.id, trailers, f.END_STREAM)
                self._connection._require_reader()
                if not self._heard_all:  # there is no more to be said
                    self._connection._put(f.reset(self.id, f.NO_ERROR))
                self._finish(f.NO_ERROR)
            self._forget()
        self._connection._call_due()

    def on_end(self, callback: Callable[[], None]) -> bool:
        """Have `callback` called when the stream ends, for whatever reason; False if it has ended."""
        with self._connection._lock:
            if self.error is None:
                self._callbacks.append(callback)
            return self.error is None

    def _end_heard(self) -> None:
        """The request is whole; the answer is not."""

    def _finish(self, error: int) -> None:
        super()._finish(error)
        self._connection._due += self._callbacks
        self._callbacks = []


class Server(Connection):
    """The end that is asked: `on_stream` is called with each stream once its headers are there, by whoever feeds."""

    def __init__(self, on_stream: Callable[[Asked], None]) -> None:
        self._on_stream = on_stream
        self._greeted = False
        super().__init__()

    def go(self) -> None:
        """Take no more streams; those that are open may end."""
        with self._lock:
            if not self.closed:
                self._going = True
                self._put(f.going(self._last_taken(), f.NO_ERROR))

    def _require_reader(self) -> None:
        """Leave a client that asks, and reads none of its answers."""
        if self._held > MOST_OWED:
            self._close()

    def _last_taken(self) -> int:
        return max(self._next - 2, 0)

    @property
    def is_idle(self) -> bool:
        """Is no stream open?"""
        return not self._streams

    def _greet(self) -> None:
        settings = (
            (f.MAX_CONCURRENT_STREAMS, _MOST_STREAMS),
            (f.INITIAL_WINDOW_SIZE, WINDOW),
            (f.MAX_HEADER_LIST_SIZE, LARGEST_HEADERS),
        )
        self._put(f.settings(settings))
        self._put(f.widening(0, WINDOW - f.DEFAULT_WINDOW))

    def _take(self, buffer: bytes) -> None:
        if not self._greeted:
            if not f.PREFACE.startswith(buffer[: len(f.PREFACE)]):
                raise f.Broken(f.PROTOCOL_ERROR)
            if len(buffer) < len(f.PREFACE):
                self._rest = buffer
                return
            self._greeted = True
            buffer = buffer[len(f.PREFACE) :]
        super()._take(buffer)

    def _go(self, number: int, payload: bytes) -> None:
        """A client goes when it has what it asked for: it speaks of streams that we might open, and do not."""
        if number or len(payload) < 8:
            raise f.Broken(f.PROTOCOL_ERROR)

    def _named(self, number: int) -> None:
        if number % 2 and number >= self._next:
            self._next = number + 2
            if self._going or len(self._streams) >= _MOST_STREAMS:
                self._answer(f.reset(number, f.REFUSED_STREAM))
                return
            self._streams[number] = Asked(self, number, self._first_window)
        else:
            self._stream(number)

    def _told(self, stream: Stream, headers: list[tuple[str, str]]) -> None:
        assert isinstance(stream, Asked)
        if not stream.begun:
            stream.begun, stream.metadata = True, headers
            super()._told(stream, headers)
            self._due.append(lambda: self._on_stream(stream))
