"""The configuration file as values.

Owns the keys, their types and defaults (docs/reference/registries.md). Does not read files: `session.settings` does.
"""

from collections.abc import Mapping
from types import MappingProxyType

from kedge.model.value import dataclass, field


@dataclass(frozen=True, slots=True)
class RegistryHost:
    """How one registry is reached: `[registry."host"]`.

    `mirrors` are tried in order before the registry itself, each `host[:port][/path]`, with an optional `http://` or
    `https://`. `http` None means: plain http only for loopback names, and only where https does not answer.
    """

    mirrors: tuple[str, ...] = ()
    http: bool | None = None
    insecure: bool = False  # certificates are not checked
    ca: tuple[str, ...] = ()  # PEM files or directories of them, in addition to the system's
    keypair: tuple[tuple[str, str], ...] = ()  # (key file, certificate file) shown to the server
    max_connections: int | None = None
    token_servers: tuple[str, ...] = ()  # hosts outside the registry's own site that may be told its credentials


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How to behave towards all registries. Seconds; `timeout` bounds each wait for bytes, not a transfer."""

    max_connections: int = 6
    attempts: int = 6
    connect_timeout: float = 15.0
    timeout: float = 60.0
    backoff: float = 0.5  # first pause before another attempt; doubles, with full jitter
    longest_pause: float = 30.0


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`[store]`: `max_size` in bytes is a hard cap, 0 for none."""

    max_size: int = 0


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """`[sandbox]`: `process_sandbox` False lets steps see the surrounding container's processes (docs/security.md)."""

    process_sandbox: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the configuration files say."""

    store: StoreSettings = StoreSettings()
    network: NetworkSettings = NetworkSettings()
    registries: Mapping[str, RegistryHost] = field(default_factory=lambda: MappingProxyType({}))
    sandbox: SandboxSettings = SandboxSettings()

    def registry(self, host: str) -> RegistryHost:
        """The settings of a registry; the defaults for one the files do not name."""
        return self.registries.get(host, RegistryHost())
