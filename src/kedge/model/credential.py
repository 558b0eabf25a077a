"""What proves to a registry who is asking.

Owns the value that `session` finds and `registry` sends. Does not know where it was kept, nor how it travels.
"""

from collections.abc import Callable
from typing import TypeAlias

from kedge.model.value import dataclass, field


@dataclass(frozen=True, slots=True)
class Credential:
    """A name with a password, or an identity token (OAuth2 refresh token), or a bearer token to send as it is.

    Its repr shows no secret, so that no log or traceback can.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.password or self.identity_token or self.registry_token)


CredentialSource: TypeAlias = Callable[
    [str], Credential | None
]  # registry host (`docker.io`, `host:port`) -> what to send


def anonymous(registry: str) -> None:
    """The CredentialSource of someone without any."""
