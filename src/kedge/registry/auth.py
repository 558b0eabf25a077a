"""Who we say we are: challenges, basic and bearer authorisation, and the tokens in hand.

Owns the Authorization header of every request and the rules about whom a secret is told. Does not know where
credentials are kept (a CredentialSource finds them), nor what a request is for beyond its scopes.

The rules, each with a test: an Authorization header goes to the origin it was made for, never along a redirect. A
challenge counts only when that origin sent it. A token server must be spoken to by https unless the registry itself is
not, must not be this machine or a link-local address unless the registry is too, and is told a secret only if it
belongs to the registry's own site or to `token-servers` of the configuration.
"""

import base64
import ipaddress
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urlencode

from kedge.model.credential import Credential
from kedge.model.errors import IntegrityError, RegistryError, Unauthorized
from kedge.model.image import strict_json
from kedge.model.settings import RegistryHost
from kedge.model.value import dataclass, field
from kedge.registry.answers import error_text
from kedge.registry.transport import Answer, Body, Origin, origin_of, without_identity

CLIENT_ID: Final = "kedge"
_TOKEN_LIMIT: Final = 1 << 20  # bytes of a token server's answer
_SHORTEST_LIFE: Final = 60  # seconds a token lives when its server does not say (distribution token specification)
_MARGIN: Final = 10  # seconds before its end at which a token is not used any more

# Below these, everybody's names stand side by side. The Public Suffix List has thousands; these are those under which
# registries are found, and the kinds of second levels that countries have. One that is missing here is no open door:
# the token server is still named by the registry alone, over https. One too many costs a line of `token-servers`.
_SECOND_LEVELS = frozenset(
    "ac asn co com edu firm gen go gob gouv gov govt gv id in ind info int lg ltd me mil ne net nhs nom or org plc "
    "sch school web".split()
)
_SHARED = tuple(
    f".{suffix}"
    for suffix in (
        *("amazonaws.com", "amazonaws.com.cn", "appspot.com", "azurecr.io", "azurecr.cn", "azurecr.us"),
        *("azurecontainer.io", "azurewebsites.net", "cloudapp.azure.com", "cloudfront.net", "duckdns.org", "fly.dev"),
        *("github.io", "gitlab.io", "herokuapp.com", "netlify.app", "ngrok.app", "ngrok.io", "nip.io"),
        *("ngrok-free.app", "onrender.com", "pages.dev", "pkg.dev", "run.app", "scw.cloud", "sslip.io", "ts.net"),
        *("trycloudflare.com", "vercel.app", "vultrcr.com", "web.app", "workers.dev"),
    )
)

_CHALLENGE = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9_-]*)(?=\s|,|$)(?!\s*=)")
_PARAMETER = re.compile(r'([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')

Scopes = frozenset[str]  # `repository:name:pull,push`
Ask = Callable[
    [str, str, dict[str, str], Body, RegistryHost], Answer
]  # one request: method, url, headers, body, TLS settings


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way of authorising that a registry offers: `scheme` in lower case and its parameters."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str:
        return next((value for key, value in self.parameters if key == name), "")


def read_challenges(header: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header (RFC 9110, 11.6.1); what cannot be read is left out."""
    header = header[:4096]  # longer ones are no challenges but attempts
    quoted = [match.span() for match in re.finditer(r'"(?:[^"\\]|\\.)*"', header)]
    starts = [m for m in _CHALLENGE.finditer(header) if not any(a < m.start(1) < b for a, b in quoted)]
    found = []
    for match, following in zip(starts, [*starts[1:], None], strict=False):
        text = header[match.end(1) : following.start() if following else None]
        pairs = tuple(
            (m[1].lower(), re.sub(r"\\(.)", r"\1", m[2]) if m[2] is not None else m[3])
            for m in _PARAMETER.finditer(text)
        )
        found.append(Challenge(match[1].lower(), pairs))
    return found


def pull_scope(repository: str) -> Scopes:
    return frozenset({f"repository:{repository}:pull"})


def push_scope(repository: str, *mount_from: str) -> Scopes:
    return frozenset({f"repository:{repository}:pull,push", *(f"repository:{other}:pull" for other in mount_from)})


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    dies: float = 0.0  # time.monotonic()


@dataclass(slots=True)
class _Known:
    """What one origin asked for last, and what was obtained for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    challenge: Challenge | None = None
    tokens: dict[Scopes, _Token] = field(default_factory=dict)
    refresh: str = ""


class Authorizer:
    """Authorization headers for one registry and for the hosts it redirects to. Safe for many threads.

    `origin` is the registry's own: only it, and the token server it names, ever see `credential`.
    """

    def __init__(self, origin: Origin, host: RegistryHost, find: Callable[[], Credential | None], ask: Ask) -> None:
        self.origin = origin
        self.wants_identity = False  # a login: also ask for an identity token to keep
        self._host = host
        self._find = find
        self._ask = ask
        self._known: dict[Origin, _Known] = {}
        self._credential: Credential | None = None
        self._looked = False
        self._lock = threading.Lock()

    def header(self, origin: Origin, scopes: Scopes) -> str:
        """The Authorization header to send at once, from what is known; "" when nothing is."""
        known = self._at(origin)
        with known.lock:
            if known.challenge is None:
                return ""
            if known.challenge.scheme == "basic":
                return self._basic(origin)
            return self._bearer(origin, known, scopes)

    def answer(self, origin: Origin, challenges: list[Challenge], scopes: Scopes, refused: str) -> str:
        """The header that answers `challenges`, sent by `origin` when it refused the header `refused`; "" when there
        is none.

        Raises Unauthorized or RegistryError when a token server refuses or may not be asked.
        """
        known = self._at(origin)
        with known.lock:
            for challenge in sorted(challenges, key=lambda c: c.scheme != "bearer"):
                header = ""
                if challenge.scheme == "basic":
                    header = self._basic(origin)
                elif challenge.scheme == "bearer" and challenge.get("realm"):
                    header = self._other_token(origin, known, challenge, scopes, refused)
                if header and header != refused:
                    known.challenge = challenge
                    return header
            return ""

    def _other_token(self, origin: Origin, known: _Known, challenge: Challenge, scopes: Scopes, refused: str) -> str:
        token = known.tokens.get(scopes)
        if token is None or f"Bearer {token.text}" == refused:  # else another thread was faster
            known.challenge = challenge
            wanted = scopes | frozenset(challenge.get("scope").split())
            token = known.tokens[scopes] = self._fetch(origin, known, challenge, wanted)
        return f"Bearer {token.text}"

    def refresh_token(self) -> str:
        """The identity token the registry's token server handed out, "" if it did not."""
        return self._at(self.origin).refresh

    def secrets(self) -> Iterator[str]:
        """Every secret in hand: to be struck out of texts that others wrote."""
        credential = self._credential
        if credential:
            yield from (credential.password, credential.identity_token, credential.registry_token)
            yield _encoded(credential)
        for known in list(self._known.values()):
            yield known.refresh
            yield from (token.text for token in list(known.tokens.values()))

    def scrub(self, text: str) -> str:
        """`text` without any secret in hand, whoever wrote it."""
        for secret in sorted(set(self.secrets()), key=len, reverse=True):
            if len(secret) >= 3:
                text = text.replace(secret, "***")
        return text

    def _at(self, origin: Origin) -> _Known:
        with self._lock:
            return self._known.setdefault(origin, _Known())

    def credential(self, origin: Origin) -> Credential | None:
        """The registry's credential, for its own origin; None for every other."""
        if origin != self.origin:
            return None
        with self._lock:
            if not self._looked:
                self._credential, self._looked = self._find(), True
            return self._credential

    def _basic(self, origin: Origin) -> str:
        credential = self.credential(origin)
        return f"Basic {_encoded(credential)}" if credential and credential.username else ""

    def _bearer(self, origin: Origin, known: _Known, scopes: Scopes) -> str:
        token = known.tokens.get(scopes)
        if token is None or token.dies <= time.monotonic():
            assert known.challenge is not None
            token = known.tokens[scopes] = self._fetch(origin, known, known.challenge, scopes)
        return f"Bearer {token.text}"

    # ---- token servers -----------------------------------------------------------------------------------------------

    def _fetch(self, origin: Origin, known: _Known, challenge: Challenge, scopes: Scopes) -> _Token:
        credential = self.credential(origin)
        if credential and credential.registry_token:
            return _Token(credential.registry_token, float("inf"))
        realm = challenge.get("realm")
        server = check_realm(realm, origin)
        if credential and not may_know_secrets(server, origin, self._host.token_servers):
            credential = None
        identity = known.refresh or (credential.identity_token if credential else "")
        try:
            if identity and credential:
                value = self._post(realm, challenge, scopes, {"grant_type": "refresh_token", "refresh_token": identity})
            else:
                value = self._get(realm, challenge, scopes, credential)
        except Unauthorized as error:
            if self.credential(origin) and not credential:
                error.hint = (
                    f"Your credentials were not sent: {server.host} is no part of {origin.host}. If it should be, "
                    f'say `token-servers = ["{server.host}"]` in [registry."…"] of the config file.'
                )
            raise
        return self._read(known, value, server, credential is not None)

    def _get(self, realm: str, challenge: Challenge, scopes: Scopes, credential: Credential | None) -> dict[str, Any]:
        query = [("service", challenge.get("service"))] if challenge.get("service") else []
        query += [("scope", scope) for scope in sorted(scopes)]
        headers = {}
        if credential and credential.username:
            query += [("account", credential.username), ("client_id", CLIENT_ID)]
            query += [("offline_token", "true")] if self.wants_identity else []
            headers["Authorization"] = f"Basic {_encoded(credential)}"
        url = realm + ("&" if "?" in realm else "?") + urlencode(query)
        answer = self._ask("GET", url, headers, None, self._settings(realm))
        if answer.status in (404, 405) and credential and credential.password:
            answer.close()
            fields = {"grant_type": "password", "username": credential.username, "password": credential.password}
            fields |= {"access_type": "offline"} if self.wants_identity else {}
            return self._post(realm, challenge, scopes, fields)
        return self._token_answer(answer)

    def _post(self, realm: str, challenge: Challenge, scopes: Scopes, fields: dict[str, str]) -> dict[str, Any]:
        form = {"client_id": CLIENT_ID, "service": challenge.get("service"), "scope": " ".join(sorted(scopes))} | fields
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._token_answer(self._ask("POST", realm, headers, urlencode(form).encode(), self._settings(realm)))

    def _settings(self, realm: str) -> RegistryHost:
        return self._host if origin_of(realm) == self.origin else without_identity(self._host)

    def _token_answer(self, answer: Answer) -> dict[str, Any]:
        server = origin_of(answer.url)
        body = answer.body(_TOKEN_LIMIT)
        if answer.status in (400, 401, 403):
            raise Unauthorized(
                f"the token server {server.host} refused: {self.scrub(error_text(body)) or 'no reason given'}",
                status=answer.status,
                hint="Log in with `kedge login`, or check the name: a private or missing repository may look the same.",
            )
        if answer.status != 200 or body is None:
            raise RegistryError(f"the token server {server.host} answered {answer.status}", status=answer.status)
        try:
            return strict_json(body, f"the answer of the token server {server.host}")
        except IntegrityError as error:
            raise RegistryError(error.message, status=answer.status) from None

    def _read(self, known: _Known, value: dict[str, Any], server: Origin, identified: bool) -> _Token:
        text = value.get("token") or value.get("access_token")
        if not isinstance(text, str) or not re.fullmatch(r"[\x21-\x7e]{1,65536}", text):
            raise RegistryError(f"the token server {server.host} gave no usable token")
        life = value.get("expires_in")
        seconds = life if isinstance(life, (int, float)) and not isinstance(life, bool) else 0
        refresh = value.get("refresh_token")
        if identified and isinstance(refresh, str):
            known.refresh = refresh
        return _Token(text, time.monotonic() + max(seconds, _SHORTEST_LIFE) - _MARGIN)


def check_realm(realm: str, registry: Origin) -> Origin:
    """The token server that `registry` names, if it may be asked at all; RegistryError if not."""
    server = origin_of(realm)
    name = f"{registry.host} names {server} as its token server"
    if registry.scheme == "https" and server.scheme != "https":
        raise RegistryError(f"{name}, which is not encrypted: refused")
    if server.host != registry.host and is_inside(server.host) and not (server.loopback and registry.loopback):
        raise RegistryError(f"{name}, an address of this machine or its cloud: refused")
    return server


def is_inside(host: str) -> bool:
    """Whether a host is this machine, its link, or a spelling that only tricks use for one."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # inet_aton spellings (`2852039166`, `0xa9fe.0xa9fe`, `127.1`) mean addresses to the resolver
        return re.fullmatch(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)(?:\.(?:0[xX][0-9a-fA-F]*|[0-9]+))*\.?", host) is not None
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast


def may_know_secrets(server: Origin, registry: Origin, trusted: tuple[str, ...]) -> bool:
    """Whether a token server belongs to the registry: the same host, the same site (`auth.docker.io`), or named by the
    user.
    """
    if server.host == registry.host or server.host in trusted or (server.loopback and registry.loopback):
        return True
    if _is_address(server.host) or _is_address(registry.host):
        return False
    site = _site(registry.host)
    return server.host == site or server.host.endswith(f".{site}")


def _site(host: str) -> str:
    """The domain whose hosts are one owner's: the host's parent, but where strangers are neighbours there, the host.

    `registry.example.co.uk` is of `example.co.uk`, `ghcr.io` of `ghcr.io`, `shop.co.uk` of `shop.co.uk`.
    """
    parent = host.partition(".")[2]
    labels = parent.split(".")
    shared = len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SECOND_LEVELS
    return host if len(labels) < 2 or shared or f".{parent}".endswith(_SHARED) else parent


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _encoded(credential: Credential) -> str:
    return base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()
