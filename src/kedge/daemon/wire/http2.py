"""One HTTP/2 connection, its client and what both ends have in common, over bytes that somebody else carries: RFC 9113.

Owns frames, streams and windows. Knows nothing of what a stream says (`channel`, `serving`), nor whose bytes they are.

A build moves a message or two for each file, and gRPC's own library hands each from thread to thread. Here whatever has
arrived is taken apart in one go by the thread that brings it, and a reader takes all that has come for it at once. The
peer is not trusted: what it sends without being read is bounded by the windows we give it, what it makes us send by
`_MOST_HELD`; what breaks the protocol ends the connection.
"""

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError

from kedge.daemon.wire import frames as f

Headers = Sequence[tuple[str, str]]

WINDOW: Final = 1 << 21  # bytes of one stream that may have arrived and not been read
LARGEST_HEADERS: Final = 1 << 20  # bytes of one block: errors travel in trailers
_MOST_HELD: Final = 1 << 20  # bytes that wait to be carried to the peer; whoever sends waits above it
MOST_OWED: Final = 1 << 24  # bytes that wait to be carried, answers too: a peer that reads none of them is left
_MOST_UNREAD: Final = 1 << 26  # bytes of all streams that have arrived and not been read
_MOST_BLOCKS: Final = 4  # of headers in a stream: those of the answer, its trailers, and some that only inform
_MOST_ABSORBED: Final = 1 << 25  # bytes of one stream that are taken unread while we wait to send on it
_PIECE: Final = 1 << 16  # bytes carried at once


class Connection:
    """One end. Thread-safe: one thread feeds, one carries away, any number use streams."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the collector may free a call, which cancels it, while we hold it
        self._sent = threading.Condition(self._lock)  # there is something to carry, or nothing ever will be
        self._room = threading.Condition(self._lock)  # a stream may be opened, or bytes sent, that might not before
        self._out: deque[bytes] = deque()
        self._held = 0  # bytes in `_out`
        self._rest = b""  # an incomplete frame
        self._block: tuple[int, bool, list[bytes]] | None = None  # headers under way: stream, is it its end, pieces
        self._encoder, self._decoder = Encoder(), Decoder(LARGEST_HEADERS)
        self._encoder.header_table_size = 0  # so it does not matter what the peer allows
        self._streams: dict[int, Stream] = {}
        self._next = 1  # the lowest number that no stream has had
        self._most_streams = 100  # of the client's, until the server says otherwise
        self._due: list[Callable[[], None]] = []  # to be called once the lock is free
        self._frame = f.LARGEST
        self._window, self._first_window = f.DEFAULT_WINDOW, f.DEFAULT_WINDOW  # what we may send: on all, on a new one
        self._allowed, self._unreturned = WINDOW, 0  # what the peer may send on all streams, and what it gets back
        self._unread = 0  # bytes of all streams
        self._going = False  # the peer takes no new streams
        self.closed = False
        with self._lock:
            self._greet()

    def _greet(self) -> None:
        raise NotImplementedError

    # ---- the two directions ------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what arrived from the peer, in pieces of any size."""
        with self._lock:
            if self.closed:
                return
            try:
                self._take(self._rest + data if self._rest else data)
            except f.Broken as broken:
                self._put(f.going(self._last_taken(), broken.code))
                self._close()
        self._call_due()

    def output(self) -> Iterator[bytes]:
        """What goes to the peer, as it comes to be, until the connection is closed."""
        while True:
            with self._lock:
                while not self._out:
                    if self.closed:
                        return
                    self._sent.wait()
                pieces, size = [], 0
                while self._out and size < _PIECE:
                    pieces.append(self._out.popleft())
                    size += len(pieces[-1])
                if self._held >= _MOST_HELD > self._held - size:
                    self._room.notify_all()
                self._held -= size
            yield b"".join(pieces)

    def close(self) -> None:
        """End it; streams that are open end without a word. What was to be sent may still be carried."""
        with self._lock:
            self._close()
        self._call_due()

    def _last_taken(self) -> int:
        """The last stream that was the peer's to open and that we have begun with."""
        return 0

    def _call_due(self) -> None:
        while self._due:
            with self._lock:
                due, self._due = self._due, []
            for call in due:
                try:
                    call()
                except Exception:  # whoever feeds has to go on
                    traceback.print_exc()

    def _close(self) -> None:
        self.closed = True
        for stream in list(self._streams.values()):
            stream._finish(f.REFUSED_STREAM)
        self._sent.notify_all()
        self._room.notify_all()

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._held += len(data)
        self._sent.notify()

    def _answer(self, data: bytes) -> None:
        """Put what the peer makes us say, however little it reads."""
        if self._held > _MOST_HELD * 2:
            raise f.Broken(f.ENHANCE_YOUR_CALM)
        self._put(data)

    def _put_headers(self, stream: int, headers: Headers, flags: int) -> None:
        block = self._encoder.encode(headers, huffman=False)  # its time grows with the square of a value's length
        for at in range(0, len(block), f.LARGEST):
            last = f.END_HEADERS if at + f.LARGEST >= len(block) else 0
            kind, own = (f.CONTINUATION, 0) if at else (f.HEADERS, flags)
            self._put(f.frame(kind, own | last, stream, block[at : at + f.LARGEST]))

    # ---- frames ------------------------------------------------------------------------------------------------------

    def _take(self, buffer: bytes) -> None:
        at, end = 0, len(buffer)
        while end - at >= 9:
            high, low, kind, flags, number = f.HEAD.unpack_from(buffer, at)
            length = high << 16 | low
            if length > f.LARGEST:
                raise f.Broken(f.FRAME_SIZE_ERROR)
            if end - at < 9 + length:
                break
            payload = buffer[at + 9 : at + 9 + length]
            at += 9 + length
            if self._block and kind != f.CONTINUATION:
                raise f.Broken(f.PROTOCOL_ERROR)
            self._frame_taken(kind, flags, number & f.LARGEST_WINDOW, payload)
        self._rest = buffer[at:]

    def _frame_taken(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == f.DATA:
            self._data(flags, self._stream(number), payload)
        elif kind == f.HEADERS:
            self._named(number)
            body = f.unpadded(flags, payload)
            self._headers(number, flags, body[5:] if flags & f.WITH_PRIORITY else body)
        elif kind == f.CONTINUATION:
            if not self._block or self._block[0] != number:
                raise f.Broken(f.PROTOCOL_ERROR)
            self._headers(number, flags, payload)
        elif kind == f.RST_STREAM:
            stream = self._stream(number)
            if len(payload) != 4:
                raise f.Broken(f.FRAME_SIZE_ERROR)
            if stream:
                stream._finish(f.NUMBER.unpack(payload)[0])
        elif kind == f.SETTINGS:
            self._settings(flags, number, payload)
        elif kind == f.PING:
            if len(payload) != 8 or number:
                raise f.Broken(f.FRAME_SIZE_ERROR)
            if not flags & f.ACK:
                self._answer(f.frame(f.PING, f.ACK, 0, payload))
        elif kind == f.GOAWAY:
            self._go(number, payload)
        elif kind == f.WINDOW_UPDATE:
            self._widen(number, payload)
        elif kind == f.PUSH_PROMISE:
            raise f.Broken(f.PROTOCOL_ERROR)

    def _stream(self, number: int) -> "Stream | None":
        """The stream of that number, None if it is over. Streams are only ours to open."""
        if not number % 2 or number >= self._next:
            raise f.Broken(f.PROTOCOL_ERROR)
        return self._streams.get(number)

    def _named(self, number: int) -> None:
        """A stream's headers begin."""
        self._stream(number)

    def _data(self, flags: int, stream: "Stream | None", payload: bytes) -> None:
        size = len(payload)
        self._allowed -= size
        self._unreturned += size
        if self._allowed < 0:
            raise f.Broken(f.FLOW_CONTROL_ERROR)
        self._return()
        if stream is None:
            return
        stream._allowed -= size
        if stream._allowed < 0:
            raise f.Broken(f.FLOW_CONTROL_ERROR)
        body = f.unpadded(flags, payload) if flags & f.PADDED else payload
        stream._return(size - len(body))
        if body:
            stream._arrived += body
            self._unread += len(body)
            stream._changed.notify()
            if stream._blocked:
                self._room.notify_all()
        if flags & f.END_STREAM:
            stream._hear_end()

    def _return(self) -> None:
        """Let the peer send more: read or not, up to a bound, for each stream has its own window."""
        if self._unreturned >= WINDOW // 2 and self._unread < _MOST_UNREAD and not self.closed:
            self._answer(f.widening(0, self._unreturned))
            self._allowed, self._unreturned = self._allowed + self._unreturned, 0

    def _headers(self, number: int, flags: int, piece: bytes) -> None:
        _, ended, pieces = self._block or (number, flags & f.END_STREAM, [])
        pieces.append(piece)
        if sum(map(len, pieces)) > LARGEST_HEADERS or len(pieces) > 256:
            raise f.Broken(f.ENHANCE_YOUR_CALM)
        if not flags & f.END_HEADERS:
            self._block = (number, bool(ended), pieces)
            return
        self._block = None
        try:
            found = self._decoder.decode(b"".join(pieces))
        except (HPACKError, UnicodeError):
            raise f.Broken(f.COMPRESSION_ERROR) from None
        if stream := self._streams.get(number):
            stream._blocks += 1
            if stream._blocks > _MOST_BLOCKS:
                raise f.Broken(f.ENHANCE_YOUR_CALM)
            self._told(stream, [(str(name), str(value)) for name, value in found])
            if ended:
                stream._hear_end()

    def _told(self, stream: "Stream", headers: list[tuple[str, str]]) -> None:
        stream.headers.update(headers)

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & f.ACK and payload):
            raise f.Broken(f.PROTOCOL_ERROR)
        if flags & f.ACK:
            return
        for name, value in dict(f.SETTING.iter_unpack(payload)).items():
            if name == f.MAX_CONCURRENT_STREAMS:
                self._most_streams = value
            elif name == f.MAX_FRAME_SIZE:
                self._frame = max(f.LARGEST, min(value, 1 << 20))
            elif name == f.INITIAL_WINDOW_SIZE:
                if value > f.LARGEST_WINDOW:
                    raise f.Broken(f.FLOW_CONTROL_ERROR)
                self._change_windows(value)
        self._answer(f.frame(f.SETTINGS, f.ACK, 0, b""))
        self._room.notify_all()

    def _change_windows(self, first: int) -> None:
        if first != self._first_window:
            for stream in list(self._streams.values()):
                stream._window += first - self._first_window
            self._first_window = first

    def _go(self, number: int, payload: bytes) -> None:
        if number or len(payload) < 8:
            raise f.Broken(f.PROTOCOL_ERROR)
        self._going = True
        last = f.NUMBER.unpack_from(payload)[0] & f.LARGEST_WINDOW
        for stream in [one for id, one in self._streams.items() if id > last]:
            stream._finish(f.REFUSED_STREAM)
        self._room.notify_all()

    def _widen(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise f.Broken(f.FRAME_SIZE_ERROR)
        more = f.NUMBER.unpack(payload)[0] & f.LARGEST_WINDOW
        if number == 0:
            self._window += more
        elif stream := self._stream(number):
            stream._window += more
            if stream._window > f.LARGEST_WINDOW:
                raise f.Broken(f.FLOW_CONTROL_ERROR)
        if not more or self._window > f.LARGEST_WINDOW:
            raise f.Broken(f.FLOW_CONTROL_ERROR if more else f.PROTOCOL_ERROR)
        self._room.notify_all()


class Stream:
    """One request and its answer. `headers` are the peer's: of an answer, its trailers among them once it is over."""

    def __init__(self, connection: Connection, id: int, window: int) -> None:
        self._connection, self.id = connection, id
        self._changed = threading.Condition(connection._lock)
        self.headers: dict[str, str] = {}
        self.error: int | None = None  # how it ended: f.NO_ERROR when all was said; None: it goes on
        self._heard_all = False  # the peer has said all it had to say
        self._arrived = bytearray()
        self._absorbed = 0  # of those, bytes that the peer got back before they were read
        self._blocked = False  # somebody waits in `send`
        self._blocks = 0  # of headers that came
        self._allowed, self._unreturned = WINDOW, 0
        self._window = window
        self._ended = False  # we have said all we had to say

    def send(self, data: bytes, deadline: float | None = None) -> bool:
        """Send bytes, waiting for the peer to have room for them. False when it is not listening any more. Raises
        TimeoutError when `deadline` (time.monotonic) has passed.

        While it waits, what the peer says is taken as if it was read: one that waits for us to listen is no deadlock.
        """
        connection = self._connection
        with connection._lock:
            at, size = 0, len(data)
            while at < size:
                if self.error is not None or self._ended:
                    return False
                room = min(self._window, connection._window, connection._frame, size - at)
                if room <= 0 or connection._held >= _MOST_HELD:
                    self._wait_for_room(deadline)
                    continue
                connection._put(f.frame(f.DATA, 0, self.id, data if room == size else data[at : at + room]))
                self._window -= room
                connection._window -= room
                at += room
            return True

    def _wait_for_room(self, deadline: float | None) -> None:
        fresh = len(self._arrived) - self._absorbed
        if self._absorbed + fresh <= _MOST_ABSORBED:
            self._absorbed += fresh
            self._return(fresh)
        self._blocked = True
        try:
            wait(self._connection._room, deadline)
        finally:
            self._blocked = False

    def end(self) -> None:
        """Say that no bytes follow."""
        with self._connection._lock:
            if not self._ended and self.error is None:
                self._ended = True
                self._connection._put(f.frame(f.DATA, f.END_STREAM, self.id, b""))
                self._connection._room.notify_all()  # who waits in `send` of this stream need not

    def receive(self, deadline: float | None = None) -> bytes:
        """All that has arrived and was not received yet, waited for; b"" once the peer has ended, see `error`. Raises
        TimeoutError when `deadline` (time.monotonic) has passed.
        """
        with self._connection._lock:
            while not (self._arrived or self._is_over()):
                wait(self._changed, deadline)
            data = bytes(self._arrived)
            self._return(len(data) - self._absorbed)
            self._forget()
            return data

    def _is_over(self) -> bool:
        return self._heard_all or self.error is not None

    def _forget(self) -> None:
        if self.error is None:
            self._connection._unread -= len(self._arrived)
            self._connection._return()
        self._arrived = bytearray()
        self._absorbed = 0

    def _return(self, size: int) -> None:
        """Let the peer send so many bytes more, told when it is worth a frame."""
        self._unreturned += size
        if self._unreturned >= WINDOW // 2 and self.error is None:
            self._connection._put(f.widening(self.id, self._unreturned))
            self._allowed, self._unreturned = self._allowed + self._unreturned, 0

    def cancel(self) -> None:
        """Want nothing of it any more."""
        with self._connection._lock:
            if self.error is None:
                self._connection._put(f.reset(self.id, f.CANCEL))
                self._finish(f.CANCEL)
            self._forget()

    def _hear_end(self) -> None:
        self._heard_all = True
        self._changed.notify_all()
        self._end_heard()

    def _end_heard(self) -> None:
        """A client's stream is over with the answer, whole or not what was asked."""
        if not self._ended and self.error is None:
            self._connection._put(f.reset(self.id, f.NO_ERROR))
        self._finish(f.NO_ERROR)

    def _finish(self, error: int) -> None:
        if self.error is None:
            self._connection._unread -= len(self._arrived)  # what is left is its reader's
            self.error = error
            self._connection._streams.pop(self.id, None)
            self._changed.notify_all()
            self._connection._room.notify_all()


def wait(changed: threading.Condition, deadline: float | None) -> None:
    """Wait for a change. Raises TimeoutError when `deadline` has passed."""
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise TimeoutError
    changed.wait(left)


class Client(Connection):
    """The end that opens streams."""

    def _greet(self) -> None:
        self._put(f.PREFACE)
        settings = ((f.ENABLE_PUSH, 0), (f.INITIAL_WINDOW_SIZE, WINDOW), (f.MAX_HEADER_LIST_SIZE, LARGEST_HEADERS))
        self._put(f.settings(settings))
        self._put(f.widening(0, WINDOW - f.DEFAULT_WINDOW))

    def open(self, headers: Headers, deadline: float | None = None) -> Stream:
        """A new stream with its request's headers. Waits while the peer has as many as it takes. Raises ConnectionError
        on a connection that takes none any more, TimeoutError when `deadline` (time.monotonic) has passed.
        """
        with self._lock:
            while len(self._streams) >= self._most_streams and not (self.closed or self._going):
                wait(self._room, deadline)
            if self.closed or self._going:
                raise ConnectionError("the connection is closed")
            return self._opened(headers)

    def ask(self, headers: Headers, data: bytes) -> Stream | None:
        """A new stream with all of its request, or None if that would have to wait, or the connection is closed."""
        with self._lock:
            if self.closed or self._going or len(self._streams) >= self._most_streams or self._held >= _MOST_HELD:
                return None
            if min(self._window, self._first_window) < len(data):
                return None
            stream = self._opened(headers)
            self._put(f.frame(f.DATA, f.END_STREAM, stream.id, data))
            stream._window -= len(data)
            self._window -= len(data)
            stream._ended = True
            return stream

    def _opened(self, headers: Headers) -> Stream:
        stream = self._streams[self._next] = Stream(self, self._next, self._first_window)
        self._next += 2
        self._put_headers(stream.id, headers, 0)
        return stream
