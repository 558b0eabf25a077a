"""Policies that the client decides itself, source by source: its session is asked, and may ask back what a source is.

Owns the conversation (BuildKit's policysession) and what an answer means. Does not know where sources are used.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

import grpc

from kedge.daemon.buildkit.definition import platform_message
from kedge.daemon.buildkit.errors import Denied
from kedge.daemon.buildkit.ops import read_source
from kedge.daemon.wire import gateway, llb, policy, policysession
from kedge.daemon.wire.calls import Calls
from kedge.model.errors import Cancelled, InvalidInput, KedgeError, SourceError
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from kedge.model.value import replace

MOST_REQUESTS: Final = 10  # about one source
_PATIENCE: Final = 300.0  # seconds: a person may be asked
Rules = Callable[[Source, Platform | None], Source]
Resolve = Callable[[Any], Any]  # a ResolveSourceMetaRequest's answer, past all policies
_Asked = tuple[Source, Platform | None]


class Verdicts:
    """A policy: fixed rules first, then the client's word on each source, asked for once. Thread-safe."""

    def __init__(self, calls: Callable[[], Calls], rules: Rules | None, resolve: Resolve) -> None:
        self._calls, self._rules, self._resolve = calls, rules, resolve
        self._known: dict[_Asked, Source | KedgeError] = {}
        self._locks: dict[_Asked, threading.Lock] = {}
        self._guard = threading.Lock()

    def __call__(self, source: Source, platform: Platform | None) -> Source:
        """What is used instead of the source, or itself. Raises Denied."""
        asked = (source, platform)
        with self._guard:
            lock = self._locks.setdefault(asked, threading.Lock())
        with lock:
            if asked not in self._known:
                try:
                    self._known[asked] = self._decide(source, platform)
                except Cancelled:
                    raise
                except KedgeError as error:
                    self._known[asked] = error
            found = self._known[asked]
        if isinstance(found, KedgeError):
            raise found
        return found

    def _decide(self, source: Source, platform: Platform | None) -> Source:
        source = self._ruled(source, platform)
        answer = gateway.ResolveSourceMetaResponse(Source=_message(source))
        for _ in range(MOST_REQUESTS):
            told = self._ask(answer, platform)
            kind = told.WhichOneof("result")
            if kind == "request":
                answer = self._resolve(_checked(told.request, answer.Source))
            elif kind != "decision":
                raise InvalidInput("no decision in policy response")
            elif told.decision.action == policy.CONVERT:
                if not told.decision.HasField("update"):
                    raise InvalidInput("convert action requires updated source")
                source = self._ruled(read_source(told.decision.update, 0), platform)
                answer = gateway.ResolveSourceMetaResponse(Source=_message(source))
            elif told.decision.action != policy.ALLOW:
                raise Denied(source.identifier, [one.message for one in told.decision.denyMessages])
            else:
                return source
        raise InvalidInput("too many policy requests")

    def _ruled(self, source: Source, platform: Platform | None) -> Source:
        return normal(self._rules(source, platform) if self._rules else source)

    def _ask(self, answer: Any, platform: Platform | None) -> Any:
        request = policysession.CheckPolicyRequest(Source=answer)
        if platform is not None:
            request.Platform.CopyFrom(platform_message(platform))
        try:
            return self._calls().unary("CheckPolicy", request, timeout=_PATIENCE)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
                raise Cancelled("the client went away") from None
            raise SourceError(f"the client's policy does not answer: {(error.details() or '')[:500]}") from None


def normal(source: Source) -> Source:
    """The source under the full name that policies know it by."""
    if source.scheme != "docker-image":
        return source
    reference = parse_reference(source.identifier.partition("://")[2])
    return replace(source, identifier=f"docker-image://{reference}")


def _message(source: Source) -> Any:
    return llb.SourceOp(identifier=source.identifier, attrs=dict(source.attrs))


def _checked(request: Any, source: Any) -> Any:
    """The request, if it is about the source that was asked about."""
    wanted = request.Source
    if wanted.identifier != source.identifier:
        raise InvalidInput(
            f"policy requested different source identifier: {wanted.identifier[:100]!r} != {source.identifier[:100]!r}"
        )
    if dict(wanted.attrs) != dict(source.attrs):
        raise InvalidInput("policy requested different source attrs")
    return request
