"""The session of a client that is this process: its own files, environment and agents, in place.

Owns nothing but the choice by name. Does not know what a build does with it.
"""

import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kedge.model.credential import Credential, CredentialSource, anonymous
from kedge.model.errors import NotFound, Unsupported
from kedge.session.secrets import Secret, read_secret
from kedge.session.session import EVERYTHING, Progress, Wanted, untold

if TYPE_CHECKING:
    from kedge.session.ssh import SshSpec


def existing_directory(path: Path, what: str, hint: str = "") -> Path:
    """`path`, which `what` names in the NotFound that it raises if there is no directory, or none we may enter."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{what} does not exist", hint=hint) from None
    except OSError as error:
        raise NotFound(f"{what} cannot be opened: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise NotFound(f"{what} is not a directory", hint=hint)
    return path


class LocalSession:
    """A Session over this process. `directories` maps names to paths; `environ` is where secrets in variables are."""

    def __init__(
        self,
        directories: Mapping[str, Path] | None = None,
        secrets: Sequence[Secret] = (),
        ssh: Sequence["SshSpec"] = (),
        credentials: CredentialSource = anonymous,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._directories = dict(directories or {})
        self._secrets = {secret.id: secret for secret in secrets}
        self._ssh = {spec.id: spec for spec in ssh}
        self._credentials, self._environ = credentials, environ or {}

    def directory(self, name: str, wanted: Wanted = EVERYTHING, progress: Progress = untold) -> Path:
        """The directory lent under a name, whole; raises NotFound."""
        if wanted.only is not None:
            raise Unsupported("the names of files without the files are for clients of the service")
        path = self._directories.get(name)
        if path is None:
            raise NotFound(f"no directory is lent under the name {name!r}")
        return existing_directory(path, str(path))

    def lend(self, name: str, path: Path) -> None:
        """Lend one more directory (a remote context that was fetched); before the solving starts."""
        self._directories[name] = path

    def secret(self, id: str) -> bytes | None:
        """A secret's bytes, None when there is none of this id. Raises InvalidInput for one that cannot be read."""
        secret = self._secrets.get(id)
        return None if secret is None else read_secret(secret, self._environ)

    @contextmanager
    def ssh(self, id: str, uid: int, gid: int, mode: int) -> Iterator[Path | None]:
        """The path of a filtered agent socket while the context lasts, None when there is no agent of this id."""
        spec = self._ssh.get(id)
        if spec is None:
            yield None
            return
        from kedge.session.ssh import lent

        with lent(spec, uid, gid, mode) as path:
            yield path

    def upload(self, url: str) -> BinaryIO | None:
        """Nothing: what is here is named by its path."""
        return None

    def credential(self, registry: str) -> Credential | None:
        """What to send to a registry host, None for nothing."""
        return self._credentials(registry)
