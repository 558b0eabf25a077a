"""What a command may use: its streams, the environment, and the store once it asks for it.

Owns the process's standard streams and the global options. Does not know any command.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from kedge.cli.command import Options

if TYPE_CHECKING:
    from kedge.model.credential import Credential
    from kedge.session.credentials import DockerCredentials
    from kedge.storage.store import Store


@dataclass
class Console:
    """The outside of one command. `root` is the store's directory, None for the default."""

    stdin: BinaryIO
    stdout: TextIO
    stderr: TextIO
    environment: Mapping[str, str]
    root: Path | None = None
    config: Path | None = None
    _store: "Store | None" = field(default=None, repr=False)
    _credentials: "DockerCredentials | None" = field(default=None, repr=False)

    @classmethod
    def of_process(cls) -> "Console":
        for stream in (sys.stdout, sys.stderr):
            # A name in an image need not be text in the locale's encoding; showing it must not fail.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        return cls(sys.stdin.buffer, sys.stdout, sys.stderr, os.environ)

    def configure(self, options: Options) -> None:
        """Take over the global options that are given; called for what stands before the command and what behind."""
        self.root = Path(options.root).absolute() if options.root else self.root
        self.config = Path(options.config).absolute() if options.config else self.config

    def print(self, text: str = "", end: str = "\n") -> None:
        """Write a result to standard output."""
        self.stdout.write(text + end)

    def complain(self, line: str) -> None:
        """Write a message to standard error, after all that was printed so far."""
        self.stdout.flush()
        self.stderr.write(line + "\n")
        self.stderr.flush()

    def interrupted(self) -> None:
        """Say that the user stopped us; the line of the terminal may hold ^C."""
        self.complain("\nERROR: interrupted" if self.stderr.isatty() else "ERROR: interrupted")

    def enter_user_namespace(self) -> None:
        """As an ordinary user, go where Kedge may mount; as root, do nothing. Before any thread starts."""
        if os.geteuid() != 0:
            from kedge.kernel.identity import enter_user_namespace

            enter_user_namespace()

    def store(self) -> "Store":
        """The store, opened on first use."""
        if self._store is None:
            from kedge.storage.store import Store, default_root

            self._store = Store.open(self.root or default_root())
        return self._store

    def credential(self, registry: str) -> "Credential | None":
        """What Docker's configuration says for a registry; read on first use."""
        if self._credentials is None:
            from kedge.session.credentials import DockerCredentials

            self._credentials = DockerCredentials(environ=self.environment)
        return self._credentials(registry)

    def close(self) -> None:
        """Close what was opened; may be called twice."""
        if self._store is not None:
            self._store.__exit__(None, None, None)
            self._store = None
        self.stdout.flush()
