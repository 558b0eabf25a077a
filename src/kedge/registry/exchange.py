"""A conversation with one server that speaks for a registry: the registry itself or a mirror.

Owns the order of things in one request: authorise, send, answer a challenge, follow a redirect, wait and try again.
Does not know what the requests mean.
"""

import random
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final, NoReturn

from kedge.model.credential import Credential, CredentialSource
from kedge.model.errors import KedgeError, NotFound, RegistryError, Unauthorized
from kedge.model.settings import NetworkSettings, RegistryHost
from kedge.model.value import dataclass
from kedge.registry.answers import error_text, may_pass, missing, retry_after
from kedge.registry.auth import Authorizer, Scopes, is_inside, read_challenges
from kedge.registry.transport import (
    Answer,
    Body,
    Origin,
    Transport,
    Unreachable,
    absolute,
    origin_of,
    without_identity,
)

_REDIRECTS: Final = 5
_ERROR_LIMIT: Final = 1 << 16  # bytes of an error body that are read
_DOWN: Final = 60.0  # seconds for which a mirror that cannot be reached is left alone


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, as configured: `scheme` None means https, or for loopback hosts whichever answers.

    `prefix` is put before every repository's name. `namespace` is the registry a mirror stands in for, "" for the
    registry itself.
    """

    host: str
    scheme: str | None = None
    prefix: str = ""
    namespace: str = ""


class Server:
    """One server. Safe for many threads; blocking."""

    def __init__(
        self,
        address: Address,
        host: RegistryHost,
        network: NetworkSettings,
        transport: Transport,
        credentials: CredentialSource,
    ) -> None:
        self.address, self.host = address, host
        self._network, self._transport, self._credentials = network, transport, credentials
        self._lock = threading.Lock()
        self._authorizer: Authorizer | None = None
        self._down_until = 0.0
        connections = host.max_connections or network.max_connections
        self.downloads, self.uploads = threading.BoundedSemaphore(connections), threading.BoundedSemaphore(connections)

    @property
    def name(self) -> str:
        return self.address.host

    @property
    def attempts(self) -> int:
        """How often one thing is asked for; less often of a mirror, behind which stands another server."""
        return min(3, self._network.attempts) if self.address.namespace else self._network.attempts

    @property
    def down(self) -> bool:
        """Whether this mirror could not be reached a moment ago."""
        return time.monotonic() < self._down_until

    def mark_down(self) -> None:
        if self.address.namespace:
            self._down_until = time.monotonic() + _DOWN

    def repository(self, name: str) -> str:
        """The name under which this server has a repository."""
        return f"{self.address.prefix}{name}"

    def url(self, path: str) -> str:
        """The URL of a path below /v2/."""
        url = f"{self.authorizer().origin}/v2/{path}"
        if self.address.namespace:
            url += ("&" if "?" in url else "?") + f"ns={self.address.namespace}"
        return url

    def authorizer(self) -> Authorizer:
        """The tokens for this server; settles first whether it speaks https."""
        with self._lock:
            if self._authorizer is None:
                origin = origin_of(f"{self._scheme()}://{self.address.host}")
                self._authorizer = Authorizer(origin, self.host, self._find_credential, self._ask)
            return self._authorizer

    def _scheme(self) -> str:
        if self.address.scheme or self.host.http is not None:
            return self.address.scheme or ("http" if self.host.http else "https")
        origin = origin_of(f"https://{self.address.host}")
        if origin.loopback and not self._transport.speaks_tls(origin):
            return "http"  # as in Docker, this machine needs no configuration for it
        return "https"

    def _find_credential(self) -> Credential | None:
        return self._credentials(self.address.host)

    def request(
        self,
        method: str,
        target: str,
        scopes: Scopes,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        ok: Collection[int] = (200,),
        attempts: int = 0,
    ) -> Answer:
        """The answer to a request for a path below /v2/ or an absolute URL, if its status is one of `ok`.

        Tried again as long as that can help. Raises NotFound, Unauthorized or RegistryError.
        """
        limit = attempts or self.attempts
        url = target if "://" in target else self.url(target)
        attempt = 1
        while True:
            try:
                answer = self._send_authorized(method, url, scopes, dict(headers or {}), body)
            except RegistryError as error:
                if not error.retryable or attempt >= (min(3, limit) if isinstance(error, Unreachable) else limit):
                    raise
                self.pause(attempt)
            else:
                if answer.status in ok:
                    return answer
                asked = retry_after(answer.headers.get("Retry-After", ""))
                if not may_pass(answer.status) or attempt >= limit or not self._patient(asked):
                    self.refuse(answer)
                answer.body(_ERROR_LIMIT)
                self.pause(attempt, asked)
            attempt += 1

    def pause(self, attempt: int, asked: float | None = None) -> None:
        """Wait before attempt `attempt` + 1: what the server asked for, and a random part of a doubling time (full
        jitter).
        """
        longest = min(self._network.longest_pause, self._network.backoff * 2 ** (attempt - 1))
        self._transport.pause((asked or 0.0) + random.uniform(0, longest))

    def _patient(self, asked: float | None) -> bool:
        return asked is None or asked <= self._network.longest_pause

    def refuse(self, answer: Answer) -> NoReturn:
        """Raise what an answer of an unwanted status means."""
        authorizer = self.authorizer()
        where = origin_of(answer.url).host if origin_of(answer.url) != authorizer.origin else self.name
        text = authorizer.scrub(error_text(answer.body(_ERROR_LIMIT)))
        text = f": {text}" if text else ""
        status = answer.status
        if status in (401, 403):
            known = authorizer.credential(authorizer.origin)
            hint = f"Log in with `kedge login {self.name}`, or check the name: a private repository may look missing."
            if known:
                what = "were not accepted" if status == 401 else "do not allow this"
                hint = f"Your credentials for {self.name} {what}."
            raise Unauthorized(f"{where} refused access{text}", status=status, hint=hint)
        if missing(status):
            raise NotFound(f"{where} has no such thing{text}")
        message = f"{where} answered {status}{text}"
        asked = retry_after(answer.headers.get("Retry-After", ""))
        hint = f"It asks to be left alone for {asked:.0f} seconds." if asked else ""
        if status == 429:
            hint = hint or "Too many requests: logging in with `kedge login` usually allows more."
        raise RegistryError(message, status=status, hint=hint, retryable=may_pass(status) and self._patient(asked))

    def _send_authorized(self, method: str, url: str, scopes: Scopes, headers: dict[str, str], body: Body) -> Answer:
        authorizer = self.authorizer()
        for _ in range(_REDIRECTS + 1):
            origin = origin_of(url)
            answer = self._send_once(authorizer, method, url, scopes, headers, body, origin)
            location = answer.headers.get("Location", "")
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                return answer
            answer.close()
            url = self.follow(url, location)
            if method not in ("GET", "HEAD"):
                raise RegistryError(
                    f"{self.name} redirects a {method} to {origin_of(url).host}: not followed", status=answer.status
                )
        raise RegistryError(f"{self.name} redirects in circles")

    def _send_once(
        self,
        authorizer: Authorizer,
        method: str,
        url: str,
        scopes: Scopes,
        headers: dict[str, str],
        body: Body,
        origin: Origin,
    ) -> Answer:
        host = self.host if origin == authorizer.origin else without_identity(self.host)
        authorization = authorizer.header(origin, scopes)
        answer = self._ask(method, url, headers | _authorization(authorization), body, host)
        if answer.status != 401:
            return answer
        challenges = read_challenges(answer.headers.get("WWW-Authenticate", ""))
        try:
            other = authorizer.answer(origin, challenges, scopes, authorization)
        except BaseException:
            answer.close()
            raise
        if not other:
            return answer
        answer.body(_ERROR_LIMIT)
        return self._ask(method, url, headers | _authorization(other), body, host)

    def follow(self, url: str, location: str) -> str:
        """Where a Location header leads from `url`. RegistryError if from https to http, or from elsewhere into this
        machine.
        """
        there = absolute(url, location)
        before, after = origin_of(url), origin_of(there)
        if before.scheme == "https" and after.scheme != "https":
            raise RegistryError(f"{before.host} redirects to {after}, which is not encrypted: refused")
        if after.host != before.host and is_inside(after.host) and not (before.loopback and after.loopback):
            raise RegistryError(f"{before.host} redirects to {after}, an address of this machine or its cloud: refused")
        return there

    def _ask(self, method: str, url: str, headers: dict[str, str], body: Body, host: RegistryHost) -> Answer:
        from kedge import __version__

        return self._transport.send(method, url, {"User-Agent": f"kedge/{__version__}"} | headers, body, host)


def _authorization(header: str) -> dict[str, str]:
    return {"Authorization": header} if header else {}


# ---- several servers -------------------------------------------------------------------------------------------------


def turns(servers: Iterable[Server]) -> Iterator[AbstractContextManager[Server]]:
    """The servers that may answer, best first, a turn each: who gets what it wants returns in its turn.

    A failure in a turn is forgiven while another server may do better; the last one's is raised, or that of being
    stopped. Where no connection came to be to the last, it tells what the one before it said, too: who has a mirror
    often has no way to the registry, and it is the mirror that lacks the image.
    """
    last: KedgeError = NotFound("there is no registry to ask")
    before = ""

    @contextmanager
    def turn(server: Server) -> Iterator[Server]:
        nonlocal last, before
        try:
            yield server
        except KedgeError as error:
            if not _worth_another_server(error):
                raise
            if isinstance(error, Unreachable):
                server.mark_down()
                error.message += before
            before = f" (before that, the mirror {server.name}: {error.message})"
            last = error

    for server in servers:
        yield turn(server)
    raise last


def _worth_another_server(error: KedgeError) -> bool:
    """Whether a mirror's failure leaves hope in the next server: always, unless we were stopped."""
    from kedge.model.errors import Cancelled, InvalidInput

    return not isinstance(error, Cancelled) and (isinstance(error, NotFound) or not isinstance(error, InvalidInput))
