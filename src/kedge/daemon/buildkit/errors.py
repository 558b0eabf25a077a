"""Errors as BuildKit's clients read them: a gRPC status whose details carry typed values.

Owns the mapping from our errors to codes and details. Each detail is JSON under a type URL of BuildKit's own, from
which clients print the lines of the Dockerfile, or the exit code.
"""

import base64
import functools
import json
import os
import traceback
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf.json_format import MessageToDict

from kedge.daemon.buildkit.config import BUILDKIT_VERSION
from kedge.daemon.buildkit.definition import encode
from kedge.daemon.buildkit.wording import worded
from kedge.daemon.wire import status
from kedge.model.errors import (
    Cancelled,
    Conflict,
    InvalidInput,
    KedgeError,
    Location,
    NotFound,
    StepFailed,
    StoreError,
    Unsupported,
)
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import Source

_TYPES: Final = "github.com/moby/buildkit/"
_LONGEST_MESSAGE: Final = 16_000
_MOST_LINES: Final = 1000
_MOST_DETAILS: Final = 256_000  # bytes; they travel in a header

Status = namedtuple("Status", ("code", "details", "trailing_metadata"))
Me = TypeVar("Me")
Answer = TypeVar("Answer")
Method: TypeAlias = Callable[[Me, Any, grpc.ServicerContext], Answer]


class Refused(InvalidInput):
    """A request that is refused as such, before any build: its status code is InvalidArgument."""


class NotGranted(InvalidInput):
    """A request for a privilege that the service does not give."""


class Denied(InvalidInput):
    """A source that the client's policy does not allow; `reasons` are its own words."""

    def __init__(self, source: str, reasons: list[str]) -> None:
        super().__init__(f'source "{source[:300]}" not allowed by policy: action DENY')
        self.reasons = [reason[:2000] for reason in reasons[:100]]


class UnknownRef(NotFound):
    """A build that is not known (any more), or is another client's."""


class UnknownSubrequest(Unsupported):
    """A frontend's subrequest that we do not answer."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unsupported request {name[:100]}")
        self.name = name


class UnknownFrontendCap(Unsupported):
    """A frontend's capability that a client insists on and we lack."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unsupported frontend capability {name[:100]}")
        self.name = name


class Bug(KedgeError):
    """Something that should not happen, and did."""


class ForeignError(KedgeError):
    """An error that a client gave us to give back, status and all."""

    def __init__(self, told: Any) -> None:
        super().__init__(told.message)
        self.told = told


# The first that fits. A build that fails has no code of its own in BuildKit's API.
_CODES: Final[tuple[tuple[type[KedgeError], grpc.StatusCode], ...]] = (
    (Cancelled, grpc.StatusCode.CANCELLED),
    (StoreError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Bug, grpc.StatusCode.INTERNAL),
    (KedgeError, grpc.StatusCode.UNKNOWN),
)


def status_message(error: KedgeError) -> Any:
    """The google.rpc.Status of an error."""
    if isinstance(error, ForeignError):
        return error.told
    told = status.Status(code=_code(error).value[0], message=_message(error))
    for kind, value in _details(error):
        data = json.dumps(value).encode()
        if told.ByteSize() + len(data) <= _MOST_DETAILS:
            told.details.add(type_url=_TYPES + kind + "+json", value=data)
    return told


def _code(error: KedgeError) -> grpc.StatusCode:
    if isinstance(error, NotGranted):
        return grpc.StatusCode.PERMISSION_DENIED
    if isinstance(error, Refused):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, UnknownRef):
        return grpc.StatusCode.NOT_FOUND
    if isinstance(error, (UnknownSubrequest, UnknownFrontendCap)):
        return grpc.StatusCode.UNIMPLEMENTED
    if isinstance(error, Conflict):
        return grpc.StatusCode.ALREADY_EXISTS
    return next(code for kind, code in _CODES if isinstance(error, kind))


def _message(error: KedgeError) -> str:
    return worded(error)[:_LONGEST_MESSAGE]


def _details(error: KedgeError) -> Iterator[tuple[str, Any]]:
    if isinstance(error, UnknownSubrequest):
        yield "errdefs.Subrequest", {"name": error.name}
    if isinstance(error, Denied) and error.reasons:
        told = [{"message": reason} for reason in error.reasons]
        yield "policysession.DecisionResponse", {"action": "DENY", "denyMessages": told}
    if isinstance(error, UnknownFrontendCap):
        yield "errdefs.FrontendCap", {"name": error.name}
    if isinstance(error, StepFailed):
        yield "gatewayapi.ExitMessage", {"Code": error.exit_code}
    if (solve := getattr(error, "offered", None)) is not None:
        yield "errdefs.Solve", MessageToDict(solve)
    if getattr(error, "traced", False):
        yield "stack.Stack", _stack_json(error)
    if vertex := getattr(error, "vertex", ""):
        yield "errdefs.Vertex", {"digest": vertex}
    if places := getattr(error, "places", ()):
        yield from (("errdefs.Source", _place_json(one)) for one in reversed(places))  # the last is read first
    elif error.location is not None:
        yield "errdefs.Source", source_json(error.location)


def _stack_json(error: KedgeError) -> dict[str, Any]:
    """Where an error arose, for `--debug` on both sides."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "frames": [{"Name": one.name, "File": one.filename, "Line": one.lineno or 0} for one in reversed(frames)],
        "cmdline": ["kedge"],
        "pid": os.getpid(),
        "version": BUILDKIT_VERSION,
    }


def _place_json(place: Any) -> dict[str, Any]:
    """An errdefs.Source message as Go's JSON writes it."""
    info: dict[str, Any] = {
        "filename": place.info.filename,
        "data": base64.b64encode(place.info.data).decode(),
        "language": place.info.language,
    }
    if place.info.HasField("definition"):
        ops = getattr(place.info.definition, "def")
        metadata: dict[str, Any] = {digest: {} for digest in place.info.definition.metadata}
        info["definition"] = {"def": [base64.b64encode(op).decode() for op in ops], "metadata": metadata}
    ends = [(one.start, one.end) for one in place.ranges[:_MOST_LINES]]
    return {"info": info, "ranges": [{"start": _position(start), "end": _position(end)} for start, end in ends]}


def _position(told: Any) -> dict[str, int]:
    return {"line": told.line, "character": told.character}


def source_json(location: Location) -> dict[str, Any]:
    """An errdefs.Source as Go's JSON writes it."""
    text = location.file.text.encode("utf-8", "surrogateescape")
    info = {
        "filename": location.file.name,
        "data": base64.b64encode(text).decode(),
        "definition": _definition_json(location.file.name),
        "language": "Dockerfile",
    }
    lines = range(location.start, min(location.end, location.start + _MOST_LINES) + 1)
    return {"info": info, "ranges": [{"start": {"line": line}, "end": {"line": line}} for line in lines]}


def _definition_json(filename: str) -> dict[str, Any]:
    """Where the text comes from, as a graph: the client's directory that holds it."""
    told = encode(Edge(Vertex(Source("local://dockerfile", (("local.followpaths", json.dumps([filename])),)))))
    return {
        "def": [base64.b64encode(data).decode() for data in getattr(told, "def")],
        "metadata": {digest: {} for digest in told.metadata},
    }


def abort(context: grpc.ServicerContext, error: KedgeError) -> NoReturn:
    """End a call with the error; does not return."""
    told = status_message(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == (told.code or 2))
    trailer = (("grpc-status-details-bin", told.SerializeToString()),)
    context.abort_with_status(Status(code, told.message, trailer))
    raise AssertionError("a call that was broken off went on")


def also_tell(error: KedgeError, vertex: str, traced: bool) -> None:
    """Let the error's details name the vertex that failed too, and where in this service it came up."""
    vars(error).update(vertex=vertex, traced=traced)


def show_places(error: KedgeError, places: tuple[Any, ...]) -> None:
    """Let the error's details tell these errdefs.Source messages instead of its own location."""
    vars(error).update(places=places)


def offer(error: KedgeError, solve: Any) -> None:
    """Let the error's details tell, by an errdefs.Solve, the ids of what a failed step left."""
    vars(error).update(offered=solve)


def own(error: Exception) -> KedgeError:
    """The error if it is one of ours; else a bug: the log gets its trace, the client its kind."""
    if not isinstance(error, KedgeError):
        traceback.print_exception(error)
    return told_as(error)


def told_as(error: BaseException) -> KedgeError:
    """What a client is told of an error: a bug's kind."""
    if isinstance(error, KedgeError):
        return error
    return Bug(f"internal error: {type(error).__name__}: {str(error)[:500]}")


def answers(function: Method[Me, Answer]) -> Method[Me, Answer]:
    """A method of a service whose KedgeErrors end the call properly."""

    @functools.wraps(function)
    def wrapped(self: Me, request: Any, context: grpc.ServicerContext) -> Answer:
        try:
            return function(self, request, context)
        except Exception as error:
            abort(context, own(error))

    return wrapped


def streams(function: Method[Me, Iterator[Answer]]) -> Method[Me, Iterator[Answer]]:
    """The same for a method that yields its answers."""

    @functools.wraps(function)
    def wrapped(self: Me, request: Any, context: grpc.ServicerContext) -> Iterator[Answer]:
        try:
            yield from function(self, request, context)
        except Exception as error:
            abort(context, own(error))

    return wrapped
