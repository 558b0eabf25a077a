"""Results on their way to the client: a directory by fsutil's transfer, or one stream of bytes.

Owns the sending side. Does not know what is sent.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from kedge.daemon.sessions.modes import to_go
from kedge.daemon.wire import filesync, fsutil
from kedge.daemon.wire.channel import Call, Channel, Metadata
from kedge.model.errors import Cancelled, InvalidInput, KedgeError
from kedge.model.value import dataclass

_PIECE = 1 << 20  # bytes in a message; clients take 4 MiB at most
_METHOD = "/moby.filesync.v1.FileSend/DiffCopy"


class ByteSink:
    """A writable stream whose bytes arrive in the client's file. `close` waits until the client has them. One that says
    that it has them already is sent no more.

    As a context it is closed at the end, or aborted by an exception.
    """

    def __init__(self, channel: Channel, metadata: Metadata) -> None:
        try:
            self._call = channel.open(_METHOD, _to_bytes, filesync.BytesMessage.FromString, metadata=metadata)
        except grpc.RpcError as error:
            raise refused(error) from None
        self._over = False

    def write(self, data: bytes) -> int:
        """Send bytes; raises KedgeError when the client does not take them."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PIECE):
            if self._over or not self._call.send(filesync.BytesMessage(data=bytes(view[start : start + _PIECE]))):
                self._hear_out()
        return len(view)

    def _hear_out(self) -> None:
        """What the client says at the end."""
        if not self._over:
            self._over = True
            try:
                for _ in self._call:
                    pass
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                    raise refused(error) from None

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Wait until the client has everything. Raises KedgeError if it could not keep it."""
        self._call.end()
        self._hear_out()

    def abort(self) -> None:
        """Give up; the client's call fails."""
        self._call.cancel()

    def __enter__(self) -> "ByteSink":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def refused(error: grpc.RpcError) -> KedgeError:
    """A client's refusal as ours."""
    code, details = error.code(), error.details() or ""
    if code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
        return Cancelled("the client went away")
    return InvalidInput(f"the client could not take the result: {details[:1000]}")


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    mode: int


def send_directory(channel: Channel, metadata: Metadata, directory: Path) -> None:
    """Send a directory's content; the client merges it into its own. Raises KedgeError."""
    try:
        call = channel.open(_METHOD, _to_bytes, fsutil.Packet.FromString, metadata=metadata)
        try:
            _converse(call, directory)
        finally:
            call.cancel()
    except grpc.RpcError as error:
        raise refused(error) from None


def _converse(call: Call, directory: Path) -> None:
    files = _tell(call, directory)
    for packet in call:
        if packet.type == fsutil.Packet.PACKET_FIN:
            call.send(fsutil.Packet(type=fsutil.Packet.PACKET_FIN))
            call.end()
        elif packet.type == fsutil.Packet.PACKET_ERR:
            raise InvalidInput(f"the client could not take the result: {packet.data.decode(errors='replace')[:1000]}")
        elif packet.type == fsutil.Packet.PACKET_REQ:
            if len(files) <= packet.ID or not stat.S_ISREG(files[packet.ID].mode):
                raise InvalidInput("the client asks for a file that it was not told of")
            _send_file(call, directory / files[packet.ID].path, packet.ID)


def _tell(call: Call, directory: Path) -> list[_File]:
    """Tell the client of every file; what it asks for meanwhile waits in the call."""
    files: list[_File] = []
    first: dict[tuple[int, int], str] = {}  # by inode: what later names are hard links to
    for path, told in _walk(directory):
        files.append(_File(path, told.st_mode))
        message = _stat(directory, path, told)
        if stat.S_ISREG(told.st_mode) and told.st_nlink > 1:
            known = first.setdefault((told.st_dev, told.st_ino), path)
            message.linkname = os.fsencode(known) if known != path else b""
        if not call.send(fsutil.Packet(type=fsutil.Packet.PACKET_STAT, stat=message)):
            return files
    call.send(fsutil.Packet(type=fsutil.Packet.PACKET_STAT))
    return files


def _send_file(call: Call, path: Path, number: int) -> None:
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_PIECE):
            call.send(fsutil.Packet(type=fsutil.Packet.PACKET_DATA, ID=number, data=data))
    call.send(fsutil.Packet(type=fsutil.Packet.PACKET_DATA, ID=number))


def _walk(directory: Path, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Every path in the order that the transfer prescribes: by name in each directory, a directory before its files."""
    with os.scandir(directory / below) as entries:
        names = sorted((entry.name for entry in entries), key=os.fsencode)
    for name in names:
        path = f"{below}/{name}" if below else name
        told = os.lstat(directory / path)
        if stat.S_ISSOCK(told.st_mode):
            continue
        yield path, told
        if stat.S_ISDIR(told.st_mode):
            yield from _walk(directory, path)


def _stat(directory: Path, path: str, told: os.stat_result) -> Any:
    link = os.readlink(os.fsencode(directory / path)) if stat.S_ISLNK(told.st_mode) else b""
    device = stat.S_ISCHR(told.st_mode) or stat.S_ISBLK(told.st_mode)
    return fsutil.RawStat(
        path=os.fsencode(path),
        mode=to_go(told.st_mode),
        uid=told.st_uid,
        gid=told.st_gid,
        size=told.st_size if stat.S_ISREG(told.st_mode) else len(link),
        modTime=told.st_mtime_ns,
        linkname=link,
        devmajor=os.major(told.st_rdev) if device else 0,
        devminor=os.minor(told.st_rdev) if device else 0,
    )


def _to_bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
