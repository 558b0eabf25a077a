"""Credentials as Docker keeps them: config.json, credential helpers and stores.

Owns the file's format and the helper protocol (docker/docker-credential-helpers). Does not know what a credential is
sent to.

A helper may be a way into a cloud account, and the registry's name may come from somebody else's Dockerfile
(CVE-2024-35192): a helper of `credHelpers` is asked only for the host it stands beside, the one of `credsStore` only
for hosts that were logged in to or that it lists itself.
"""

import base64
import binascii
import json
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kedge.model.credential import Credential
from kedge.model.errors import InvalidInput
from kedge.model.reference import DOCKER_HUB, parse_registry

_HUB_KEY: Final = "https://index.docker.io/v1/"  # the key that Docker has used for its Hub since ever
_HELPER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HELPER_TIMEOUT: Final = 60  # seconds
_FILE_LIMIT: Final = 16 << 20
_IDENTITY_USER: Final = "<token>"  # the user name beside which helpers keep identity tokens


class DockerCredentials:
    """A CredentialSource over `$DOCKER_CONFIG/config.json` (default ~/.docker). Safe for many threads; answers are
    kept.
    """

    def __init__(self, path: Path | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self.path = path or _default_path(self._environ)
        self._lock = threading.Lock()
        self._answers: dict[str, Credential | None] = {}
        self._listed: dict[str, frozenset[str]] = {}

    def __call__(self, registry: str) -> Credential | None:
        """The credential for a registry host; None when there is none.

        Raises InvalidInput for a damaged file or a helper that fails.
        """
        with self._lock:
            if registry not in self._answers:
                self._answers[registry] = self._find(registry)
            return self._answers[registry]

    def store(self, registry: str, credential: Credential) -> str:
        """Keep a credential (login), in the configured helper or in the file (0600, atomically). Returns where, for
        the user.
        """
        registry = parse_registry(registry)
        with self._lock:
            config = self._load()
            helper = _helper_for(config, registry)
            if helper:
                user = _IDENTITY_USER if credential.identity_token else credential.username
                secret = credential.identity_token or credential.password
                self._run(
                    helper, "store", json.dumps({"ServerURL": _key(registry), "Username": user, "Secret": secret})
                )
            auths = _table(config, "auths", self.path)
            for key in [key for key in auths if _host(key) == registry]:
                del auths[key]
            auths[_key(registry)] = {} if helper else _entry(credential)
            config["auths"] = auths
            self._write(config)
            self._answers.pop(registry, None)
            return f"the credential helper {helper}" if helper else str(self.path)

    def erase(self, registry: str) -> bool:
        """Forget a credential (logout); False when there was none."""
        registry = parse_registry(registry)
        with self._lock:
            config = self._load()
            auths = _table(config, "auths", self.path)
            keys = [key for key in auths if _host(key) == registry]
            helper = _helper_for(config, registry)
            if helper and (keys or _helper_beside(config, registry)):
                for key in {*keys, _key(registry)}:
                    self._run(helper, "erase", key, missing_is_fine=True)
            for key in keys:
                del auths[key]
            if keys:
                config["auths"] = auths
                self._write(config)
            self._answers.pop(registry, None)
            return bool(keys)

    # ---- finding -----------------------------------------------------------------------------------------------------

    def _find(self, registry: str) -> Credential | None:
        config = self._load()
        auths = _table(config, "auths", self.path)
        keys = [key for key in auths if _host(key) == registry]
        helper = _helper_beside(config, registry) or self._store_for(config, registry, bool(keys))
        if helper:
            found = self._get(helper, keys[0] if keys and not _helper_beside(config, registry) else _key(registry))
            if found:
                return found
        return next((found for key in keys if (found := self._from_entry(key, auths[key]))), None)

    def _store_for(self, config: dict[str, Any], registry: str, logged_in: bool) -> str:
        """The helper of `credsStore`, if it may be asked for this registry."""
        name = config.get("credsStore") or ""
        if not name or logged_in:
            return str(name)
        if name not in self._listed:
            text = self._run(name, "list", "", missing_is_fine=True)
            try:
                self._listed[name] = frozenset(_host(key) for key in json.loads(text or "{}"))
            except (ValueError, TypeError):
                self._listed[name] = frozenset()
        return name if registry in self._listed[name] else ""

    def _from_entry(self, key: str, entry: Any) -> Credential | None:
        try:
            name, _, password = base64.b64decode(entry.get("auth") or "", validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, AttributeError, TypeError):
            raise InvalidInput(f"{self.path} has a damaged entry for {key[:200]}", hint="Log in again.") from None
        found = Credential(
            name or str(entry.get("username") or ""),
            password.rstrip("\0") or str(entry.get("password") or ""),
            str(entry.get("identitytoken") or ""),
            str(entry.get("registrytoken") or ""),
        )
        return found or None

    def _get(self, helper: str, key: str) -> Credential | None:
        text = self._run(helper, "get", key, missing_is_fine=True)
        if not text:
            return None
        try:
            value = json.loads(text)
            user, secret = str(value["Username"]), str(value["Secret"])
        except (ValueError, TypeError, KeyError):
            raise InvalidInput(f"the credential helper {helper} gave no usable answer") from None
        return Credential(identity_token=secret) if user == _IDENTITY_USER else Credential(user, secret)

    def _run(self, helper: str, action: str, text: str, *, missing_is_fine: bool = False) -> str:
        """What a helper prints. Its output may hold secrets, so that no error text repeats it."""
        import shutil
        import subprocess

        if not isinstance(helper, str) or not _HELPER_NAME.fullmatch(helper):
            raise InvalidInput(f"{self.path} names a credential helper that is no name")
        program = f"docker-credential-{helper}"
        if not shutil.which(program, path=self._environ.get("PATH")):
            raise InvalidInput(
                f"the credential helper {program} is not installed", hint=f"Install it, or take it out of {self.path}."
            )
        try:
            done = subprocess.run(
                [program, action], input=text.encode(), capture_output=True, timeout=_HELPER_TIMEOUT, check=False,
                env=dict(self._environ),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            raise InvalidInput(f"the credential helper {program} cannot be run or does not answer") from None
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
        if missing_is_fine and (action == "list" or b"not found" in done.stdout + done.stderr):
            return ""
        raise InvalidInput(f"the credential helper {program} failed to {action} (code {done.returncode})")

    # ---- the file ----------------------------------------------------------------------------------------------------

    def _load(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                data = file.read(_FILE_LIMIT)
            value = json.loads(data or b"{}")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise InvalidInput(f"cannot read {self.path}: {(error.strerror or '').lower()}") from None
        except (ValueError, RecursionError):
            raise InvalidInput(f"{self.path} is no valid JSON") from None
        if not isinstance(value, dict):
            raise InvalidInput(f"{self.path} is no JSON object")
        return value

    def _write(self, config: dict[str, Any]) -> None:
        import tempfile

        target = Path(os.path.realpath(self.path))  # people keep it elsewhere and link to it
        name = ""
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(prefix=".config.json.", dir=target.parent)  # made with mode 0600
            with os.fdopen(fd, "w") as file:
                json.dump(config, file, indent="\t")
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except OSError as error:
            if name:
                Path(name).unlink(missing_ok=True)
            raise InvalidInput(f"cannot write {self.path}: {(error.strerror or '').lower()}") from None


def _default_path(environ: Mapping[str, str]) -> Path:
    named = environ.get("DOCKER_CONFIG")
    home = environ.get("HOME")
    return (Path(named) if named else (Path(home) if home else Path.home()) / ".docker") / "config.json"


def _table(config: dict[str, Any], name: str, path: Path | None = None) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{path or 'config.json'}: {name} is no object")
    return dict(value)


def _key(registry: str) -> str:
    """The key under which Docker keeps a registry's credential."""
    return _HUB_KEY if registry == DOCKER_HUB else registry


def _host(key: str) -> str:
    """The registry that a key of `auths` stands for: `https://host/v1/` and `host` are the same."""
    host = key.partition("://")[2] or key
    host = host.partition("/")[0].lower()
    return DOCKER_HUB if host in ("index.docker.io", "registry-1.docker.io") else host


def _helper_beside(config: dict[str, Any], registry: str) -> str:
    """The helper that stands beside this very host in `credHelpers`."""
    return next((str(name) for key, name in _table(config, "credHelpers").items() if _host(key) == registry), "")


def _helper_for(config: dict[str, Any], registry: str) -> str:
    return _helper_beside(config, registry) or str(config.get("credsStore") or "")


def _entry(credential: Credential) -> dict[str, str]:
    text = base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()
    if credential.identity_token:
        text = base64.b64encode(f"{credential.username}:".encode()).decode()
        return {"auth": text, "identitytoken": credential.identity_token}
    return {"auth": text}
