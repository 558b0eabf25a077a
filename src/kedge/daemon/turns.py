"""The threads in which calls are answered, shared fairly between those who call.

Owns who may have one more. A call has a turn as long as it holds a thread: a client that breaks calls off to make new
ones gains nothing. Does not know any service.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import grpc

from kedge.daemon.listening import Room
from kedge.daemon.peer import Peer
from kedge.model.errors import Cancelled

_REFUSED: Final = "too many calls of this user are being answered"
_Method: TypeAlias = Callable[[Any, grpc.ServicerContext], Any]


class Turns:
    """Turns for `most` calls at once."""

    def __init__(self, most: int, peer_of: Callable[[grpc.ServicerContext], Peer]) -> None:
        self._room, self._peer_of = Room(most), peer_of
        self._lock = threading.Lock()

    def shared(self, services: grpc.GenericRpcHandler) -> grpc.GenericRpcHandler:
        """The same services, whose calls wait for no turn: they have one or are refused."""
        return _Shared(services, self)

    def answer(self, method: _Method, request: Any, context: grpc.ServicerContext) -> Any:
        """Call a method that gives one answer."""
        user = self._enter(context)
        try:
            return method(request, context)
        finally:
            self._leave(user)

    def stream(self, method: _Method, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Call a method that gives many."""
        user = self._enter(context)
        turn = _Turn(method, request, context, lambda: self._leave(user))
        if not context.add_callback(turn.over):
            turn.over()
        return turn

    def _enter(self, context: grpc.ServicerContext) -> str:
        try:
            user = self._peer_of(context).realm
        except Cancelled as error:
            context.abort(grpc.StatusCode.CANCELLED, error.message)
        with self._lock:
            entered = self._room.enter(user)
        if not entered:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, _REFUSED)
        return user

    def _leave(self, user: str) -> None:
        with self._lock:
            self._room.leave(user)


class _Turn:
    """The answers of one call: its turn ends with them, or with the call as soon as nobody makes the next one."""

    def __init__(self, method: _Method, request: Any, context: grpc.ServicerContext, leave: Callable[[], None]) -> None:
        self._answers: Iterator[Any] | None = None
        self._start: Callable[[], Iterator[Any]] = lambda: iter(method(request, context))
        self._leave = leave
        self._lock = threading.Lock()
        self._working, self._over, self._left = False, False, False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._change(working=True)
        ended = True
        try:
            if self._answers is None:
                self._answers = self._start()
            answer = next(self._answers)
            ended = False
            return answer
        finally:
            self._change(working=False, over=ended)

    def over(self) -> None:
        """The call has ended."""
        self._change(over=True)

    def _change(self, working: bool | None = None, over: bool = False) -> None:
        with self._lock:
            self._working = self._working if working is None else working
            self._over |= over
            leaves = self._over and not self._working and not self._left
            self._left |= leaves
        if leaves:
            self._leave()


class _Shared(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, services: grpc.GenericRpcHandler, turns: Turns) -> None:
        self._services, self._turns = services, turns

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        found: Any = self._services.service(handler_call_details)
        if found is None:
            return None
        make, method, give = {
            (False, False): (grpc.unary_unary_rpc_method_handler, found.unary_unary, self._turns.answer),
            (False, True): (grpc.unary_stream_rpc_method_handler, found.unary_stream, self._turns.stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, found.stream_unary, self._turns.answer),
            (True, True): (grpc.stream_stream_rpc_method_handler, found.stream_stream, self._turns.stream),
        }[found.request_streaming, found.response_streaming]

        def turn(request: Any, context: grpc.ServicerContext) -> Any:
            return give(method, request, context)

        return make(turn, found.request_deserializer, found.response_serializer)
