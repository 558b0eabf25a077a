"""A client of BuildKit's API for tests: it lends directories, secrets and credentials, and takes results."""

import os
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from kedge.daemon.sessions.modes import to_go
from kedge.daemon.wire import auth, control, filesync, fsutil, gateway, secrets, upload
from kedge.daemon.wire.calls import Calls, handler

CONTROL = control.services["Control"]
BRIDGE = gateway.services["LLBBridge"]


class Client:
    """One client with a session. Close it."""

    def __init__(
        self,
        address: str,
        folder: Path,
        directories: Mapping[str, Path] | None = None,
        lent: Mapping[str, bytes] | None = None,
        credential: tuple[str, str] = ("", ""),
        uploads: Mapping[str, bytes] | None = None,
        declines: bool = False,
        more: tuple[tuple[Any, Any], ...] = (),
    ) -> None:
        self.id, self.folder = uuid.uuid4().hex, folder
        self.received: dict[str, bytes] = {}
        self.told: dict[str, dict[str, str]] = {}  # of each output, before its bytes came
        self.requested: list[str] = []  # files whose bytes the builder asked for
        self.asked: list[tuple[str, ...]] = []  # a directory's name, and which of its files the builder asked after
        folder.mkdir(parents=True, exist_ok=True)
        self._channel = grpc.insecure_channel(address)
        self.control, self.bridge = Calls(self._channel, CONTROL), Calls(self._channel, BRIDGE)
        self._own = grpc.server(ThreadPoolExecutor(16))
        services = (
            (filesync.services["FileSync"], _FileSync(dict(directories or {}), self.requested, self.asked)),
            (filesync.services["FileSend"], _FileSend(self.received, self.told, declines)),
            (secrets.services["Secrets"], _Secrets(dict(lent or {}))),
            (auth.services["Auth"], _Auth(*credential)),
            (upload.services["Upload"], _Upload(dict(uploads or {}))),
            *more,
        )
        self._own.add_generic_rpc_handlers(tuple(handler(service, mine) for service, mine in services))
        path = folder / "own.sock"
        self._own.add_insecure_port(f"unix:{path}")
        self._own.start()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        metadata = [
            ("x-docker-expose-session-uuid", self.id),
            ("x-docker-expose-session-sharedkey", str(folder.parent)),
            *(
                ("x-docker-expose-session-grpc-method", f"/{service.full_name}/{method}")
                for service, _ in services
                for method in service.methods_by_name
            ),
        ]
        self.session = self.control.stream("Session", self._outgoing(), metadata=metadata)
        threading.Thread(target=self._incoming, daemon=True).start()

    def _outgoing(self) -> Iterator[Any]:
        with suppress(OSError):
            while data := self._socket.recv(1 << 16):
                yield control.BytesMessage(data=data)

    def _incoming(self) -> None:
        with suppress(grpc.RpcError, OSError):
            for message in self.session:
                self._socket.sendall(message.data)

    def request(self, **fields: Any) -> Any:
        return control.SolveRequest(**({"Ref": uuid.uuid4().hex, "Session": self.id} | fields))

    def solve(self, **fields: Any) -> Any:
        """Build, and return (response, all status messages merged)."""
        request = self.request(**fields)
        response = self.control.unary("Solve", request, timeout=120)
        return response, self.status(request.Ref)

    def status(self, ref: str) -> Any:
        merged = control.StatusResponse()
        for message in self.control.listen("Status", control.StatusRequest(Ref=ref), timeout=60):
            merged.MergeFrom(message)
        return merged

    def close(self) -> None:
        self.session.cancel()  # type: ignore[attr-defined]
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._own.stop(0)
        self._channel.close()


class _FileSync:
    def __init__(self, directories: dict[str, Path], requested: list[str], asked: list[tuple[str, ...]]) -> None:
        self._directories, self._requested, self._asked = directories, requested, asked

    def DiffCopy(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        metadata = dict(context.invocation_metadata())
        follow = [str(value) for key, value in context.invocation_metadata() if key == "followpaths"]
        self._asked.append((str(metadata.get("dir-name")), *follow))
        top = self._directories.get(str(metadata.get("dir-name")))
        if top is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no access allowed to dir")
        names = [path for path in _walk(top) if not follow or any(_related(path, wanted) for wanted in follow)]
        for path in names:
            told = os.lstat(top / path)
            link = os.readlink(os.fsencode(top / path)) if (top / path).is_symlink() else b""
            one = fsutil.RawStat(
                path=os.fsencode(path),
                mode=to_go(told.st_mode),
                size=told.st_size,
                modTime=told.st_mtime_ns,
                linkname=link,
            )
            yield fsutil.Packet(type=fsutil.Packet.PACKET_STAT, stat=one)
        yield fsutil.Packet(type=fsutil.Packet.PACKET_STAT)
        for packet in requests:
            if packet.type == fsutil.Packet.PACKET_REQ:
                self._requested.append(names[packet.ID])
                data = (top / names[packet.ID]).read_bytes()
                if data:
                    yield fsutil.Packet(type=fsutil.Packet.PACKET_DATA, ID=packet.ID, data=data)
                yield fsutil.Packet(type=fsutil.Packet.PACKET_DATA, ID=packet.ID)
            elif packet.type == fsutil.Packet.PACKET_FIN:
                yield fsutil.Packet(type=fsutil.Packet.PACKET_FIN)
                return


def _related(path: str, wanted: str) -> bool:
    return path == wanted or path.startswith(wanted + "/") or wanted.startswith(path + "/")


def _walk(top: Path, below: str = "") -> Iterator[str]:
    for name in sorted(os.listdir(top / below)):
        path = f"{below}/{name}" if below else name
        yield path
        if (top / path).is_dir() and not (top / path).is_symlink():
            yield from _walk(top, path)


class _FileSend:
    def __init__(self, received: dict[str, bytes], told: dict[str, dict[str, str]], declines: bool) -> None:
        self._received, self._told, self._declines = received, told, declines

    def DiffCopy(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        metadata = {str(name): str(value) for name, value in context.invocation_metadata()}
        key = str(metadata.get("buildkit-attachable-exporter-id"))
        prefix = "exporter-md-"
        self._told[key] = {name[len(prefix) :]: text for name, text in metadata.items() if name.startswith(prefix)}
        if self._declines:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "target already exists")
        self._received[key] = b"".join(message.data for message in requests)
        return iter(())


class _Secrets:
    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = values

    def GetSecret(self, request: Any, context: Any) -> Any:
        if request.ID not in self._values:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such secret")
        return secrets.GetSecretResponse(data=self._values[request.ID])


class _Upload:
    def __init__(self, offered: dict[str, bytes]) -> None:
        self._offered = offered

    def Pull(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        data = self._offered.pop(str(dict(context.invocation_metadata())["urlpath"]))  # once, as real clients do
        for at in range(0, len(data), 1000):
            yield upload.BytesMessage(data=data[at : at + 1000])


class _Auth:
    def __init__(self, user: str, secret: str) -> None:
        self._answer = auth.CredentialsResponse(Username=user, Secret=secret)

    def Credentials(self, request: Any, context: Any) -> Any:
        return self._answer
