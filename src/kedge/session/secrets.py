"""Secrets lent to a build: where each is, read only when a step asks.

Owns the `--secret` syntax and the limits. Does not know which steps use them; values never reach a message.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from kedge.model.errors import InvalidInput
from kedge.model.value import dataclass, field

LARGEST_SECRET = 500 * 1024  # bytes; BuildKit's limit (session/secrets: MaxSecretSize)


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret: in a file, in an environment variable of the client's, or at hand. Its repr never shows `data`."""

    id: str
    path: Path | None = None
    env: str = ""
    data: bytes | None = field(default=None, repr=False)


def parse_secret(text: str, environ: Mapping[str, str]) -> Secret:
    """The `--secret` that `text` spells: `id=…[,src=PATH|,env=NAME][,type=file|env]`; raises InvalidInput.

    Without `src` and `env` the id names an environment variable if one is set, else a file, as in Docker.
    """
    fields = split_fields(text, "--secret", {"id", "src", "source", "env", "type"})
    kind, id = fields.get("type", ""), fields.get("id", "")
    path, env = fields.get("src", fields.get("source", "")), fields.get("env", "")
    if kind not in ("", "file", "env"):
        raise InvalidInput(f"--secret: unknown type {kind[:40]!r}, expected file or env")
    if not id:
        raise InvalidInput("--secret: an id is needed", hint="Write --secret id=NAME,src=PATH or id=NAME,env=NAME.")
    if kind == "env" and path and not env:
        path, env = "", path
    if not path and not env:
        path, env = ("", id) if kind != "file" and id in environ else (id, "")
    return Secret(id, Path(path) if path and not env else None, env)


def check_secret(secret: Secret) -> None:
    """Raise InvalidInput for a secret whose file is not there: before a build, not in the middle of it."""
    try:
        if secret.path is not None:
            secret.path.stat()
    except OSError as error:
        raise InvalidInput(f"secret {secret.id}: cannot read {secret.path}: {error.strerror}") from None


def read_secret(secret: Secret, environ: Mapping[str, str]) -> bytes | None:
    """The secret's bytes, None when its variable is not set; raises InvalidInput for a file that cannot be taken."""
    if secret.data is not None:
        return secret.data
    if secret.path is None:
        value = environ.get(secret.env)
        return None if value is None else os.fsencode(value)
    try:
        fd = os.open(secret.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode) and not stat.S_ISFIFO(os.fstat(fd).st_mode):
                raise InvalidInput(f"secret {secret.id}: {secret.path} is no file")
            os.set_blocking(fd, True)  # `--secret id=x,src=<(command)` is a FIFO
            data = file.read(LARGEST_SECRET + 1)
    except OSError as error:
        raise InvalidInput(f"secret {secret.id}: cannot read {secret.path}: {error.strerror}") from None
    if len(data) > LARGEST_SECRET:
        raise InvalidInput(f"secret {secret.id}: {secret.path} has more than {LARGEST_SECRET // 1024} kB")
    return data


def split_fields(text: str, flag: str, known: set[str]) -> dict[str, str]:
    """`a=1,b=2` as a mapping, a quoted part (CSV) kept whole; raises InvalidInput for other keys than `known`."""
    import csv

    try:
        row = next(csv.reader([text], strict=True), [])
    except csv.Error:
        raise InvalidInput(f"{flag}: {text[:80]!r} is no list of KEY=VALUE") from None
    fields: dict[str, str] = {}
    for part in row:
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if not equals or key not in known:
            raise InvalidInput(f"{flag}: unexpected {part[:40]!r}, expected {', '.join(sorted(known))} with a value")
        fields[key] = value
    return fields
