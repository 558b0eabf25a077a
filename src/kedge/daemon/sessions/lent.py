"""The Session that a build sees, when its client is at the other end of a connection.

Owns the questions to the client's services and what they cost: directories are kept in the store by the client's shared
key, so that the next build moves only what changed. Knows nothing of graphs.
"""

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import quote_plus, urlsplit

import grpc

from kedge.daemon.sessions.receive import receive
from kedge.daemon.sessions.registry import ClientSession
from kedge.daemon.sessions.tunnel import socket_folder
from kedge.daemon.wire import auth, filesync, secrets, sshforward, upload
from kedge.model.credential import Credential
from kedge.model.digest import digest_of
from kedge.model.errors import Cancelled, InvalidInput, KedgeError, NotFound, SourceError
from kedge.model.patterns import Patterns
from kedge.model.reference import DOCKER_HUB
from kedge.session.session import EVERYTHING, Progress, Wanted, untold

if TYPE_CHECKING:
    from kedge.daemon.wire.channel import Call
    from kedge.storage.store import Store

_FILE_SYNC = "moby.filesync.v1.FileSync"
_HUB_SERVER = "registry-1.docker.io"  # the name that clients look Docker Hub's credential up by
LARGEST_SECRET = 500 * 1024  # bytes; as for local secrets
_GONE = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


class LentSession:
    """A Session over the services of one client. Close it when the build ends: directories are free then.

    `find` gives the client's other sessions by id.
    """

    def __init__(
        self,
        session: ClientSession | None,
        store: "Store",
        find: Callable[[str], ClientSession],
        session_of: Mapping[str, str] | None = None,
    ) -> None:
        self._session, self._store, self._find = session, store, find
        self.session_of = dict(session_of or {})  # name of a directory -> id of the session that lends it
        self._directories: dict[tuple[str, Wanted], Path] = {}
        self._held = ExitStack()
        self._guard = threading.Lock()

    def close(self) -> None:
        """Free the directories."""
        self._held.close()

    @property
    def session(self) -> ClientSession:
        """The client's main session; raises NotFound when it has none."""
        if self._session is None:
            raise NotFound("this build has no session: nothing of the client's can be used")
        return self._session

    def _lender(self, name: str, wanted: Wanted) -> ClientSession:
        id = self.session_of.get(name) or wanted.session.rpartition(":")[2]
        if not id or (self._session is not None and id == self._session.id):
            return self.session
        try:
            return self._find(id)
        except NotFound:
            return self.session

    # ---- directories -------------------------------------------------------------------------------------------------

    def directory(self, name: str, wanted: Wanted = EVERYTHING, progress: Progress = untold) -> Path:
        """The client's directory of that name, as far as it is wanted, received into one of ours."""
        with self._guard:  # one transfer at a time, as the client's disk would have it anyway
            known = self._directories.get((name, wanted))
            if known is None:
                known = self._directories[name, wanted] = self._received(name, wanted, progress)
            return known

    def _received(self, name: str, wanted: Wanted, progress: Progress) -> Path:
        lender = self._lender(name, wanted)
        # What one user lends is never the base of another's transfer: whoever can tell a file's size and time could
        # otherwise have its content.
        whose = (lender.peer.realm, lender.shared_key, name, wanted.hint)
        key = digest_of(("lent", *whose) if wanted.only is None else ("lent", *whose, "names"))
        kept = self._store.cache_mounts.use(f"lent {key}", "private", lent=True)  # out of reach of any step's mounts
        folder = self._held.enter_context(kept)
        metadata = _metadata({
            "dir-name": [name],
            "include-patterns": list(wanted.include),
            "exclude-patterns": list(wanted.exclude),
            "followpaths": list(wanted.follow),
        })  # fmt: skip
        only = None if wanted.only is None else Patterns(wanted.only)
        try:
            call = lender.calls(filesync.services["FileSync"]).open("DiffCopy", metadata=metadata)
            try:
                receive(call, folder, progress, wanted.anew, only)
            finally:
                call.cancel()
        except grpc.RpcError as error:
            raise _translated(error, f"the directory {name!r}") from None
        return folder

    # ---- secrets, agents, credentials --------------------------------------------------------------------------------

    def secret(self, id: str) -> bytes | None:
        """A secret's bytes, None when the client has none of this id."""
        if self._session is None:
            return None
        try:
            answer = self.session.calls(secrets.services["Secrets"]).unary("GetSecret", secrets.GetSecretRequest(ID=id))
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED):
                return None
            raise _translated(error, f"the secret {id}") from None
        if len(answer.data) > LARGEST_SECRET:
            raise InvalidInput(f"secret {id}: it has more than {LARGEST_SECRET // 1024} kB")
        data: bytes = answer.data
        return data

    @contextmanager
    def ssh(self, id: str, uid: int, gid: int, mode: int) -> Iterator[Path | None]:
        """The path of a filtered agent socket while the context lasts, None when the client has no agent of this id."""
        if self._session is None or not self._has_agent(id):
            yield None
            return
        from kedge.session.ssh import SshSpec, lent

        with _AgentBridge(self.session, id) as agent, lent(SshSpec(id, (agent.path,)), uid, gid, mode) as path:
            yield path

    def _has_agent(self, id: str) -> bool:
        try:
            self.session.calls(sshforward.services["SSH"]).unary("CheckAgent", sshforward.CheckAgentRequest(ID=id))
        except grpc.RpcError as error:
            if error.code() in _GONE:
                raise _translated(error, "its SSH agent") from None
            return False
        return True

    def credential(self, registry: str) -> Credential | None:
        """What the client has for a registry host."""
        if self._session is None or self._session.closed.is_set():
            return None
        host = _HUB_SERVER if registry == DOCKER_HUB else registry
        try:
            answer = self.session.calls(auth.services["Auth"]).unary("Credentials", auth.CredentialsRequest(Host=host))
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED):
                return None
            raise _translated(error, f"a credential for {registry}") from None
        if not answer.Secret:
            return None
        if answer.Username in ("", "<token>"):
            return Credential(identity_token=answer.Secret)
        return Credential(answer.Username, answer.Secret)

    def lender(self, id: str) -> ClientSession:
        """The client's session of that id, its main one for an empty id."""
        return self._lender("", Wanted(session=id))

    # ---- streams -----------------------------------------------------------------------------------------------------

    def upload(self, url: str) -> BinaryIO:
        """The bytes that the client offers under a URL of its own (`http://buildkit-session/ID`). Raises NotFound for a
        client without a session.
        """
        parts = urlsplit(url)
        metadata = (("urlpath", parts.path), ("urlhost", parts.netloc))
        try:
            call = self.session.calls(upload.services["Upload"]).open("Pull", metadata=metadata)
        except grpc.RpcError as error:
            raise _translated(error, "its standard input") from None
        return cast(BinaryIO, _Incoming(call))


class _Incoming:
    """A readable stream over byte messages."""

    def __init__(self, call: "Call") -> None:
        self._call, self._rest = call, b""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        pieces, have = [self._rest], len(self._rest)
        try:
            while size < 0 or have < size:
                message = next(self._call, None)
                if message is None:
                    self._call.end()
                    break
                pieces.append(message.data)
                have += len(message.data)
        except grpc.RpcError as error:
            raise _translated(error, "its standard input") from None
        data = b"".join(pieces)
        self._rest = data[size:] if size >= 0 else b""
        return data[:size] if size >= 0 else data

    def close(self) -> None:
        """Want no more of it."""
        self._call.cancel()


class _AgentBridge:
    """A private socket whose connections end at the client's agent."""

    def __init__(self, session: ClientSession, id: str) -> None:
        self._calls, self._id = session.calls(sshforward.services["SSH"]), id
        self._folder = tempfile.TemporaryDirectory(prefix="kedge-agent-", dir=socket_folder())
        self.path = Path(self._folder.name) / "agent.sock"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        os.chmod(self.path, 0o600)
        self._listener.listen()

    def __enter__(self) -> "_AgentBridge":
        threading.Thread(target=self._accept, name="agent", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(connection,), name="agent", daemon=True).start()

    def _carry(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, grpc.RpcError):
            call = self._calls.open("ForwardAgent", metadata=(("buildkit.ssh.id", self._id),))
            threading.Thread(target=_send_all, args=(connection, call), name="agent", daemon=True).start()
            try:
                for message in call:
                    connection.sendall(message.data)
            finally:
                call.cancel()  # who still reads from the other end need send no more


def _send_all(connection: socket.socket, call: "Call") -> None:
    with suppress(OSError):
        while data := connection.recv(1 << 16):
            call.send(sshforward.BytesMessage(data=data))
    call.end()


def _metadata(values: Mapping[str, list[str]]) -> tuple[tuple[str, str], ...]:
    """Lists as gRPC metadata: what is not ASCII is percent-encoded, and a second key says so."""
    found: list[tuple[str, str]] = []
    for key, texts in values.items():
        if encoded := not all(text.isascii() for text in texts):
            texts = [quote_plus(text, errors="surrogateescape") for text in texts]
            found.append((f"{key}-encoded", "1"))
        if not encoded and any(not text.isprintable() for text in texts):
            raise InvalidInput(f"{key} has a control character")
        found += [(key, text) for text in texts]
    return tuple(found)


def _translated(error: grpc.RpcError, what: str) -> KedgeError:
    if error.code() in _GONE:
        return Cancelled("the client went away")
    details = (error.details() or "")[:1000]
    if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED) or "no access allowed" in details:
        return NotFound(f"the client does not lend {what}: {details}")
    return SourceError(f"the client cannot lend {what}: {details}")
