"""The credentials that clients send along: X-Registry-Auth and X-Registry-Config.

Owns their encoding (base64url of JSON, Docker's AuthConfig). Credentials live as long as the request. Does not know
registries.
"""

import base64
import binascii
from typing import Final

from kedge.daemon.engine.fields import Fields
from kedge.model.credential import Credential, CredentialSource, anonymous
from kedge.model.errors import InvalidInput, InvalidReference
from kedge.model.reference import DOCKER_HUB, parse_registry

_HUB_NAMES: Final = ("", "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io", DOCKER_HUB)


def from_auth(header: str) -> CredentialSource:
    """The source that gives X-Registry-Auth's one credential. It is for the registry that the request is about, whose
    name the client has chosen it by.
    """
    fields = _decoded(header, "X-Registry-Auth")
    credential = read_credential(fields)
    if not credential:
        return anonymous
    server = fields.text("serveraddress")
    host = _host(server) if server else ""
    return lambda registry: credential if host in ("", registry) else None


def from_config(header: str) -> CredentialSource:
    """The source over X-Registry-Config: a credential for each registry."""
    fields = _decoded(header, "X-Registry-Config")
    known = {_host(name): read_credential(fields.object(name)) for name in fields.raw}
    return lambda registry: known.get(registry) or None


def read_credential(fields: Fields) -> Credential:
    """Docker's AuthConfig."""
    username, password = fields.text("username"), fields.text("password")
    if packed := fields.text("auth"):
        try:
            username, _, password = base64.b64decode(packed).decode().partition(":")
        except (ValueError, binascii.Error):
            raise InvalidInput("a credential's auth is no base64") from None
    return Credential(username, password, fields.text("identitytoken"), fields.text("registrytoken"))


def _decoded(header: str, name: str) -> Fields:
    if not header:
        return Fields({})
    try:
        data = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        return Fields.parse(data)
    except (ValueError, binascii.Error, InvalidInput):
        raise InvalidInput(f"invalid {name} header") from None  # without its content


def _host(name: str) -> str:
    if name in _HUB_NAMES:
        return DOCKER_HUB
    host = name.partition("://")[2] if "://" in name else name
    try:
        return parse_registry(host.partition("/")[0])
    except InvalidReference:
        return host
