"""Reading the configuration files: /etc/kedge/config.toml, then the user's, or the one that KEDGE_CONFIG names.

Owns where they are, how one overrides the other, and the errors about them. What the keys mean is `model.settings`.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from kedge.model.errors import InvalidInput, InvalidReference
from kedge.model.reference import parse_registry
from kedge.model.settings import RegistryHost, SandboxSettings, Settings
from kedge.model.suggest import did_you_mean
from kedge.model.value import fields, replace

SYSTEM_FILE: Final = Path("/etc/kedge/config.toml")
_PROCESS_SANDBOX: Final = "KEDGE_PROCESS_SANDBOX"
_WORDS: Final = {"1": True, "true": True, "0": False, "false": False}
_SIZE: Final = r"(?i)([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(i?)b?"

Read = Callable[[Any], Any]  # a TOML value into a field's; raises ValueError that says what was expected


def config_files(environ: Mapping[str, str] | None = None) -> list[Path]:
    """The files that are read, in order; later ones override."""
    environ = os.environ if environ is None else environ
    if named := environ.get("KEDGE_CONFIG"):
        return [Path(named)]
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    return [SYSTEM_FILE, *([Path(home) / "kedge" / "config.toml"] if home else [])]


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """What the configuration files say; defaults for what they do not. Raises InvalidInput naming file and key."""
    environ = os.environ if environ is None else environ
    settings = Settings()
    for path in config_files(environ):
        text = _text(path, must_exist=bool(environ.get("KEDGE_CONFIG")))
        if text is not None:
            settings = parse_settings(text, str(path), settings)
    if (wished := environ.get(_PROCESS_SANDBOX, "").lower()) != "":
        if wished not in _WORDS:
            raise InvalidInput(f"{_PROCESS_SANDBOX} must be true or false, not {wished[:60]!r}")
        settings = replace(settings, sandbox=SandboxSettings(process_sandbox=_WORDS[wished]))
    return settings


def parse_settings(text: str, name: str, base: Settings | None = None) -> Settings:
    """The settings in a TOML document, on top of `base`; `name` is for messages. Raises InvalidInput."""
    import tomllib

    base = base or Settings()
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{name} is no valid TOML: {error}") from None
    unknown = value.keys() - {"store", "network", "sandbox", "registry"}
    if unknown:
        hint = "There are [store], [network], [sandbox] and [registry]."
        raise InvalidInput(f"{name}: unknown table [{min(unknown)}]", hint=hint)
    registries = dict(base.registries)
    for host, entry in _table(value.get("registry", {}), name, "registry").items():
        try:
            key = parse_registry(host)
        except InvalidReference as error:
            raise InvalidInput(f"{name}: {error.message}", hint=error.hint) from None
        registries[key] = _fill(registries.get(key, RegistryHost()), entry, name, f'registry."{host}"', _REGISTRY)
    return Settings(
        _fill(base.store, value.get("store", {}), name, "store", _STORE),
        _fill(base.network, value.get("network", {}), name, "network", _NETWORK),
        MappingProxyType(registries),
        _fill(base.sandbox, value.get("sandbox", {}), name, "sandbox", _SANDBOX),
    )


def _text(path: Path, must_exist: bool) -> str | None:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            raise InvalidInput(f"the config file {path}, named by --config or KEDGE_CONFIG, does not exist") from None
        return None
    except PermissionError:
        if not must_exist and path == SYSTEM_FILE:
            return None
        raise InvalidInput(f"cannot read {path}: permission denied") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no UTF-8'}") from None


def _table(value: Any, name: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{name}: [{where}] is no table")
    return value


def _known(key: str, readers: Mapping[str, Read]) -> str:
    return did_you_mean(key, readers) or f"Known: {', '.join(readers)}."


def _fill(base: Any, value: Any, name: str, where: str, readers: Mapping[str, Read]) -> Any:
    """`base` with the fields that a table sets."""
    changed = {field.name: getattr(base, field.name) for field in fields(base)}
    for key, item in _table(value, name, where).items():
        reader = readers.get(key)
        if reader is None:
            raise InvalidInput(f"{name}: unknown key {key!r} in [{where}]", hint=_known(key, readers))
        try:
            changed[key.replace("-", "_")] = reader(item)
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"{name}: {key} in [{where}] must be {error}") from None
    return type(base)(**changed)


# ---- values ----------------------------------------------------------------------------------------------------------


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError("a list of texts")
    return tuple(value)


def _paths(value: Any) -> tuple[str, ...]:
    return tuple(os.path.expanduser(item) for item in _texts(value))


def _keypairs(value: Any) -> tuple[tuple[str, str], ...]:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, dict) and entry.keys() == {"key", "cert"} for entry in entries):
        raise ValueError('tables of a key file and a certificate file: { key = "…", cert = "…" }')
    return tuple((os.path.expanduser(str(entry["key"])), os.path.expanduser(str(entry["cert"]))) for entry in entries)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
        raise ValueError("a whole number from 1 to 1000")
    return value


def _seconds(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 86400:
        raise ValueError("a number of seconds")
    return float(value)


def _size(value: Any) -> int:
    """Bytes: a number, or text such as `20GB` (powers of 1000) and `20GiB` or `20g` (powers of 1024)."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(_SIZE, value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a size, such as "20GB" or "512MiB"')
    decimal = value.strip()[-1] in "bB" and not match[3]
    return int(float(match[1]) * (1000 if decimal else 1024) ** (" kmgtp".index(match[2].lower() or " ")))


_STORE: Final[Mapping[str, Read]] = {"max-size": _size}
_NETWORK: Final[Mapping[str, Read]] = {
    "max-connections": _count,
    "attempts": _count,
    "connect-timeout": _seconds,
    "timeout": _seconds,
    "backoff": _seconds,
    "longest-pause": _seconds,
}
_SANDBOX: Final[Mapping[str, Read]] = {"process-sandbox": _flag}
_REGISTRY: Final[Mapping[str, Read]] = {
    "mirrors": _texts,
    "http": _flag,
    "insecure": _flag,
    "ca": _paths,
    "keypair": _keypairs,
    "max-connections": _count,
    "token-servers": _texts,
}
