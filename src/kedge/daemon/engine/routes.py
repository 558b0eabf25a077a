"""From a request's method and path to what handles it, and from errors to Docker's answers.

Owns versions, the table's form, reading of bodies before anyone decides on them, and status codes. Does not know what
any path means.

The order matters for authorisation: what decides and what handles are given the same value, read once. A body that is
JSON has been read whole by then; one that is a stream (a build's context) is part of neither.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote

from kedge.containers.supervised import NotStarted
from kedge.daemon.engine.fields import Fields, checked_text, read_filters, read_flag, read_number
from kedge.daemon.engine.http import Disconnected, Exchange
from kedge.daemon.peer import Peer
from kedge.model.errors import (
    Cancelled,
    Conflict,
    IntegrityError,
    InvalidInput,
    KedgeError,
    NotFound,
    Unauthorized,
    Unsupported,
)
from kedge.model.value import dataclass

if TYPE_CHECKING:
    from kedge.daemon.engine.service import Engine

NEWEST: Final = (1, 50)  # what Docker's client 28 speaks
OLDEST: Final = (1, 24)
_MOST_PARAMETERS: Final = 2000


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as authorisation sees it, and as its handler sees it. `body` is None where it is a stream."""

    peer: Peer
    method: str
    path: str  # without the version, still percent-encoded
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes | None


Authorize: TypeAlias = Callable[[Ask], str]  # "" allows; else why not


def allow(ask: Ask) -> str:
    """Everybody whom the socket lets in may do everything, as with Docker."""
    return ""


class Call:
    """One request for a handler: its parameters read with care, and the exchange to answer on."""

    def __init__(self, engine: "Engine", exchange: Exchange, ask: Ask, version: tuple[int, int]) -> None:
        self.engine, self.exchange, self.ask, self.version = engine, exchange, ask, version
        self.parameters: dict[str, str] = {}
        self._fields: Fields | None = None

    def __getitem__(self, name: str) -> str:
        """A part of the path."""
        return self.parameters[name]

    def query(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return next((value for key, value in self.ask.query if key == name), default)

    def queries(self, name: str) -> tuple[str, ...]:
        """All values of a query parameter."""
        return tuple(value for key, value in self.ask.query if key == name)

    def flag(self, name: str, default: bool = False) -> bool:
        text = self.query(name, "1" if default else "")
        return read_flag(text)

    def number(self, name: str, default: int = 0) -> int:
        return read_number(self.query(name), name, default)

    @property
    def filters(self) -> dict[str, tuple[str, ...]]:
        return read_filters(self.query("filters"))

    def header(self, name: str) -> str:
        return self.exchange.headers.get(name, "")

    @property
    def fields(self) -> Fields:
        """The body as a JSON object."""
        if self._fields is None:
            self._fields = Fields.parse(self.ask.body or b"")
        return self._fields


Handler: TypeAlias = Callable[[Call], None]


@dataclass(frozen=True, slots=True)
class Route:
    """One path. `pattern` is Docker's way of writing it: `{id}` is one part, `{name...}` may hold slashes.

    A body of kind "stream" is left to the handler; others are read whole, within bounds.
    """

    method: str
    pattern: str
    handler: Handler
    body: Literal["whole", "stream"] = "whole"


class Router:
    """The table, and the way through it."""

    def __init__(self, engine: "Engine", routes: list[Route], authorize: Authorize = allow) -> None:
        self._engine, self._authorize = engine, authorize
        self._routes = [(route, _compiled(route.pattern)) for route in routes]

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        exchange.request_headers = list(self._engine.headers)
        try:
            self._answer(exchange)
        except (Disconnected, Cancelled):
            raise
        except KedgeError as error:
            if exchange.started:
                raise Disconnected(error.message) from None
            with suppress(Disconnected):
                exchange.json(status_of(error), {"message": message_of(error)})

    def _answer(self, exchange: Exchange) -> None:
        path, _, query = exchange.target.partition("?")
        version, path = _version(path)
        route, parameters = self._find(exchange.method, path)
        body = exchange.whole_body() if route.body == "whole" else None
        if body and not exchange.headers.get("content-type", "").lower().startswith("application/json"):
            kind = exchange.headers.get("content-type", "")
            if kind or body.strip():
                raise InvalidInput(f"unsupported Content-Type header ({kind[:80]}): must be 'application/json'")
        ask = Ask(exchange.peer, exchange.method, path, _query(query), tuple(exchange.headers.items()), body)
        if refusal := self._authorize(ask):
            exchange.json(403, {"message": f"authorization denied: {refusal}"})
            return
        call = Call(self._engine, exchange, ask, version)
        call.parameters = {key: _decoded(value) for key, value in parameters.items()}
        route.handler(call)

    def _find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        for route, pattern in self._routes:
            if route.method == method and (found := pattern.fullmatch(path)):
                return route, found.groupdict()
        raise NotFound("page not found")


def _compiled(pattern: str) -> re.Pattern[str]:
    text = re.sub(r"\{(\w+)\.\.\.\}", r"(?P<\1>.+)", pattern)
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", text))


def _version(path: str) -> tuple[tuple[int, int], str]:
    found = re.match(r"/v(\d{1,3})\.(\d{1,3})(?=/)", path)
    if not found:
        return NEWEST, path
    version = int(found[1]), int(found[2])
    text, newest, oldest = (".".join(map(str, each)) for each in (version, NEWEST, OLDEST))
    if version > NEWEST:
        raise InvalidInput(f"client version {text} is too new. Maximum supported API version is {newest}")
    if version < OLDEST:
        raise InvalidInput(
            f"client version {text} is too old. Minimum supported API version is {oldest}, "
            "please upgrade your client to a newer version"
        )
    return version, path[found.end() :]


def _query(text: str) -> tuple[tuple[str, str], ...]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise InvalidInput("the query is malformed") from None
    return tuple((checked_text(key, "the query"), checked_text(value, "the query")) for key, value in pairs)


def _decoded(text: str) -> str:
    try:
        return checked_text(unquote(text, errors="strict"), "the path")
    except UnicodeDecodeError:
        raise InvalidInput("the path is no valid text") from None


# ---- errors ----------------------------------------------------------------------------------------------------------

_STATUS: Final = (  # the first that fits
    (NotStarted, 400),
    (NotFound, 404),
    (Conflict, 409),
    (InvalidInput, 400),
    (IntegrityError, 400),  # an archive that is none; what registries send is told in a stream
    (Unauthorized, 500),  # as Docker: 401 would mean that this service wants a login
    (Unsupported, 501),
)


def status_of(error: KedgeError) -> int:
    """The status code for an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def message_of(error: KedgeError) -> str:
    """Docker's clients show one line."""
    where = f"{error.location}: " if error.location else ""
    return f"{where}{error.message}" + (f" ({error.hint.rstrip('.')})" if error.hint else "")
