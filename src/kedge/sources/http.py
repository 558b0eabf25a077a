"""`http://` and `https://`: one file by URL, as ADD and remote contexts take it.

Owns what such a file is called and how old it is, revalidation by ETag, and the checks on what comes. Does not know
what the file is for. Facts: BuildKit's source/http; RFC 9110 §8.8, §13.1 (validators), RFC 6266 (Content-Disposition).
"""

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from kedge.model.digest import Digest, digest_of, parse_digest
from kedge.model.errors import IntegrityError, InvalidInput, KedgeError, NotFound, SourceError, Unsupported
from kedge.model.graph import Snapshot
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.value import dataclass, field
from kedge.session.session import Session
from kedge.sources.handler import Pin, Work
from kedge.sources.lone_file import FileForm, buildkit_name, place, read_form, safe_name
from kedge.sources.once import Once

if TYPE_CHECKING:
    import urllib3

    from kedge.storage.store import Store

PIECE = 1 << 18  # bytes
REDIRECTS = 10
TIMEOUT = 30.0  # seconds without a byte
LARGEST = 64 << 30  # bytes
_SESSION = "buildkit-session"  # the host of what the client offers by its session
# Servers that treat builders apart know BuildKit's name.
USER_AGENT = "kedge (like buildkit/v0.32)"
_HEADERS = frozenset({"accept", "user-agent"})  # what a graph may set (BuildKit's list)


@dataclass(frozen=True, slots=True)
class Found:
    """A file as a server gave it. `modified` is Last-Modified as it was sent, or empty."""

    content: Digest
    name: str
    etag: str = ""
    modified: str = ""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The attributes of an http source, read."""

    url: str
    checksum: Digest | None = None
    form: FileForm = FileForm()
    headers: dict[str, str] = field(default_factory=dict)
    auth_secret: str = ""


class HttpSource:
    """SourceHandler for http:// and https://. What was downloaded to say what a URL is now is not downloaded again."""

    def __init__(self, store: "Store", session: Session, asked: Once[Found] | None = None) -> None:
        """`asked` remembers what URLs are, for all of one build: what it was told of one is what it builds with."""
        self._store, self._session, self._asked = store, session, asked or Once[Found]()
        self._notes = Path(store.root) / "http"
        self._pool: urllib3.PoolManager | None = None

    def pin(self, source: Source, platform: Platform | None, work: Work) -> Pin:
        """By content, name and owner. A checksum given in advance needs no request."""
        wanted = _read(source)
        if wanted.checksum:
            found = Found(wanted.checksum, file_name(wanted.url, wanted.form.name, ""))
        else:
            found = self._current(wanted, work)
        form = wanted.form
        identity = (found.name, form.mode, form.uid, form.gid, found.content, found.modified)
        labels = [("URL", shown(wanted.url)), ("content", found.content), ("file", found.name)]
        labels += [("modified", found.modified)] if found.modified else []
        return Pin(digest_of(identity), labels=tuple(labels), buildkit=_buildkit_names(found, wanted, source))

    def fetch(self, source: Source, platform: Platform | None, pin: Pin, work: Work) -> Snapshot:
        """A layer with the one file. Raises IntegrityError when it is not what the checksum promised."""
        wanted = _read(source)
        found = self._known(wanted) if wanted.checksum else self._current(wanted, work)
        if found is None or (wanted.checksum and found.content != wanted.checksum):
            found = self._look(wanted, work)
        if wanted.checksum and found.content != wanted.checksum:
            raise IntegrityError(f"{shown(wanted.url)} is {found.content}, expected {wanted.checksum}")
        name = file_name(wanted.url, wanted.form.name, "") if wanted.checksum else found.name
        with self._store.layers.draft() as draft:
            place(self._store, found.content, draft.upper / name, wanted.form, _time(found))
            return (draft.commit(shown(wanted.url)),)

    # ---- asking the server -------------------------------------------------------------------------------------------

    def _current(self, wanted: _Wanted, work: Work) -> Found:
        """What the URL is in this build; looked up again only if its content is no longer here."""
        found = self._asked.ask(_question(wanted), lambda: self._look(wanted, work))
        return found if self._store.blobs.has(found.content) else self._look(wanted, work)

    def _look(self, wanted: _Wanted, work: Work) -> Found:
        """What the URL is now: a conditional request if its content is here, else a download."""
        if _is_given(wanted):  # what is given once is asked for once, whatever it is to be called
            given = self._asked.ask(wanted.url, lambda: Found(self._receive(wanted, work), ""))
            return Found(given.content, file_name(wanted.url, wanted.form.name, ""))
        known = self._known(wanted)
        if known and known.etag and self._is_unchanged(wanted, known):
            return known
        conditions = {}
        if known and known.etag:
            conditions["If-None-Match"] = known.etag
        elif known and known.modified:
            conditions["If-Modified-Since"] = known.modified
        with self._request(wanted, conditions) as response, _stopped_with(work, response):
            if response.status == 304 and known:
                return known
            if not 200 <= response.status < 300:
                raise SourceError(
                    f"{shown(wanted.url)}: the server answered {response.status} {response.reason or ''}".rstrip()
                )
            found = self._download(wanted, response, work)
        self._remember(wanted, found)
        return found

    def _receive(self, wanted: _Wanted, work: Work) -> Digest:
        """What the client gives under a URL of its own."""
        stream = self._session.upload(wanted.url)
        if stream is None:
            raise NotFound(f"nothing is offered at {shown(wanted.url)}")
        with self._store.blobs.writer() as writer:
            done = 0
            while piece := stream.read(PIECE):
                work.check()
                done += writer.write(piece)
                work.status("receiving", done)
                if done > LARGEST:
                    raise SourceError(f"{shown(wanted.url)} is larger than {LARGEST >> 30} GiB")
            content = writer.commit()
        work.status("receiving", done, done, done=True)
        return content

    def _is_unchanged(self, wanted: _Wanted, known: Found) -> bool:
        """Ask for the headers only, as BuildKit does: some servers never answer 304, but tell the same ETag."""
        try:
            with self._request(wanted, {"If-None-Match": known.etag}, "HEAD") as response:
                return response.status == 304 or (
                    response.status == 200 and response.headers.get("ETag", "") == known.etag
                )
        except SourceError:
            return False  # the request proper tells what is wrong

    def _request(self, wanted: _Wanted, conditions: dict[str, str], method: str = "GET") -> "urllib3.BaseHTTPResponse":
        import urllib3

        # Names in one case: a client's own header takes the place of ours.
        headers = {"accept-encoding": "identity", "user-agent": USER_AGENT} | wanted.headers | conditions
        if value := self._secret(wanted):
            headers["Authorization"] = value
        url, basic = _without_login(wanted.url)
        if basic and "Authorization" not in headers:
            headers |= urllib3.make_headers(basic_auth=basic)
        try:
            return self._manager().request(
                method, url, headers=headers, preload_content=False, redirect=True, decode_content=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise SourceError(f"{shown(wanted.url)}: {_reason(error)}", retryable=True) from None

    def _download(self, wanted: _Wanted, response: "urllib3.BaseHTTPResponse", work: Work) -> Found:
        import urllib3

        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isascii() and length.isdigit() else 0
        if total > LARGEST:
            raise SourceError(f"{shown(wanted.url)} is larger than {LARGEST >> 30} GiB")
        done = 0
        try:
            with self._store.blobs.writer() as writer:
                while piece := response.read(PIECE):
                    work.check()
                    done += writer.write(piece)
                    work.status("downloading", done, total)
                    if done > LARGEST:
                        raise SourceError(f"{shown(wanted.url)} is larger than {LARGEST >> 30} GiB")
                if total and done != total:
                    raise SourceError(f"{shown(wanted.url)} ended after {done} of {total} bytes", retryable=True)
                content = writer.commit()
        except urllib3.exceptions.HTTPError as error:
            raise SourceError(f"{shown(wanted.url)}: {_reason(error)}", retryable=True) from None
        work.status("downloading", done, total, done=True)
        name = file_name(wanted.url, wanted.form.name, response.headers.get("Content-Disposition", ""))
        return Found(content, name, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))

    def _manager(self) -> "urllib3.PoolManager":
        if self._pool is None:
            import urllib3

            retries = urllib3.Retry(
                total=REDIRECTS + 3,
                connect=3,
                read=2,
                redirect=REDIRECTS,
                status=0,
                backoff_factor=0.2,
                raise_on_status=False,
            )
            timeout = urllib3.Timeout(connect=TIMEOUT, read=TIMEOUT)
            proxy = next(
                (os.environ[n] for n in ("https_proxy", "HTTPS_PROXY", "http_proxy") if os.environ.get(n)), None
            )
            self._pool = (
                urllib3.ProxyManager(proxy, retries=retries, timeout=timeout)
                if proxy
                else urllib3.PoolManager(retries=retries, timeout=timeout)
            )
        return self._pool

    def _secret(self, wanted: _Wanted) -> str:
        """The Authorization header: a named secret's, or what the client has for the host (BuildKit's names)."""
        host = urlsplit(wanted.url).hostname or ""
        if wanted.auth_secret:
            asked = [(f"{wanted.auth_secret}.{host}", ""), (wanted.auth_secret, "")]
        else:
            asked = [(f"HTTP_AUTH_HEADER_{host}", ""), (f"HTTP_AUTH_TOKEN_{host}", "Bearer ")]
        for id, prefix in asked:
            if data := self._session.secret(id):
                return prefix + data.decode("latin-1").strip()
        return ""

    # ---- what is known of URLs ---------------------------------------------------------------------------------------

    def _note(self, wanted: _Wanted) -> Path:
        return self._notes / digest_of(_question(wanted))[7:]

    def _known(self, wanted: _Wanted) -> Found | None:
        try:
            value = json.loads(self._note(wanted).read_bytes())
            found = Found(parse_digest(value["content"]), value["name"], value["etag"], value["modified"])
        except (OSError, ValueError, KeyError, TypeError, KedgeError):
            return None
        return found if self._store.blobs.has(found.content) else None

    def _remember(self, wanted: _Wanted, found: Found) -> None:
        note = self._note(wanted)
        value = {"content": found.content, "name": found.name, "etag": found.etag, "modified": found.modified}
        try:
            self._notes.mkdir(exist_ok=True)
            aside = note.with_name(f"{note.name}.{os.getpid()}")
            aside.write_text(json.dumps(value))
            aside.replace(note)
        except OSError:
            pass  # only a hint: the next build downloads again


def _question(wanted: _Wanted) -> tuple[str, str, tuple[tuple[str, str], ...], str]:
    """What the server is asked: the same question has the same answer."""
    return wanted.url, wanted.form.name, tuple(sorted(wanted.headers.items())), wanted.auth_secret


def _is_given(wanted: _Wanted) -> bool:
    """Whether the client gives it under a URL of its own."""
    return urlsplit(wanted.url).hostname == _SESSION


@contextmanager
def _stopped_with(work: Work, response: "urllib3.BaseHTTPResponse") -> Iterator[None]:
    """Cut the connection when the build stops: a read that waits for a slow server would hold it up."""
    done = threading.Event()
    # By a descriptor of our own: the response closes its connection when it has read all.
    connection = socket.socket(fileno=os.dup(response.fileno())) if not response.closed else None

    def watch() -> None:
        while not done.wait(0.1):
            if work.cancel.is_set() and connection:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                return

    watcher = threading.Thread(target=watch, name="http", daemon=True)
    watcher.start()
    try:
        yield
    except SourceError:
        work.check()  # then it is the stop that broke it
        raise
    finally:
        done.set()
        watcher.join()
        if connection:
            connection.close()


def _buildkit_names(found: Found, wanted: _Wanted, source: Source) -> tuple[str, ...]:
    """BuildKit's name for the file (source/http, formatCacheKey), as Go writes that JSON; none with headers."""
    if wanted.headers:
        return ()
    form = wanted.form
    mode = form.mode if source.attr("http.perm") else 0
    fields: dict[str, str | int] = {"Filename": found.name, "Perm": mode, "UID": form.uid, "GID": form.gid}
    fields |= {"Checksum": found.content} | ({"LastModTime": found.modified} if found.modified else {})
    fields |= {"AuthHeaderSecret": wanted.auth_secret} if wanted.auth_secret else {}
    return (buildkit_name(fields),)


# ---- the file --------------------------------------------------------------------------------------------------------


def file_name(url: str, given: str, disposition: str) -> str:
    """What the file is called: as asked, as Content-Disposition says, else the URL path's last part, else
    `download`.
    """
    if given:
        return safe_name(given)
    if named := _disposition_name(disposition):
        return safe_name(named)
    return safe_name(unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2])


def _disposition_name(header: str) -> str:
    match = re.search(r'(?i);\s*filename\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]+)', header)
    if not match:
        return ""
    name = match[1]
    if name.startswith('"'):
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return "" if name.endswith("/") else name


def _time(found: Found) -> float:
    """When the file was made, in seconds: as the server says."""
    from email.utils import parsedate_to_datetime

    with suppress(ValueError):
        return parsedate_to_datetime(found.modified).timestamp() if found.modified else 0.0
    return 0.0


# ---- URLs and attributes ---------------------------------------------------------------------------------------------


def shown(url: str) -> str:
    """A URL for messages and logs: without user, password, query values that may be tokens, and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _without_login(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, host, parts.path, parts.query, "")), unquote(login)


def _read(source: Source) -> _Wanted:
    attrs = dict(source.attrs)
    headers = {
        name: value
        for key, value in source.attrs
        if key.startswith("http.header.") and (name := key.removeprefix("http.header.").lower()) in _HEADERS
    }
    if attrs.get("http.sig.pubkey") or attrs.get("http.sig.signature"):
        raise Unsupported("signatures of files cannot be verified here")
    if not urlsplit(source.identifier).hostname or any(c <= " " for c in source.identifier):
        raise InvalidInput(f"{shown(source.identifier)} is no URL")
    return _Wanted(
        source.identifier,
        parse_digest(attrs["http.checksum"]) if attrs.get("http.checksum") else None,
        read_form(source),
        headers,
        attrs.get("http.authheadersecret", ""),
    )


def _reason(error: Any) -> str:
    """One line without the URL's secrets."""
    cause = getattr(error, "reason", None) or error
    if type(cause).__name__ == "ResponseError":
        return str(cause)
    names = {
        "NameResolutionError": "the host name cannot be resolved",
        "NewConnectionError": "cannot connect",
        "ConnectTimeoutError": "no answer",
        "ReadTimeoutError": "no answer",
        "SSLError": "the certificate is not valid",
        "IncompleteRead": "the connection broke",
        "ProtocolError": "the connection broke",
    }
    return names.get(type(cause).__name__, type(cause).__name__)
