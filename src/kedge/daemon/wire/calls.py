"""Methods of services, both ends: what a server registers and what a client calls, from the services' descriptors.

Owns nothing but that translation. Does not know any service.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import grpc

from kedge.daemon.wire import message_class

if TYPE_CHECKING:
    from kedge.daemon.wire.channel import Call, Channel


def handler(service: Any, implementation: Any) -> grpc.GenericRpcHandler:
    """What serves `service`: the methods of `implementation` by the same names, as grpc's servicers have them.

    A method that the implementation lacks answers UNIMPLEMENTED.
    """
    methods = {
        name: _method_handler(service, method, getattr(implementation, name))
        for name, method in service.methods_by_name.items()
        if hasattr(implementation, name)
    }
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def _method_handler(service: Any, method: Any, behaviour: Any) -> grpc.RpcMethodHandler:
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    return make(behaviour, message_class(service, method.name, "input").FromString, _to_bytes)


def _to_bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


class Calls:
    """The methods of a service at the other end of a channel."""

    def __init__(self, channel: "grpc.Channel | Channel", service: Any) -> None:
        self._channel, self._service = channel, service

    def unary(self, method: str, request: Any, **options: Any) -> Any:
        """One answer to one request; raises grpc.RpcError."""
        return self._call(self._channel.unary_unary, method)(request, **options)

    def stream(self, method: str, requests: Iterable[Any], **options: Any) -> Iterator[Any]:
        """Answers to a stream of requests; the iterator raises grpc.RpcError, and has `cancel`."""
        answers: Iterator[Any] = self._call(self._channel.stream_stream, method)(iter(requests), **options)
        return answers

    def listen(self, method: str, request: Any, **options: Any) -> Iterator[Any]:
        """Answers to one request."""
        answers: Iterator[Any] = self._call(self._channel.unary_stream, method)(request, **options)
        return answers

    def open(self, method: str, **options: Any) -> "Call":
        """A call to be sent to, of a `Channel`; raises grpc.RpcError."""
        call: Call = self._call(cast("Channel", self._channel).open, method, **options)
        return call

    def _call(self, kind: Any, method: str, **options: Any) -> Any:
        answer = message_class(self._service, method, "output")
        return kind(f"/{self._service.full_name}/{method}", _to_bytes, answer.FromString, **options)
