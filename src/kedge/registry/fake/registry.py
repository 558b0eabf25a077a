"""The fake registry put together: where it listens, which request is for what, what it has seen.

Owns the log of requests. Does not know how its parts do their work.
"""

import re
import threading
from urllib.parse import unquote

from kedge.model.value import replace
from kedge.registry.fake.access import Access
from kedge.registry.fake.connections import Server
from kedge.registry.fake.replies import Bend, Body, Reply, Rules, Seen, error_reply, json_reply
from kedge.registry.fake.repositories import Repositories


class FakeRegistry(Access, Repositories):
    """See the module. A context manager; `address` is `127.0.0.1:PORT`. Attributes may be changed at any time.

    `users` (name: password) switches basic authorisation on; with `realm` tokens are wanted instead, which any
    FakeRegistry hands out at `/token` (`token_url`) for those users, or for everyone when there are none.
    """

    def __init__(
        self, *, users: dict[str, str] | None = None, realm: str = "", tls: tuple[str, str] | None = None
    ) -> None:
        Access.__init__(self, users or {}, realm)
        Repositories.__init__(self)
        self.seen: list[Seen] = []
        self._rules = Rules()
        self._server = Server(self, tls)
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

    # ---- how it misbehaves -------------------------------------------------------------------------------------------

    def on(self, method: str, path: str, effect: Bend, times: int = 1) -> None:
        """Bend the next `times` answers (-1: all) to requests whose method and path (a regular expression) match."""
        self._rules.add(method, path, effect, times)

    def bent(self, seen: Seen, reply: Reply) -> Reply:
        """The answer as the rules have it."""
        return self._rules.bent(seen, reply)

    def requests(self, method: str = "", path: str = "") -> list[Seen]:
        """What was asked so far, by method and path (a regular expression)."""
        return [one for one in self.seen if method in ("", one.method) and re.search(path, one.path)]

    # ---- answering ---------------------------------------------------------------------------------------------------

    def reply(self, seen: Seen, body: Body) -> Reply:
        """The answer to a request, before any rule."""
        with self.lock:
            self.seen.append(seen)
        if seen.path == "/token":
            return self.token(seen)
        found = re.fullmatch(r"/v2/(?:(.+?)/(blobs/uploads|blobs|manifests|tags|referrers)(?:/(.*))?)?", seen.path)
        if not found:
            return error_reply(404, "NOT_FOUND", "no such page")
        name, kind, rest = found[1], found[2], found[3] or ""
        action = "pull" if seen.method in ("GET", "HEAD") and kind != "blobs/uploads" else "pull,push"
        scope = f"repository:{name}:{action}" if name else ""
        if not self.allows(seen, scope):
            reply = error_reply(401, "UNAUTHORIZED", "authentication required")
            return replace(reply, headers=reply.headers | {"WWW-Authenticate": self.challenge(scope)})
        if not name:
            return json_reply(200, {})
        return self.serve(seen, name, kind, rest if kind == "blobs/uploads" else unquote(rest), body)
