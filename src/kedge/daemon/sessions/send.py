"""Results on their way to the client: a directory by fsutil's transfer, or one stream of bytes.

Owns the sending side. Does not know what is sent.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from typing import Any

import grpc

from kedge.daemon.sessions.modes import to_go
from kedge.daemon.wire import filesync, fsutil
from kedge.model.errors import Cancelled, InvalidInput, KedgeError
from kedge.model.value import dataclass

_PIECE = 1 << 20  # bytes in a message; clients take 4 MiB at most
_METHOD = "/moby.filesync.v1.FileSend/DiffCopy"
Metadata = Sequence[tuple[str, str]]


class ByteSink:
    """A writable stream whose bytes arrive in the client's file. `close` waits until the client has them. One that says
    that it has them already is sent no more.

    As a context it is closed at the end, or aborted by an exception.
    """

    def __init__(self, channel: grpc.Channel, metadata: Metadata) -> None:
        self._queue: Queue[bytes | None] = Queue(maxsize=8)
        call = channel.stream_stream(_METHOD, _to_bytes, filesync.BytesMessage.FromString)
        self._answers = call(self._messages(), metadata=tuple(metadata))
        self._failure: grpc.RpcError | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._listen, name="send", daemon=True).start()

    def _messages(self) -> Iterator[Any]:
        while (data := self._queue.get()) is not None:
            yield filesync.BytesMessage(data=data)

    def _listen(self) -> None:
        try:
            for _ in self._answers:
                pass
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                self._failure = error
        self._ended.set()

    def write(self, data: bytes) -> int:
        """Send bytes; raises KedgeError when the client does not take them."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PIECE):
            self._put(bytes(view[start : start + _PIECE]))
        return len(view)

    def _put(self, data: bytes | None) -> None:
        while not self._ended.is_set():
            try:
                self._queue.put(data, timeout=1)
                return
            except Full:
                continue
        if self._failure is not None:
            raise refused(self._failure)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Wait until the client has everything. Raises KedgeError if it could not keep it."""
        self._put(None)
        self._ended.wait()
        if self._failure is not None:
            raise refused(self._failure)

    def abort(self) -> None:
        """Give up; the client's call fails."""
        self._answers.cancel()

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


def send_directory(channel: grpc.Channel, metadata: Metadata, directory: Path) -> None:
    """Send a directory's content; the client merges it into its own. Raises KedgeError."""
    outgoing = _Outbox()
    call = channel.stream_stream(_METHOD, _to_bytes, fsutil.Packet.FromString)
    answers = call(iter(outgoing), metadata=tuple(metadata))
    outgoing.is_wanted = answers.is_active
    try:
        _converse(answers, outgoing, directory)
    except grpc.RpcError as error:
        raise refused(error) from None
    finally:
        answers.cancel()
        outgoing.abandon()


class _Outbox:
    """Packets on their way, at most so many at once: a client that takes them slowly must not fill our memory."""

    def __init__(self) -> None:
        self._queue: Queue[Any] = Queue(maxsize=16)
        self.is_wanted: Callable[[], bool] = lambda: True

    def put(self, packet: Any) -> None:
        """Queue a packet (None: the end); waits for room. Raises Cancelled when nobody takes it any more."""
        while True:
            try:
                self._queue.put(packet, timeout=1)
                return
            except Full:
                if not self.is_wanted():
                    raise Cancelled("the client went away") from None

    def abandon(self) -> None:
        """Let whoever waits for packets go."""
        with suppress(Full):
            self._queue.put_nowait(None)

    def __iter__(self) -> Iterator[Any]:
        while (packet := self._queue.get()) is not None:
            yield packet


def _converse(answers: Iterator[Any], outgoing: _Outbox, directory: Path) -> None:
    files: list[_File] = []
    first: dict[tuple[int, int], str] = {}  # by inode: what later names are hard links to
    for path, told in _walk(directory):
        files.append(_File(path, told.st_mode))
        message = _stat(directory, path, told)
        if stat.S_ISREG(told.st_mode) and told.st_nlink > 1:
            known = first.setdefault((told.st_dev, told.st_ino), path)
            message.linkname = known if known != path else ""
        outgoing.put(fsutil.Packet(type=fsutil.Packet.PACKET_STAT, stat=message))
    outgoing.put(fsutil.Packet(type=fsutil.Packet.PACKET_STAT))
    for packet in answers:
        if packet.type == fsutil.Packet.PACKET_FIN:
            outgoing.put(fsutil.Packet(type=fsutil.Packet.PACKET_FIN))
            outgoing.put(None)
        elif packet.type == fsutil.Packet.PACKET_ERR:
            raise InvalidInput(f"the client could not take the result: {packet.data.decode(errors='replace')[:1000]}")
        elif packet.type == fsutil.Packet.PACKET_REQ:
            if len(files) <= packet.ID or not stat.S_ISREG(files[packet.ID].mode):
                raise InvalidInput("the client asks for a file that it was not told of")
            _send_file(outgoing, directory / files[packet.ID].path, packet.ID)


def _send_file(outgoing: _Outbox, path: Path, number: int) -> None:
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_PIECE):
            outgoing.put(fsutil.Packet(type=fsutil.Packet.PACKET_DATA, ID=number, data=data))
    outgoing.put(fsutil.Packet(type=fsutil.Packet.PACKET_DATA, ID=number))


def _walk(directory: Path, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Every path in the order that the transfer prescribes: by name in each directory, a directory before its files."""
    with os.scandir(directory / below) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path = f"{below}/{name}" if below else name
        told = os.lstat(directory / path)
        if stat.S_ISSOCK(told.st_mode):
            continue
        yield path, told
        if stat.S_ISDIR(told.st_mode):
            yield from _walk(directory, path)


def _stat(directory: Path, path: str, told: os.stat_result) -> Any:
    link = os.readlink(directory / path) if stat.S_ISLNK(told.st_mode) else ""
    device = stat.S_ISCHR(told.st_mode) or stat.S_ISBLK(told.st_mode)
    return fsutil_stat_message(
        path=path,
        mode=to_go(told.st_mode),
        uid=told.st_uid,
        gid=told.st_gid,
        size=told.st_size if stat.S_ISREG(told.st_mode) else len(link),
        modTime=told.st_mtime_ns,
        linkname=link,
        devmajor=os.major(told.st_rdev) if device else 0,
        devminor=os.minor(told.st_rdev) if device else 0,
    )


def fsutil_stat_message(**fields: Any) -> Any:
    """A Stat; separate so that reading files through the gateway tells them in the same way."""
    from kedge.daemon.wire import fsutil_stat

    return fsutil_stat.Stat(**fields)


def _to_bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
