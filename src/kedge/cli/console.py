"""What a command may use: its streams, the environment, and the store once it asks for it.

Owns the process's standard streams and the global options. Does not know any command.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from kedge.cli.command import Options
from kedge.model.errors import InvalidInput
from kedge.model.event import visible
from kedge.model.value import dataclass, field

if TYPE_CHECKING:
    from kedge.model.credential import Credential
    from kedge.model.image import Descriptor
    from kedge.model.settings import Settings
    from kedge.registry.client import Registry
    from kedge.session.credentials import DockerCredentials
    from kedge.storage.blobs import BlobWriter
    from kedge.storage.store import Store
    from kedge.storage.unpacking import FetchProgress


@dataclass
class Console:
    """The outside of one command. `root` is the store's directory, None for the default."""

    stdin: BinaryIO
    stdout: TextIO
    stderr: TextIO
    environment: Mapping[str, str]
    root: Path | None = None
    debug: bool = False  # show a traceback with every error
    failure_code: int = 1  # what the process ends with when the command raises a KedgeError
    _store: "Store | None" = field(default=None, repr=False)
    _registry: "Registry | None" = field(default=None, repr=False)
    _credentials: "DockerCredentials | None" = field(default=None, repr=False)

    @classmethod
    def of_process(cls) -> "Console":
        _open_missing_streams()
        for stream in (sys.stdout, sys.stderr):
            # A name in an image need not be text in the locale's encoding; showing it must not fail.
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return cls(sys.stdin.buffer, sys.stdout, sys.stderr, os.environ)

    def configure(self, options: Options) -> None:
        """Take over the global options that are given; called for what stands before the command and what behind."""
        self.root = Path(options.root).absolute() if options.root else self.root
        self.debug = self.debug or bool(options.debug)
        if options.config:
            # The one place that every part of a process looks at, this one's helpers included.
            os.environ["KEDGE_CONFIG"] = str(Path(options.config).absolute())

    def print(self, text: str = "", end: str = "\n") -> None:
        """Write a result to standard output. Raises InvalidInput when that cannot be."""
        with self._printing():
            self.stdout.write(text + end)

    def flush(self) -> None:
        """Write what is left of the results. Raises InvalidInput when that cannot be."""
        with self._printing():
            self.stdout.flush()

    @contextmanager
    def _printing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            self.drop_output()
            raise InvalidInput(f"cannot write to standard output: {error.strerror}") from None

    def drop_output(self) -> None:
        """Throw away what is still to be written: Python would try, and complain once more, at exit."""
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), self.stdout.fileno())

    def complain(self, line: str) -> None:
        """Write a message to standard error, after all that was printed so far."""
        try:
            self.stdout.flush()
        except OSError:  # its reader is gone, or its disk full: what failed of it is told, or nobody waits for it
            self.drop_output()
        self.stderr.write(visible(line) + "\n")
        self.stderr.flush()

    def interrupted(self) -> None:
        """Say that the user stopped us; the line of the terminal may hold ^C."""
        self.complain("\nERROR: interrupted" if self.stderr.isatty() else "ERROR: interrupted")

    def enter_user_namespace(self) -> None:
        """Go where Kedge may mount, unless it may already. Before any thread starts."""
        from kedge.kernel.identity import enter_user_namespace

        enter_user_namespace()

    def store(self) -> "Store":
        """The store, opened on first use. Layers that are not here yet come from where their image was found."""
        if self._store is None:
            from kedge.storage.store import Store

            self._store = Store.open(self.root, max_size=self.settings().store.max_size)
            self._store.fetch = self._fetch
        return self._store

    def settings(self) -> "Settings":
        """What the configuration files say."""
        from kedge.session.settings import load_settings

        return load_settings(self.environment)

    def registry(self) -> "Registry":
        """All registries, with the user's credentials; made on first use."""
        if self._registry is None:
            from kedge.registry.client import Registry

            self._registry = Registry(self.settings(), self.credential)
        return self._registry

    def _fetch(self, origin: str, descriptor: "Descriptor", writer: "BlobWriter", progress: "FetchProgress") -> None:
        from kedge.sources.fetch import store_fetch

        store_fetch(self.registry())(origin, descriptor, writer, progress)

    def credential(self, registry: str) -> "Credential | None":
        """What Docker's configuration says for a registry; read on first use."""
        if self._credentials is None:
            from kedge.session.credentials import DockerCredentials

            self._credentials = DockerCredentials(environ=self.environment)
        return self._credentials(registry)

    def close(self) -> None:
        """Close what was opened; may be called twice."""
        for part in (self._store, self._registry):
            if part is not None:
                part.close()
        self._store = self._registry = None
        self.stdout.flush()


def _open_missing_streams() -> None:
    """Put /dev/null where we were started without a stream: another file would get its number, and what is written."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR)  # the least number that is free
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
