"""gRPC's services over one HTTP/2 connection: what a server makes of a stream.

Owns the way from a stream to a method and back ("gRPC over HTTP2"), for the handlers that `calls.handler` makes, which
gRPC's own library serves as well. Does not know services, users, nor who carries the bytes (`http2`).
"""

import sys
import threading
import traceback
from base64 import b64decode
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final, NoReturn
from urllib.parse import quote

import grpc

from kedge.daemon.listening import Room
from kedge.daemon.peer import Peer
from kedge.daemon.wire.framing import TooLarge, Unframer, Unreadable, framed, header_text
from kedge.daemon.wire.http2_server import Asked, Server

_LARGEST_REQUEST: Final = 128 << 20  # bytes of one message: whole graphs travel in one
_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_Details = namedtuple("_Details", ("method", "invocation_metadata"))


class _Ended(Exception):
    """A call that its method broke off, or whose client is gone; `grpc.ServicerContext.abort` raises as much."""


class Context:
    """What a method knows of its call, as far as ours ask: `grpc.ServicerContext` in small."""

    def __init__(self, stream: Asked, caller: Peer) -> None:
        self._stream, self.caller = stream, caller
        self.code, self.details, self.trailers = grpc.StatusCode.OK, "", tuple[tuple[str, Any], ...]()

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the client told beside the request."""
        told = (one for one in self._stream.metadata if not one[0].startswith(":"))
        return tuple((name, value) for name, text in told for value in _values(name, text))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have `callback` called when the call ends; False if it has ended."""
        return self._stream.on_end(callback)

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call with an error."""
        self.code, self.details = code, details
        raise _Ended

    def abort_with_status(self, status: Any) -> NoReturn:
        """End the call with an error of `code`, `details` and `trailing_metadata`."""
        self.trailers = tuple(status.trailing_metadata or ())
        self.abort(status.code, status.details)


class Services:
    """Handlers, and the connections on which they are served now. `executor` has a thread for each call; `room` says
    who may have one more, even if it comes to nothing: a call that was broken off has its thread until that is seen.
    """

    def __init__(self, executor: Executor, room: Room) -> None:
        self._executor, self._room = executor, room
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._live: set[Server] = set()
        self._changed = threading.Condition()
        self._stopped = False

    def add(self, handler: grpc.GenericRpcHandler) -> None:
        """Serve these methods, too."""
        self._handlers.append(handler)

    def connect(self, caller: Peer) -> Server:
        """A new connection of that client; give it back by `disconnect`."""
        connection = Server(lambda stream: self._begin(stream, caller))
        with self._changed:
            self._live.add(connection)
        if self._stopped:
            connection.go()
        return connection

    def disconnect(self, connection: Server) -> None:
        """The connection has ended."""
        connection.close()
        with self._changed:
            self._live.discard(connection)
            self._changed.notify_all()

    def stop(self, grace: float) -> None:
        """Take no more calls; let those under way end for `grace` seconds, then break them off."""
        self._stopped = True
        with self._changed:
            live = list(self._live)
            for one in live:
                one.go()
            self._changed.wait_for(lambda: all(one.is_idle for one in self._live), grace)
        for one in live:
            one.close()

    # ---- a call ------------------------------------------------------------------------------------------------------

    def _begin(self, stream: Asked, caller: Peer) -> None:
        with self._changed:
            entered = self._room.enter(caller.realm)
        if not entered:
            _finish(stream, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls of this user are under way")
            return
        try:
            self._executor.submit(self._answer, stream, caller)
        except RuntimeError:  # the service ends; or there is no new thread, and one that comes free will take it up
            _finish(stream, grpc.StatusCode.UNAVAILABLE, "the service takes no calls now")

    def _leave(self, caller: Peer) -> None:
        with self._changed:
            self._room.leave(caller.realm)
            self._changed.notify_all()

    def _answer(self, stream: Asked, caller: Peer) -> None:
        context = Context(stream, caller)
        try:
            if stream.error is None:
                self._call(stream, context)
        except _Ended:
            pass
        except TooLarge as error:
            context.code, context.details = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        except Unreadable as error:
            context.code, context.details = grpc.StatusCode.INTERNAL, str(error)
        except Exception as error:
            traceback.print_exception(error, file=sys.stderr)
            context.code, context.details = grpc.StatusCode.UNKNOWN, f"{type(error).__name__} in the service"
        try:
            _finish(stream, context.code, context.details, context.trailers)
        finally:
            self._leave(caller)

    def _call(self, stream: Asked, context: Context) -> None:
        method = self._method(stream, context)
        requests = _requests(stream, method.request_deserializer)
        request = requests if method.request_streaming else next(requests, None)
        if request is None:
            if stream.error is None:
                context.abort(grpc.StatusCode.INTERNAL, "a call without a request")
            raise _Ended
        function = next(
            one
            for one in (method.unary_unary, method.unary_stream, method.stream_unary, method.stream_stream)
            if one is not None
        )
        found = function(request, context)
        _send(stream, found if method.response_streaming else (found,), method.response_serializer)

    def _method(self, stream: Asked, context: Context) -> Any:
        path = stream.headers.get(":path", "")
        if not stream.headers.get("content-type", "").startswith("application/grpc"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no gRPC")
        details = _Details(path, ())
        for handler in self._handlers:
            if (found := handler.service(details)) is not None:
                return found
        context.abort(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {path[:300]}")


def _requests(stream: Asked, from_bytes: Callable[[bytes], Any]) -> Iterator[Any]:
    """What the client sends, until it says that there is no more. Raises Unreadable, _Ended when it is gone."""
    messages = Unframer(_LARGEST_REQUEST)
    messages.encoding = stream.headers.get("grpc-encoding", "identity")
    while True:
        while messages.ready:
            data = messages.take()
            try:
                message = from_bytes(data)
            except Exception:  # protobuf's own
                raise Unreadable("a message cannot be read") from None
            yield message
        if not (data := stream.receive()):
            break
        messages.feed(data)
    if stream.error is not None:
        raise _Ended
    if not messages.is_between:
        raise Unreadable("a message is cut off")


def _send(stream: Asked, answers: Iterable[Any], to_bytes: Callable[[Any], bytes]) -> None:
    """Send these; raises _Ended when the client takes no more."""
    stream.answer(_HEADERS)
    for answer in answers:
        if not stream.send(framed(to_bytes(answer))):
            raise _Ended


_HEADERS: Final = ((":status", "200"), ("content-type", "application/grpc"))


def _finish(stream: Asked, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, Any], ...] = ()) -> None:
    """The status, behind headers if there were none: "Trailers-Only"."""
    told = [("grpc-status", str(code.value[0])), *((name.lower(), header_text(value)) for name, value in trailers)]
    if details:
        told.append(("grpc-message", quote(details, safe=_PRINTABLE, errors="replace")))
    stream.finish(told if stream.answered else [*_HEADERS, *told])


def _values(name: str, text: str) -> Iterator[str | bytes]:
    """One header's value, or all that stand in it: those of bytes may be joined by commas."""
    if not name.endswith("-bin"):
        yield text
        return
    for part in text.split(","):
        with suppress(ValueError):
            yield b64decode(part + "=" * (-len(part) % 4))
