"""SSH agents lent to a build: a filtered socket in front of the user's agent, or an agent started for given keys.

Owns the `--ssh` syntax, the filter and its threads. Does not know which steps use a socket. A step may list keys and
have data signed; it may not add, remove or lock keys, nor anything else the agent offers.
"""

import errno
import os
import shutil
import socket
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kedge.model.errors import InvalidInput, Unsupported
from kedge.model.value import dataclass

# draft-miller-ssh-agent: request numbers that only read, and the answer for those refused.
_LIST_KEYS, _SIGN, _FAILURE = 11, 13, 5
_LARGEST_MESSAGE = 256 * 1024


@dataclass(frozen=True, slots=True)
class SshSpec:
    """One `--ssh`: an agent's socket, or private key files."""

    id: str
    paths: tuple[Path, ...] = ()


def parse_ssh(text: str, environ: Mapping[str, str]) -> SshSpec:
    """The `--ssh` that `text` spells: `default`, `ID`, or `ID=SOCKET|KEY[,KEY…]`; raises InvalidInput."""
    id, equals, rest = text.partition("=")
    if not id:
        raise InvalidInput(f"--ssh: {text[:80]!r} has no id", hint="Write --ssh default or --ssh ID=PATH.")
    if equals and rest:
        return SshSpec(id, tuple(Path(part) for part in rest.split(",")))
    if not environ.get("SSH_AUTH_SOCK"):
        raise InvalidInput(f"--ssh {id}: no SSH agent runs here", hint="Start one, or name a key: --ssh ID=PATH.")
    return SshSpec(id, (Path(environ["SSH_AUTH_SOCK"]),))


@contextmanager
def lent(spec: SshSpec, uid: int, gid: int, mode: int) -> Iterator[Path]:
    """A socket of this owner and mode in front of the agent that `spec` names; gone when the context ends."""
    import tempfile

    with (
        tempfile.TemporaryDirectory(prefix="kedge-ssh-") as folder,
        _agent(spec, Path(folder)) as agent,
        _Front(Path(folder) / "agent.sock", agent, uid, gid, mode) as front,
    ):
        yield front.path


@contextmanager
def _agent(spec: SshSpec, folder: Path) -> Iterator[Path]:
    if check_agent(spec):
        yield spec.paths[0]
        return
    with _started(spec, folder / "own.sock") as own:
        yield own


def check_agent(spec: SshSpec) -> bool:
    """Whether `spec` names a socket, not keys; raises InvalidInput if neither is there, or both."""
    kinds = {path: _kind(spec, path) for path in spec.paths}
    for path, kind in kinds.items():
        if kind not in (stat.S_IFSOCK, stat.S_IFREG):
            raise InvalidInput(f"--ssh {spec.id}: {path} is neither a socket nor a key file")
    if stat.S_IFSOCK in kinds.values() and len(spec.paths) > 1:
        raise InvalidInput(f"--ssh {spec.id}: name either one socket or key files")
    return stat.S_IFSOCK in kinds.values()


def _kind(spec: SshSpec, path: Path) -> int:
    """What sort of file it is, 0 for none."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise InvalidInput(f"--ssh {spec.id}: cannot read {path}: {error.strerror}") from None


@contextmanager
def _started(spec: SshSpec, path: Path) -> Iterator[Path]:
    """An agent of our own that holds the given keys, as ssh-agent(1) from OpenSSH."""
    import subprocess

    if not shutil.which("ssh-agent") or not shutil.which("ssh-add"):
        raise Unsupported(f"--ssh {spec.id}: key files need ssh-agent and ssh-add", hint="Install openssh-client.")
    environ = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/")}
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environ,
    )
    try:
        for _ in range(200):
            if path.exists() or agent.poll() is not None:
                break
            threading.Event().wait(0.01)
        environ |= {"SSH_AUTH_SOCK": str(path), "SSH_ASKPASS_REQUIRE": "never"}
        for key in spec.paths:
            added = subprocess.run(
                ["ssh-add", "-q", "--", str(key)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environ,
                check=False,
            )
            if added.returncode:
                raise InvalidInput(
                    f"--ssh {spec.id}: {key} cannot be used as a key",
                    hint="It may have a passphrase: add it to an agent of your own with ssh-add.",
                )
        yield path
    finally:
        agent.terminate()
        agent.wait()


class _Front:
    """The socket a step sees. Each connection has a thread; all end with the context."""

    def __init__(self, path: Path, agent: Path, uid: int, gid: int, mode: int) -> None:
        self.path, self._agent = path, agent
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open: set[socket.socket] = {self._listener}
        self._guard = threading.Lock()
        self._listener.bind(str(path))
        os.chmod(path, mode)
        try:
            os.chown(path, uid, gid)
        except OSError as error:
            # A single mapped id cannot give files away, nor name others; the step then has that id too.
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
        self._listener.listen()

    def __enter__(self) -> "_Front":
        threading.Thread(target=self._accept, name="ssh", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._guard:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._guard:
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), name="ssh", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError), client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.connect(str(self._agent))
            while True:
                request = _receive(client)
                if request[:1] and request[0] in (_LIST_KEYS, _SIGN):
                    _send(agent, request)
                    _send(client, _receive(agent))
                else:
                    _send(client, bytes([_FAILURE]))
        with self._guard:
            self._open.discard(client)


def _receive(connection: socket.socket) -> bytes:
    (size,) = struct.unpack(">I", _exactly(connection, 4))
    if size > _LARGEST_MESSAGE:
        raise EOFError
    return _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(struct.pack(">I", len(message)) + message)
