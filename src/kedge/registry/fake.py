"""A registry in memory, on loopback, that can be told to misbehave: for tests, of Kedge and of what is built on it.

Owns enough of the distribution specification to push and pull, basic and token authorisation, a log of all requests,
and rules that bend its answers: cut, slow, lie, redirect, refuse. Never leaves 127.0.0.1. Does not check what it is
given beyond digests.
"""

import base64
import contextlib
import hashlib
import json
import re
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from kedge.model.digest import Digest, sha256
from kedge.model.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    canonical_json,
    referring,
)
from kedge.model.value import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came. `headers` have lower-case names; `received` counts the body's bytes."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    received: int = 0
    body: bytes = b""  # of small requests that carry a form

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent. `cut_at` bytes of the body are sent, then the connection is reset, whatever
    Content-Length says. `delay` seconds pass before the first byte; `drip` is (bytes, seconds between them)."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_at: int | None = None
    delay: float = 0.0
    drip: tuple[int, float] | None = None
    endless: bool = False


Bend: TypeAlias = Callable[[Seen, Reply], Reply]


@dataclass(slots=True)
class _Rule:
    method: str
    path: re.Pattern[str]
    bend: Bend
    left: int


@dataclass(slots=True)
class Contents:
    """One repository."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def bend(**changes: Any) -> Bend:
    """A rule's effect that sets fields of the Reply."""
    return lambda seen, reply: replace(reply, **changes)


def header(name: str, value: str | None) -> Bend:
    """A rule's effect that sets (None: removes) one header."""

    def change(seen: Seen, reply: Reply) -> Reply:
        kept = {key: text for key, text in reply.headers.items() if key.lower() != name.lower()}
        return replace(reply, headers=kept if value is None else kept | {name: value})

    return change


def redirect(url: str, status: int = 307) -> Bend:
    """A rule's effect that sends the client elsewhere."""
    return bend(status=status, headers={"Location": url, "Content-Length": "0"}, body=b"")


def answer(status: int, body: bytes = b"", **headers: str) -> Bend:
    """A rule's effect that answers something else altogether; `_` in header names is `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return bend(status=status, headers=named, body=body)


class FakeRegistry:
    """See the module. A context manager; `address` is `127.0.0.1:PORT`. Attributes may be changed at any time.

    `users` (name: password) switches basic authorisation on; with `realm` tokens are wanted instead, which any
    FakeRegistry hands out at `/token` (`token_url`) for those users, or for everyone when there are none.
    """

    def __init__(
        self, *, users: dict[str, str] | None = None, realm: str = "", tls: tuple[str, str] | None = None
    ) -> None:
        self.users, self.realm = users or {}, realm
        self.identity_tokens: set[str] = set()
        self.gives_identity_tokens = False
        self.token_methods = {"GET", "POST"}
        self.token_life = 300
        self.referrers_api, self.ranges, self.resumes = True, True, True
        self.page_size = 0
        self.repositories: dict[str, Contents] = {}
        self.seen: list[Seen] = []
        self._uploads: dict[str, bytearray] = {}
        self._tokens: dict[str, frozenset[str]] = {}
        self._rules: list[_Rule] = []
        self._breaks: list[int] = []
        self.lock = threading.RLock()
        registry = self

        class Handler(_Handler):
            fake = registry

        self._server = _Server(("127.0.0.1", 0), Handler)
        if tls:
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._scheme = "https" if tls else "http"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.address}"

    @property
    def token_url(self) -> str:
        return f"{self.url}/token"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "FakeRegistry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- what it holds -----------------------------------------------------------------------------------------------

    def repository(self, name: str) -> Contents:
        with self.lock:
            return self.repositories.setdefault(name, Contents())

    def add_blob(self, repository: str, data: bytes, media_type: str = OCI_LAYER) -> Descriptor:
        digest = sha256(data)
        self.repository(repository).blobs[digest] = data
        return Descriptor(media_type, digest, len(data))

    def add_manifest(self, repository: str, tag: str, data: bytes, media_type: str = OCI_MANIFEST) -> Descriptor:
        contents, digest = self.repository(repository), sha256(data)
        contents.manifests[digest] = (media_type, data)
        if tag:
            contents.tags[tag] = digest
        return Descriptor(media_type, digest, len(data))

    def add_image(
        self, repository: str, tag: str = "latest", layers: tuple[bytes, ...] = (b"layer",), **config: Any
    ) -> Descriptor:
        """An image of uncompressed layers; `config` are top-level fields of its config."""
        whole = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
        } | config
        blobs = tuple(self.add_blob(repository, layer) for layer in layers)
        manifest = Manifest(self.add_blob(repository, canonical_json(whole), OCI_CONFIG), blobs)
        return self.add_manifest(repository, tag, manifest.to_bytes())

    # ---- how it misbehaves -------------------------------------------------------------------------------------------

    def on(self, method: str, path: str, effect: Bend, times: int = 1) -> None:
        """Bend the next `times` answers (-1: all) to requests whose method and path (a regular expression) match."""
        with self.lock:
            self._rules.append(_Rule(method, re.compile(path), effect, times))

    def break_upload(self, *after: int) -> None:
        """Reset the connections of the next uploads once that many bytes of each body have come."""
        with self.lock:
            self._breaks.extend(after)

    def requests(self, method: str = "", path: str = "") -> list[Seen]:
        """What was asked so far, by method and path (a regular expression)."""
        return [one for one in self.seen if method in ("", one.method) and re.search(path, one.path)]

    def bent(self, seen: Seen, reply: Reply) -> Reply:
        with self.lock:
            for rule in self._rules:
                if rule.left and rule.method in ("", seen.method) and rule.path.search(seen.path):
                    rule.left -= 1
                    return rule.bend(seen, reply)
        return reply

    # ---- who may ask -------------------------------------------------------------------------------------------------

    def allows(self, seen: Seen, scope: str) -> bool:
        if self.realm:
            kind, _, token = seen.authorization.partition(" ")
            granted = self._tokens.get(token)
            return kind == "Bearer" and granted is not None and (not scope or _covers(granted, scope))
        return not self.users or self._basic_user(seen) is not None

    def challenge(self, scope: str) -> str:
        if not self.realm:
            return 'Basic realm="fake"'
        return f'Bearer realm="{self.realm}",service="fake"' + (f',scope="{scope}"' if scope else "")

    def share_tokens(self, other: "FakeRegistry") -> None:
        """Accept the tokens that another fake hands out."""
        self._tokens = other._tokens

    def _basic_user(self, seen: Seen) -> str | None:
        kind, _, encoded = seen.authorization.partition(" ")
        with contextlib.suppress(ValueError):
            name, _, password = base64.b64decode(encoded).decode().partition(":")
            if kind == "Basic" and self.users.get(name) == password:
                return name
        return None

    def token(self, seen: Seen) -> Reply:
        """The token endpoint: GET with basic authorisation, or an OAuth2 form (distribution's token and oauth2
        specifications).
        """
        if seen.method not in self.token_methods:
            return _error(405, "UNSUPPORTED", "method not allowed")
        form = dict(parse_qs(seen.body.decode() if seen.method == "POST" else seen.query).items())
        first = {key: values[0] for key, values in form.items()}
        if seen.method == "POST" and first.get("grant_type") == "refresh_token":
            allowed = first.get("refresh_token") in self.identity_tokens
        elif seen.method == "POST":
            allowed = self.users.get(first.get("username", "")) == first.get("password")
        else:
            allowed = not self.users or self._basic_user(seen) is not None
        if not allowed:
            return _error(401, "UNAUTHORIZED", "incorrect username or password")
        token = "fake-" + secrets.token_hex(8)
        self._tokens[token] = frozenset(scope for text in form.get("scope", []) for scope in text.split())
        value: dict[str, object] = {"token": token, "access_token": token, "expires_in": self.token_life}
        if self.gives_identity_tokens and first.get("offline_token", first.get("access_type")):
            self.identity_tokens.add(identity := "identity-" + secrets.token_hex(8))
            value["refresh_token"] = identity
        return _json_reply(200, value)

    # ---- the distribution specification ------------------------------------------------------------------------------

    def reply(self, seen: Seen, handler: "_Handler") -> Reply:
        if seen.path == "/token":
            return self.token(seen)
        found = re.fullmatch(r"/v2/(?:(.+?)/(blobs/uploads|blobs|manifests|tags|referrers)(?:/(.*))?)?", seen.path)
        if not found:
            return _error(404, "NOT_FOUND", "no such page")
        name, kind, rest = found[1], found[2], found[3] or ""
        action = "pull" if seen.method in ("GET", "HEAD") and kind != "blobs/uploads" else "pull,push"
        scope = f"repository:{name}:{action}" if name else ""
        if not self.allows(seen, scope):
            reply = _error(401, "UNAUTHORIZED", "authentication required")
            return replace(reply, headers=reply.headers | {"WWW-Authenticate": self.challenge(scope)})
        if not name:
            return _json_reply(200, {})
        serve = {"blobs": self._blob, "manifests": self._manifest, "tags": self._tag_list, "referrers": self._referrers}
        if kind == "blobs/uploads":
            return self._upload(seen, name, rest, handler)
        return serve[kind](seen, self.repository(name), unquote(rest), handler)

    def _blob(self, seen: Seen, contents: Contents, digest: str, handler: "_Handler") -> Reply:
        data = contents.blobs.get(digest)
        if data is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        wanted = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("range", ""))
        if wanted and self.ranges:
            start = int(wanted[1])
            if start >= len(data):
                return Reply(416, {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return Reply(206, headers, data[start:])
        return Reply(200, headers, data)

    def _manifest(self, seen: Seen, contents: Contents, name: str, handler: "_Handler") -> Reply:
        if seen.method == "PUT":
            data = handler.read_body()
            kind, digest = seen.headers.get("content-type", ""), sha256(data)
            if ":" in name and name != digest:
                return _error(400, "DIGEST_INVALID", "digest invalid")
            contents.manifests[digest] = (kind, data)
            if ":" not in name:
                contents.tags[name] = digest
            subject = (json.loads(data).get("subject") or {}).get("digest")
            headers = {"Docker-Content-Digest": digest, "Location": seen.path}
            return Reply(201, headers | ({"OCI-Subject": subject} if subject and self.referrers_api else {}))
        digest = contents.tags.get(name, name)  # type: ignore[assignment]
        if digest not in contents.manifests:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        kind, data = contents.manifests[digest]
        return Reply(200, {"Content-Type": kind, "Docker-Content-Digest": digest}, data)

    def _tag_list(self, seen: Seen, contents: Contents, rest: str, handler: "_Handler") -> Reply:
        tags = sorted(contents.tags)
        last = parse_qs(seen.query).get("last", [""])[0]
        left = [tag for tag in tags if tag > last]
        page = left[: self.page_size or None]
        reply = _json_reply(200, {"name": "", "tags": page})
        if len(page) < len(left):
            reply.headers["Link"] = f'<{seen.path}?last={page[-1]}>; rel="next"'
        return reply

    def _referrers(self, seen: Seen, contents: Contents, digest: str, handler: "_Handler") -> Reply:
        if not self.referrers_api:
            return _error(404, "NOT_FOUND", "no such page")
        known = ((Descriptor(kind, Digest(own), len(data)), data) for own, (kind, data) in contents.manifests.items())
        listed = [about[1] for one in known if (about := referring(*one)) and about[0] == digest]
        return Reply(200, {"Content-Type": OCI_INDEX}, Index(tuple(listed)).to_bytes())

    def _upload(self, seen: Seen, name: str, session: str, handler: "_Handler") -> Reply:
        query = {key: values[0] for key, values in parse_qs(seen.query).items()}
        if seen.method == "POST":
            mounted = self.repositories.get(query.get("from", ""), Contents()).blobs.get(query.get("mount", ""))
            if mounted is not None:
                self.repository(name).blobs[query["mount"]] = mounted
                return Reply(201, {"Location": f"/v2/{name}/blobs/{query['mount']}"})
            session = secrets.token_hex(8)
            self._uploads[session] = bytearray()
            return Reply(202, {"Location": f"/v2/{name}/blobs/uploads/{session}", "Range": "0-0"})
        data = self._uploads.get(session)
        if data is None:
            return _error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if seen.method == "DELETE":
            del self._uploads[session]
            return Reply(204)
        headers = {"Location": f"/v2/{name}/blobs/uploads/{session}"}
        if seen.method == "GET":
            return Reply(204, headers | {"Range": f"0-{max(0, len(data) - 1)}"})
        wanted = seen.headers.get("content-range", "").partition("-")[0]
        if wanted and int(wanted) != len(data):
            return Reply(416, headers | {"Range": f"0-{max(0, len(data) - 1)}"})
        with self.lock:
            broken_after = self._breaks.pop(0) if self._breaks and handler.body_left else None
        try:
            handler.receive(data, broken_after)
        except ConnectionError:
            if not self.resumes:
                del self._uploads[session]
            raise
        if seen.method == "PATCH":
            return Reply(202, headers | {"Range": f"0-{max(0, len(data) - 1)}"})
        del self._uploads[session]
        algorithm = query.get("digest", "").partition(":")[0]
        if (
            algorithm not in ("sha256", "sha512")
            or f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}" != query["digest"]
        ):
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.repository(name).blobs[query["digest"]] = bytes(data)
        return Reply(201, {"Location": f"/v2/{name}/blobs/{query['digest']}", "Docker-Content-Digest": query["digest"]})


def _covers(granted: frozenset[str], scope: str) -> bool:
    kind, name, actions = scope.split(":")
    for text in granted:
        parts = text.split(":")
        if parts[:2] == [kind, name] and set(actions.split(",")) <= set(parts[2].split(",")):
            return True
    return False


def _json_reply(status: int, value: object) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


def _error(status: int, code: str, message: str) -> Reply:
    return _json_reply(status, {"errors": [{"code": code, "message": message}]})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # broken connections are what this server is for


class _Handler(BaseHTTPRequestHandler):
    fake: FakeRegistry
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    body_left = 0

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.body_left = int(headers.get("content-length") or 0)
        seen = Seen(self.command, parts.path, parts.query, headers, self.body_left)
        if parts.path == "/token" and self.command == "POST":
            seen = replace(seen, body=self.read_body())
        with self.fake.lock:
            self.fake.seen.append(seen)
        try:
            reply = self.fake.reply(seen, self)
        except ConnectionError:
            self._reset()
            return
        if self.body_left:
            self.read_body()
        self._send(self.fake.bent(seen, reply))

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve

    def read_body(self) -> bytes:
        data, self.body_left = self.rfile.read(self.body_left), 0
        return data

    def receive(self, into: bytearray, broken_after: int | None) -> None:
        """Take the body; ConnectionError after `broken_after` bytes or when the client leaves."""
        left = self.body_left if broken_after is None else min(broken_after, self.body_left)
        self.body_left = 0
        while left:
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                raise ConnectionError
            into += piece
            left -= len(piece)
        if broken_after is not None:
            raise ConnectionError

    def _send(self, reply: Reply) -> None:
        time.sleep(reply.delay)
        self.send_response(reply.status)
        names = {name.lower() for name in reply.headers}
        if (
            "content-length" not in names
            and "transfer-encoding" not in names
            and not reply.endless
            and reply.status != 204
        ):
            self.send_header("Content-Length", str(len(reply.body)))
        if reply.endless:
            self.send_header("Connection", "close")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = reply.body if reply.cut_at is None else reply.body[: reply.cut_at]
        if reply.drip:
            for start in range(0, len(body), reply.drip[0]):
                self.wfile.write(body[start : start + reply.drip[0]])
                time.sleep(reply.drip[1])
        else:
            self.wfile.write(body)
        while reply.endless:
            self.wfile.write(bytes(65536))
        if reply.cut_at is not None:
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)
