"""One HTTP request at a time: pooled connections, TLS by configuration, proxies, and a deadline on every wait.

Owns sockets, and the translation of what goes wrong with them into RegistryError. Does not know what is asked for, who
asks (`auth`), nor whether to ask again (`exchange`). Redirects are never followed here.
"""

import http.client
import io
import ipaddress
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

from kedge.model.errors import Cancelled, RegistryError
from kedge.model.settings import NetworkSettings, RegistryHost
from kedge.model.value import dataclass, replace

if TYPE_CHECKING:
    import ssl

    import urllib3

PIECE: Final = 1 << 18  # bytes per read and write: what one connection holds in memory
_SLOWEST: Final = 256  # bytes per second, averaged over one timeout; below it a body counts as stalled
_TICK: Final = 0.25  # seconds between two looks at `cancel`
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")  # OpenSSL's words for plain http
_PORTS: Final = {"http": 80, "https": 443}

Body = bytes | Callable[[], Iterable[bytes]] | None


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what an Authorization header is for. `host` is lower-case, without brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether `host` (no port, no brackets) means this machine: `localhost` or a loopback address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin_of(url: str) -> Origin:
    """The origin of an absolute http(s) URL; RegistryError for anything else, also for one with a user or control
    characters.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if (
        parts.scheme not in _PORTS
        or not parts.hostname
        or "@" in parts.netloc
        or not url.isascii()
        or any(character <= " " or character == "\x7f" for character in url)
    ):
        raise RegistryError(f"a registry named an address that is no plain http or https URL: {shown_url(url)!r}")
    return Origin(parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port)


def absolute(base: str, relative: str) -> str:
    """The URL that `relative` means on the page `base`; RegistryError for one that cannot be read."""
    try:
        return str(urljoin(base, relative))
    except ValueError:
        raise RegistryError(f"a registry named an address that is none: {shown_url(relative)!r}") from None


def shown_url(url: str) -> str:
    """A URL fit for messages: no query (it may carry a signature), no user, at most 200 characters."""
    bare = url.partition("?")[0].partition("#")[0]
    scheme, separator, rest = bare.partition("://")
    authority, slash, path = rest.partition("/")
    return (scheme + separator + authority.rpartition("@")[2] + slash + path)[:200]


class Answer:
    """A response whose body is still on the wire. Must be read to its end or closed."""

    def __init__(self, response: "urllib3.BaseHTTPResponse", url: str) -> None:
        self._response = response
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self.url = url

    @property
    def length(self) -> int | None:
        """Content-Length, None where it is missing or no number."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read(self, size: int = PIECE) -> bytes:
        """Some bytes of the body, at most `size`; b"" at its end. RegistryError (retryable) when the connection
        breaks.
        """
        with _translated(self.url):
            return self._response.read1(size)

    def body(self, limit: int) -> bytes | None:
        """The whole body; None when it is longer than `limit` bytes. Closes the answer."""
        pieces, size = [], 0
        try:
            while piece := self.read(min(PIECE, limit + 1 - size)):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    self._response.close()
                    return None
        finally:
            self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Give the connection back to the pool if it can still be used, else close it."""
        response: Any = self._response
        if response._original_response is None or response._original_response.isclosed():
            response.release_conn()
        else:
            response.close()


class Transport:
    """Sends requests, each once. Safe for many threads. `cancel`, once set, ends every wait with Cancelled."""

    def __init__(self, network: NetworkSettings, cancel: threading.Event | None = None) -> None:
        self._network = network
        self._cancel = cancel or threading.Event()
        self._managers: dict[Any, urllib3.PoolManager] = {}
        self._pools: dict[bool, dict[str, Any]] = {}  # by whether a proxy stands between
        self._lock = threading.Lock()

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body, host: RegistryHost) -> Answer:
        """The answer to one request, whatever its status. RegistryError when there is none; `retryable` says whether
        it may help to ask again. `host` tells which certificates to trust and to show.
        """
        import urllib3

        manager = self._manager(origin_of(url), host)
        content = body() if callable(body) else body
        with _translated(url):
            response = manager.urlopen(
                method,
                url,
                headers=dict(headers),
                body=content,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(self._network.connect_timeout, self._network.timeout),
            )
        return Answer(response, url)

    def speaks_tls(self, origin: Origin) -> bool:
        """Whether a server answers a TLS handshake; no certificate is looked at, nothing is sent. True if in doubt."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # a bare one: the usual one reads all authorities first
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for _ in range(3):
            try:
                address = (origin.host, origin.port)
                with socket.create_connection(address, self._network.connect_timeout) as raw, context.wrap_socket(raw):
                    return True
            except ssl.SSLEOFError:
                continue
            except ssl.SSLError as error:
                return error.reason not in _NO_TLS
            except ConnectionRefusedError:
                return False  # nobody is there for https
            except OSError:
                continue
        return True

    def pause(self, seconds: float) -> None:
        """Sleep, unless cancelled: then raise Cancelled."""
        if self._cancel.wait(seconds):
            raise Cancelled("the transfer was stopped")

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            for manager in self._managers.values():
                manager.clear()
            self._managers.clear()

    def _manager(self, origin: Origin, host: RegistryHost) -> "urllib3.PoolManager":
        proxy = proxy_for(origin)
        key = (proxy, host.ca, host.keypair, host.insecure) if origin.scheme == "https" else (proxy,)
        with self._lock:
            if key not in self._managers:
                self._managers[key] = self._open_manager(proxy, host if origin.scheme == "https" else None)
            return self._managers[key]

    def _open_manager(self, proxy: str, host: RegistryHost | None) -> "urllib3.PoolManager":
        import urllib3

        options: dict[str, Any] = {"num_pools": 32, "maxsize": 16, "block": False}
        if host:
            options["ssl_context"] = tls_context(host)
            if host.insecure:
                options |= {"cert_reqs": "CERT_NONE", "assert_hostname": False}
        if proxy:
            parts = urlsplit(proxy)
            authorization = f"{parts.username}:{parts.password or ''}" if parts.username else None
            options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=authorization)
            bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
            manager: urllib3.PoolManager = urllib3.ProxyManager(bare, **options)
        else:
            manager = urllib3.PoolManager(**options)
        if bool(proxy) not in self._pools:
            self._pools[bool(proxy)] = _pool_classes(self._network.timeout, self._cancel, bool(proxy))
        manager.pool_classes_by_scheme = self._pools[bool(proxy)]
        return manager


def tls_context(host: RegistryHost) -> "ssl.SSLContext":
    """The TLS settings for a registry: the system's authorities and the registry's own. RegistryError names a bad
    file.
    """
    import ssl

    context = ssl.create_default_context()
    if host.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    files = [*host.ca, *(name for pair in host.keypair for name in pair)]
    name = ""
    try:
        for name in host.ca:
            for file in _pem_files(name):
                context.load_verify_locations(file)
        for key, certificate in host.keypair:
            name = certificate
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        assert files
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no PEM file"
        raise RegistryError(f"cannot use certificate file {name}: {reason}") from None
    return context


def _pem_files(name: str) -> list[str]:
    if not os.path.isdir(name):
        return [name]
    return sorted(entry.path for entry in os.scandir(name) if entry.name.endswith((".crt", ".pem")))


def without_identity(host: RegistryHost) -> RegistryHost:
    """What of a registry's settings also holds for other hosts it sends us to: its authorities, not our certificate."""
    return replace(host, keypair=(), insecure=False)


def proxy_for(origin: Origin) -> str:
    """The proxy that the environment names for an origin, "" for none. Never one for this machine itself, as in Go."""
    from urllib import request

    proxies = request.getproxies_environment()
    proxy = proxies.get(origin.scheme) or proxies.get("all") or ""
    bypass: Any = getattr(request, "proxy_bypass_environment")  # noqa: B009 - typeshed does not know it
    if not proxy or origin.loopback or bypass(f"{origin.host}:{origin.port}", proxies):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


# ---- waiting ---------------------------------------------------------------------------------------------------------


class _PacedIO(io.RawIOBase):
    """A socket's incoming bytes. Each wait is bounded, so is the time for all headers, and so is the slowness of a
    body.

    A socket's own timeout starts anew with every byte, so that a peer who sends one byte a minute would hold us for
    ever.
    """

    def __init__(self, sock: Any, timeout: float, cancel: threading.Event) -> None:
        self._raw = sock.makefile("rb", buffering=0)
        self._pending = getattr(sock, "pending", lambda: 0)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._timeout, self._cancel = timeout, cancel
        self._since, self._got, self._in_headers = time.monotonic(), 0, True

    def readable(self) -> bool:
        return True

    def headers_done(self) -> None:
        self._in_headers = False
        self._since, self._got = time.monotonic(), 0

    def readinto(self, buffer: Any) -> int | None:
        asked = time.monotonic()
        while not self._pending() and not self._poll.poll(_TICK * 1000):
            self._check(asked)
        self._check(asked)
        count: int = self._raw.readinto(buffer)
        self._got += count
        return count

    def _check(self, asked: float) -> None:
        if self._cancel.is_set():
            raise Cancelled("the transfer was stopped")
        now = time.monotonic()
        elapsed = now - self._since
        if now - asked > self._timeout or (self._in_headers and elapsed > self._timeout):
            raise TimeoutError(f"no answer for {self._timeout:.0f} seconds")
        if elapsed > self._timeout:
            if self._got < _SLOWEST * elapsed:
                raise TimeoutError(f"only {self._got} bytes in {elapsed:.0f} seconds")
            self._since, self._got = now, 0

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _pool_classes(timeout: float, cancel: threading.Event, proxied: bool) -> dict[str, Any]:
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class PacedResponse(http.client.HTTPResponse):
        def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
            super().__init__(sock, *args, **options)
            self.fp.close()
            self._paced = _PacedIO(sock, timeout, cancel)
            self.fp = io.BufferedReader(self._paced, PIECE)

        def begin(self) -> None:
            super().begin()
            self._paced.headers_done()

    def refuse_link_local(connection: Any) -> None:
        """Cloud machines keep their own credentials at link-local addresses: no registry lives there, whatever it
        says.
        """
        family = connection.sock.family
        if proxied or family not in (socket.AF_INET, socket.AF_INET6):
            return
        address = ipaddress.ip_address(connection.sock.getpeername()[0].partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        if mapped.is_link_local:
            connection.close()
            raise RegistryError(f"refusing to talk to {connection.host}: {mapped} is a link-local address")

    class PacedHTTP(HTTPConnection):
        response_class = PacedResponse

        def connect(self) -> None:
            super().connect()
            refuse_link_local(self)

    class PacedHTTPS(HTTPSConnection):
        response_class = PacedResponse

        def connect(self) -> None:
            super().connect()
            refuse_link_local(self)
            self.is_verified = True  # or the user configured otherwise: urllib3 need not warn about it

    class Http(HTTPConnectionPool):
        ConnectionCls = PacedHTTP

    class Https(HTTPSConnectionPool):
        ConnectionCls = PacedHTTPS

    return {"http": Http, "https": Https}


# ---- what goes wrong -------------------------------------------------------------------------------------------------


class _translated:
    """Context in which the HTTP library's exceptions become RegistryError."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, (RegistryError, Cancelled)):
            return
        import urllib3.exceptions as foreign

        if isinstance(error, (foreign.HTTPError, OSError, http.client.HTTPException)):
            raise _as_registry_error(error, self._url) from None


def _as_registry_error(error: BaseException, url: str) -> RegistryError:
    import urllib3.exceptions as foreign

    origin = origin_of(url)
    where = str(origin).partition("://")[2]
    chain = list(_causes(error))
    if any(isinstance(link, foreign.NameResolutionError) for link in chain):
        return Unreachable(
            f"cannot reach {where}: its name cannot be resolved", hint=_HINT_PROXY, retryable=not origin.loopback
        )
    if any(isinstance(link, foreign.SSLError) or type(link).__module__ == "ssl" for link in chain):
        return _tls_error(" ".join(str(link) for link in chain), where)
    if any(isinstance(link, foreign.ProxyError) for link in chain):
        return Unreachable(f"cannot reach {where}: the proxy refused", hint=_HINT_PROXY, retryable=True)
    if any(isinstance(link, (foreign.NewConnectionError, foreign.ConnectTimeoutError)) for link in chain):
        reason = next((link.strerror for link in chain if isinstance(link, OSError) and link.strerror), "no connection")
        return Unreachable(f"cannot reach {where}: {reason.lower()}", hint=_HINT_PROXY, retryable=not origin.loopback)
    if any(isinstance(link, (TimeoutError, foreign.TimeoutError)) for link in chain):
        return RegistryError(f"{where} stopped answering", retryable=True)
    if any(isinstance(link, (foreign.LocationValueError, foreign.InvalidHeader)) for link in chain):
        return RegistryError(f"{where} sent an answer that is no HTTP")
    return RegistryError(f"the connection to {where} broke", retryable=True)


_HINT_PROXY = "Check the name, the network, and the variables HTTPS_PROXY and NO_PROXY."


class Unreachable(RegistryError):
    """No connection came to be: the request cannot have had any effect."""


def _tls_error(text: str, where: str) -> RegistryError:
    if any(reason in text for reason in _NO_TLS):
        return RegistryError(
            f"{where} does not speak https",
            hint=f'If plain http is meant, say `http = true` in [registry."{where}"] of the config file.',
        )
    if "CERTIFICATE_VERIFY_FAILED" in text or "doesn't match" in text or "not valid for" in text:
        detail = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "it does not match the name"
        return RegistryError(
            f"the certificate of {where} cannot be trusted: {detail}",
            hint=f'Name its authority as `ca = ["/path/to/ca.pem"]` in [registry."{where}"] of the config file.',
        )
    if "EOF" in text or "reset" in text.lower() or "closed" in text:
        return RegistryError(f"the connection to {where} broke during the TLS handshake", retryable=True)
    return RegistryError(f"TLS with {where} failed", hint="Check its certificate and which TLS versions it speaks.")


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    seen = 0
    while error is not None and seen < 10:
        yield error
        reason = getattr(error, "reason", None)
        inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        error = reason if isinstance(reason, BaseException) else inner or error.__cause__ or error.__context__
        seen += 1
