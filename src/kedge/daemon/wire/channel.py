"""gRPC's calls over one HTTP/2 connection: what a session needs of `grpc.Channel`, and calls to be sent to directly.

Owns what gRPC makes of a stream ("gRPC over HTTP2": headers, messages with a length, a status in the trailers). Does
not know services, nor who carries the bytes (`http2`).
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote

import grpc

from kedge.daemon.wire import frames, http2
from kedge.daemon.wire.framing import TooLarge, Unframer, Unreadable, framed, header_text

LARGEST_ANSWER: Final = 16 << 20  # bytes of one message of a client's, who is not trusted; as in BuildKit
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
# What a stream that ended without a status means: "gRPC over HTTP2", errors.
_BROKEN: Final = {
    frames.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    frames.CANCEL: grpc.StatusCode.CANCELLED,
    frames.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_HTTP: Final = {
    "400": grpc.StatusCode.INTERNAL,
    "401": grpc.StatusCode.UNAUTHENTICATED,
    "403": grpc.StatusCode.PERMISSION_DENIED,
    "404": grpc.StatusCode.UNIMPLEMENTED,
    **dict.fromkeys(("429", "502", "503", "504"), grpc.StatusCode.UNAVAILABLE),
}
Metadata = Sequence[tuple[str, str | bytes]]
_Bytes = Callable[[Any], bytes] | None
_Message = Callable[[bytes], Any] | None


class CallError(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """How a call failed."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        """gRPC's code."""
        return self._code

    def details(self) -> str:
        """The peer's words, or ours."""
        return self._details


class Call:
    """One call under way: messages are sent to it, and it is an iterator over those that come back.

    The iterator raises CallError where the status at its end is not OK.
    """

    def __init__(self, stream: http2.Stream, to_bytes: _Bytes, from_bytes: _Message, deadline: float | None) -> None:
        self._stream, self._to_bytes, self._from_bytes = stream, to_bytes, from_bytes
        self._deadline = deadline
        self._messages = Unframer(LARGEST_ANSWER)
        self._failure: CallError | None = None

    def send(self, message: Any) -> bool:
        """Send one message, waiting for the peer to have room; False when it is not listening any more."""
        data = self._to_bytes(message) if self._to_bytes else message
        try:
            return self._stream.send(framed(data), self._deadline)
        except TimeoutError:
            self._fail(grpc.StatusCode.DEADLINE_EXCEEDED, "the request was not taken in time")
            return False

    def end(self) -> None:
        """Say that there are no more."""
        self._stream.end()

    def cancel(self) -> None:
        """Want nothing of it any more."""
        self._stream.cancel()

    def done(self) -> bool:
        """Has the peer said all it has to say?"""
        return self._stream.error is not None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while not self._messages.ready:
            if self._failure:
                raise self._failure
            self._receive()
        try:
            data = self._messages.take()
        except TooLarge as error:
            self._fail(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except Unreadable as error:
            self._fail(grpc.StatusCode.INTERNAL, str(error))
        if self._failure:
            raise self._failure
        return self._from_bytes(data) if self._from_bytes else data

    def _receive(self) -> None:
        """Take apart what has arrived. Raises StopIteration at a good end."""
        try:
            data = self._stream.receive(self._deadline)
        except TimeoutError:
            self._fail(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time")
            return
        if not data:
            self._end()
            return
        try:
            self._messages.feed(data)
        except TooLarge as error:
            self._fail(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    def _fail(self, code: grpc.StatusCode, details: str) -> None:
        self._stream.cancel()
        self._failure = CallError(code, details)

    def _end(self) -> None:
        code, details = _status(self._stream)
        if code == grpc.StatusCode.OK:
            if self._messages.is_between:
                raise StopIteration
            code, details = grpc.StatusCode.INTERNAL, "a message is cut off"
        self._failure = CallError(code, details)


def _status(stream: http2.Stream) -> tuple[grpc.StatusCode, str]:
    if (told := stream.headers.get("grpc-status")) is not None:
        code = _CODES.get(int(told) if told.isdecimal() and len(told) < 4 else -1, grpc.StatusCode.UNKNOWN)
        return code, unquote(stream.headers.get("grpc-message", ""))
    if stream.error:
        return _BROKEN.get(stream.error, grpc.StatusCode.INTERNAL), f"the stream ended with HTTP/2 error {stream.error}"
    http = stream.headers.get(":status", "")
    if http != "200":
        return _HTTP.get(http, grpc.StatusCode.UNKNOWN), f"HTTP status {http}"
    return grpc.StatusCode.INTERNAL, "the answer has no status"


class Channel:
    """The peer's services. Thread-safe."""

    def __init__(self) -> None:
        self.connection = http2.Client()

    def close(self) -> None:
        """End it; calls under way fail."""
        self.connection.close()

    def open(
        self, path: str, to_bytes: _Bytes = None, from_bytes: _Message = None, *, metadata: Metadata = (),
        timeout: float | None = None,
    ) -> Call:  # fmt: skip
        """A call to be sent to. Raises CallError when the peer is gone."""
        headers = [*_request(path), *((name.lower(), header_text(value)) for name, value in metadata)]
        if timeout is not None:
            headers.append(("grpc-timeout", f"{min(int(timeout * 1000), 99_999_999)}m"))
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            stream = self.connection.open(headers, deadline)
        except ConnectionError as error:
            raise CallError(grpc.StatusCode.UNAVAILABLE, str(error)) from None
        except TimeoutError:
            raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "the request was not taken in time") from None
        return Call(stream, to_bytes, from_bytes, deadline)

    def ask(self, path: str) -> Call | None:
        """An empty request, None if it would have to wait for the peer or the peer is gone."""
        stream = self.connection.ask(_request(path), framed(b""))
        return Call(stream, None, None, None) if stream else None

    # ---- as grpc.Channel has them ------------------------------------------------------------------------------------

    def unary_unary(self, path: str, to_bytes: _Bytes = None, from_bytes: _Message = None) -> Callable[..., Any]:
        """One answer to one request."""

        def call(request: Any, **options: Any) -> Any:
            under_way = self._with_one(path, to_bytes, from_bytes, request, options)
            answers = list(islice(under_way, 2))  # its status comes after the first
            if len(answers) != 1:
                under_way.cancel()
                raise CallError(grpc.StatusCode.INTERNAL, "no answer, or more than the one that there should be")
            return answers[0]

        return call

    def unary_stream(self, path: str, to_bytes: _Bytes = None, from_bytes: _Message = None) -> Callable[..., Call]:
        """Answers to one request."""
        return lambda request, **options: self._with_one(path, to_bytes, from_bytes, request, options)

    def stream_stream(self, path: str, to_bytes: _Bytes = None, from_bytes: _Message = None) -> Callable[..., Call]:
        """Answers to requests that a thread of their own takes from an iterator."""

        def call(requests: Iterator[Any], **options: Any) -> Call:
            under_way = self.open(path, to_bytes, from_bytes, **options)
            threading.Thread(target=_send_all, args=(under_way, requests), name="requests", daemon=True).start()
            return under_way

        return call

    def _with_one(self, path: str, to_bytes: _Bytes, from_bytes: _Message, request: Any, options: Any) -> Call:
        under_way = self.open(path, to_bytes, from_bytes, **options)
        under_way.send(request)
        under_way.end()
        return under_way


def _send_all(call: Call, requests: Iterator[Any]) -> None:
    try:
        for request in requests:
            if not call.send(request):
                return
        call.end()
    except Exception:
        call.cancel()
        raise


def _request(path: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"), ("te", "trailers"),
        ("content-type", "application/grpc"), ("user-agent", "kedge"),
    ]  # fmt: skip
