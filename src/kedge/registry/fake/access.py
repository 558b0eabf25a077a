"""Who may ask the fake registry: basic authorisation, and tokens as distribution's token and oauth2 specifications have
them.

Owns users and tokens. Does not know what they are for but by scope.
"""

import base64
import contextlib
import secrets
from urllib.parse import parse_qs

from kedge.registry.fake.replies import Reply, Seen, error_reply, json_reply


class Access:
    """The part of a fake registry that lets in or refuses; see `FakeRegistry` for the attributes."""

    def __init__(self, users: dict[str, str], realm: str) -> None:
        self.users, self.realm = users, realm
        self.identity_tokens: set[str] = set()
        self.gives_identity_tokens = False
        self.token_methods = {"GET", "POST"}
        self.token_life = 300
        self._tokens: dict[str, frozenset[str]] = {}

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

    def share_tokens(self, other: "Access") -> None:
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
            return error_reply(405, "UNSUPPORTED", "method not allowed")
        form = dict(parse_qs(seen.body.decode() if seen.method == "POST" else seen.query).items())
        first = {key: values[0] for key, values in form.items()}
        if seen.method == "POST" and first.get("grant_type") == "refresh_token":
            allowed = first.get("refresh_token") in self.identity_tokens
        elif seen.method == "POST":
            allowed = self.users.get(first.get("username", "")) == first.get("password")
        else:
            allowed = not self.users or self._basic_user(seen) is not None
        if not allowed:
            return error_reply(401, "UNAUTHORIZED", "incorrect username or password")
        token = "fake-" + secrets.token_hex(8)
        self._tokens[token] = frozenset(scope for text in form.get("scope", []) for scope in text.split())
        value: dict[str, object] = {"token": token, "access_token": token, "expires_in": self.token_life}
        if self.gives_identity_tokens and first.get("offline_token", first.get("access_type")):
            self.identity_tokens.add(identity := "identity-" + secrets.token_hex(8))
            value["refresh_token"] = identity
        return json_reply(200, value)


def _covers(granted: frozenset[str], scope: str) -> bool:
    kind, name, actions = scope.split(":")
    for text in granted:
        parts = text.split(":")
        if parts[:2] == [kind, name] and set(actions.split(",")) <= set(parts[2].split(",")):
            return True
    return False
