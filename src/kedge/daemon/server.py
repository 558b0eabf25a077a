"""The service's listeners and their life: sockets, certificates, who is there, start and stop.

Owns everything between the network and the methods of a service. Each connection on a Unix socket is asked for its
peer's credentials (SO_PEERCRED) and then carried to gRPC's own, private socket from an address that says who it is:
that is how a method knows its caller. TCP is served with certificates of both sides only. Does not know any service.
"""

import os
import re
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc

from kedge.daemon.sessions.registry import Peer
from kedge.daemon.sessions.tunnel import socket_folder
from kedge.model.errors import Conflict, InvalidInput, Unsupported
from kedge.model.value import dataclass

_THREADS: Final = 1024  # a build holds up to four: itself, its session, its listener, its gateway
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 128 << 20),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 4 << 20),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)
_PEER: Final = re.compile(r"unix:.*/peer-(\d+)-(\d+)-\d+$")
_PIECE: Final = 1 << 18
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of the server's certificate and key, and of the authority that signs its clients'."""

    certificate: Path
    key: Path
    ca: Path


class Server:
    """A gRPC server for some services. Use: `add`, then `listen` for each address, then `start`, then `stop`."""

    def __init__(self, log: Log, tls: Tls | None = None) -> None:
        self._log, self._tls = log, tls
        self._folder = Path(tempfile.mkdtemp(prefix="kedge-serve-", dir=socket_folder()))
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="serve")
        self._grpc = grpc.server(self._pool, options=_OPTIONS)
        self._inner = self._folder / "grpc.sock"
        self._grpc.add_insecure_port(f"unix:{self._inner}")
        self._listeners: list[socket.socket] = []
        self._paths: list[Path] = []
        self._serial = 0
        self._halves: set[Path] = set()  # connections of which one direction has ended
        self._guard = threading.Lock()

    def add(self, *handlers: Any) -> None:
        """Serve these (`wire.calls.handler`)."""
        self._grpc.add_generic_rpc_handlers(handlers)

    def listen(self, address: str, group: str = "") -> None:
        """Serve at `unix://PATH`, `tcp://HOST:PORT` (with certificates), or `fd://` (systemd). Raises KedgeError."""
        scheme, separator, rest = address.partition("://")
        if not separator:
            raise InvalidInput(f"invalid address {address[:100]!r}: expected unix://PATH or tcp://HOST:PORT")
        if scheme == "unix":
            self._listen_unix(Path(rest), group)
        elif scheme == "tcp":
            self._listen_tcp(rest)
        elif scheme == "fd":
            self._listen_inherited()
        else:
            raise Unsupported(f"addresses of the kind {scheme[:20]}:// are not supported")

    def start(self) -> None:
        """Begin to answer."""
        self._grpc.start()
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), name="accept", daemon=True).start()

    def stop(self, grace: float) -> None:
        """Take no more connections; let calls end for `grace` seconds, then break them off."""
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._grpc.stop(grace).wait(grace + 5)
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    # ---- listeners ---------------------------------------------------------------------------------------------------

    def _listen_unix(self, path: Path, group: str) -> None:
        path = path.absolute()
        path.parent.mkdir(0o755, parents=True, exist_ok=True)
        _require_unused(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            old = os.umask(0o117)
            try:
                listener.bind(str(path))
            finally:
                os.umask(old)
            os.chmod(path, 0o660)
            if group:
                os.chown(path, -1, _group_id(group))
        except OSError as error:
            listener.close()
            raise InvalidInput(f"cannot listen at {path}: {error.strerror or error}") from None
        listener.listen(128)
        self._listeners.append(listener)
        self._paths.append(path)

    def _listen_inherited(self) -> None:
        """Sockets that systemd opened: sd_listen_fds(3)."""
        if os.environ.get("LISTEN_PID") != str(os.getpid()):
            raise InvalidInput("fd:// needs sockets passed by systemd (LISTEN_FDS)")
        for number in range(int(os.environ.get("LISTEN_FDS", "0"))):
            listener = socket.socket(fileno=3 + number)
            os.set_inheritable(listener.fileno(), False)
            if listener.family != socket.AF_UNIX:
                raise Unsupported("fd:// takes Unix sockets only")
            self._listeners.append(listener)

    def _listen_tcp(self, address: str) -> None:
        tls = self._tls
        if tls is None:
            raise InvalidInput(
                f"tcp://{address} would let anybody build here",
                hint="Give certificates: --tlscert, --tlskey and --tlscacert, whose clients are let in",
            )
        try:
            pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
            credentials = grpc.ssl_server_credentials([pair], tls.ca.read_bytes(), require_client_auth=True)
            if not self._grpc.add_secure_port(address, credentials):
                raise InvalidInput(f"cannot listen at tcp://{address}")
        except OSError as error:
            raise InvalidInput(f"cannot read {error.filename}: {error.strerror}") from None
        except RuntimeError:
            raise InvalidInput(f"cannot listen at tcp://{address}") from None

    # ---- connections -------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            peer = peer_of_socket(connection)
            if peer.uid is None:  # one whom the kernel does not know is nobody, and above all not root
                connection.close()
                continue
            self._log(f"connection from {peer}")
            self.carry(connection, peer)

    def carry(self, connection: socket.socket, peer: Peer) -> None:
        """Let a connected socket, whose bytes are HTTP/2 from now on, talk to the services. Returns at once."""
        with self._guard:
            self._serial += 1
            address = self._folder / f"peer-{peer.uid or 0}-{peer.pid or 0}-{self._serial}"
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.bind(str(address))
            inner.connect(str(self._inner))
        except OSError:
            connection.close()
            inner.close()
            address.unlink(missing_ok=True)
            return
        for source, sink in ((connection, inner), (inner, connection)):
            threading.Thread(target=self._pump, args=(source, sink, address), name="carry", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, address: Path) -> None:
        buffer = memoryview(bytearray(_PIECE))
        with suppress(OSError):
            while size := source.recv_into(buffer):
                sink.sendall(buffer[:size])
        for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with suppress(OSError):
                end.shutdown(how)
        with self._guard:  # whoever comes second closes both
            if address in self._halves:
                self._halves.discard(address)
                source.close()
                sink.close()
                address.unlink(missing_ok=True)
            else:
                self._halves.add(address)


def peer_of_socket(connection: socket.socket) -> Peer:
    """Who connected to a Unix socket, as the kernel says."""
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return Peer()
    pid, uid, _ = struct.unpack("3i", data)
    return Peer(uid, pid)


def peer_of(context: grpc.ServicerContext) -> Peer:
    """Who makes a call: the user behind a Unix socket, or the name in a certificate."""
    if found := _PEER.match(context.peer()):
        return Peer(int(found[1]), int(found[2]))
    names = context.auth_context().get("x509_common_name") or [b""]
    return Peer(name=names[0].decode(errors="replace"))


def _require_unused(path: Path) -> None:
    """Remove the socket of one who is dead; raises Conflict for one who lives."""
    if not path.is_socket():
        if path.exists():
            raise Conflict(f"{path} exists and is no socket")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise Conflict(f"somebody listens at {path} already")


def _group_id(group: str) -> int:
    import grp

    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise InvalidInput(f"there is no group {group[:40]}") from None
