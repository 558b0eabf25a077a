"""Credentials as Docker keeps them: config.json, credential helpers and stores.

Owns the file's format and the helper protocol (docker/docker-credential-helpers). Does not know what a credential is sent to. Helpers
are started only for registries the user configured, never because a server named a host (CVE-2024-35192).
"""

from collections.abc import Mapping
from pathlib import Path

from kedge.model.credential import Credential


class DockerCredentials:
    """A CredentialSource over `$DOCKER_CONFIG/config.json` (default ~/.docker). Answers are kept for the object's life."""

    def __init__(self, path: Path | None = None, environ: Mapping[str, str] | None = None) -> None: ...
    def __call__(self, registry: str) -> Credential | None:
        """The credential for a registry host; None when there is none. Raises InvalidInput for a damaged file or failing helper."""
        raise NotImplementedError

    def store(self, registry: str, credential: Credential) -> str:
        """Keep a credential (login), in the configured helper or in the file (0600, atomically). Returns where, for the user."""
        raise NotImplementedError

    def erase(self, registry: str) -> bool:
        """Forget a credential (logout); False when there was none."""
        raise NotImplementedError
