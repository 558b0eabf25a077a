"""Blobs on the move: downloads that continue where they broke, uploads that continue where the registry says it is.

Owns ranges, offsets and upload sessions. Does not know where bytes are kept: a download goes into a `BlobSink`, an
upload asks its `OpenAt` for the bytes from an offset on. Holds one piece of 256 KiB at a time.
"""

import hashlib
import io
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

from kedge.model.digest import Digest
from kedge.model.errors import IntegrityError, KedgeError, NotFound, RegistryError, Unauthorized
from kedge.model.image import ANY_BYTES, Descriptor
from kedge.registry.answers import acknowledged, content_range, stated_digest
from kedge.registry.auth import pull_scope, push_scope
from kedge.registry.exchange import Server, turns
from kedge.registry.transport import PIECE, Answer

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Progress: TypeAlias = Callable[[int, int], None]  # bytes done so far, bytes in all; called from the moving thread
OpenAt: TypeAlias = Callable[[int], BinaryIO]  # a blob's bytes from an offset on; called again when a transfer resumes

_HEADWAY: Final = 1 << 20  # bytes after which a broken transfer counts as progressing: its attempts start anew
_CHUNK: Final = 32 << 20  # bytes of one PATCH to a registry that lost an upload sent in one piece
_OCTETS: Final = {"Content-Type": ANY_BYTES}


class BlobSink(Protocol):
    """Where a download goes: storage's BlobWriter is one.

    `offset` bytes of the blob are there already. `restart()` forgets them. `commit()` raises IntegrityError unless all
    bytes together have the promised digest; after that `restart()` makes the sink fit for another try.
    """

    offset: int

    def write(self, data: bytes, /) -> object: ...
    def restart(self) -> None: ...
    def commit(self) -> object: ...


def no_progress(current: int, total: int) -> None:
    """A Progress for callers that do not listen."""


# ---- down ------------------------------------------------------------------------------------------------------------


def download(servers: Iterable[Server], repository: str, blob: Descriptor, sink: BlobSink, progress: Progress) -> None:
    """Write the rest of a blob into `sink` and commit it; from the first of `servers` that has it whole and right."""
    for turn in turns(servers):
        with turn as server, server.downloads:
            _download_from(server, repository, blob, sink, progress)
            return


def _download_from(server: Server, repository: str, blob: Descriptor, sink: BlobSink, progress: Progress) -> None:
    continued = sink.offset > 0
    while True:
        if sink.offset > blob.size:
            sink.restart()
        try:
            for piece in pieces(server, repository, blob, sink.offset):
                sink.write(piece)
                progress(sink.offset, blob.size)
            sink.commit()
            return
        except IntegrityError:
            sink.restart()
            if not continued:
                raise
            continued = False  # what an earlier attempt had left may have been at fault: once more, from the start


def pieces(server: Server, repository: str, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
    """The bytes of a blob from `offset` on, asked for again where a connection breaks: never more than its size.

    Raises IntegrityError for another length than promised. The digest is for the receiver to check.
    """
    name, failures, start = server.repository(repository), 0, offset
    while offset < blob.size or (blob.size == 0 and failures == 0):
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        answer = server.request("GET", f"{name}/blobs/{blob.digest}", pull_scope(name), headers=headers, ok=(200, 206))
        try:
            for piece in _body(server, answer, blob, offset):
                offset += len(piece)
                yield piece
            if offset == blob.size:
                return
            message = f"{server.name} ended {blob.digest} early, after {offset} of {blob.size} bytes"
            raise RegistryError(message, retryable=True)
        except RegistryError as error:
            failures = 1 if offset - start >= _HEADWAY else failures + 1
            start = offset
            if not error.retryable or failures >= server.attempts:
                raise
        finally:
            answer.close()
        server.pause(failures)


def _body(server: Server, answer: Answer, blob: Descriptor, offset: int) -> Iterator[bytes]:
    skip = _where_it_starts(answer, blob, offset)
    left = blob.size - offset
    if answer.length is not None and answer.length != left + skip:
        raise IntegrityError(f"{server.name} sends {answer.length} bytes for {blob.digest}, not {left + skip}")
    while left and (piece := answer.read(PIECE)):
        piece, skip = piece[skip:], max(0, skip - len(piece))
        if len(piece) > left:
            raise IntegrityError(f"{server.name} sends more than the {blob.size} bytes of {blob.digest}")
        left -= len(piece)
        if piece:
            yield piece
    if not left and answer.read(1):
        raise IntegrityError(f"{server.name} sends more than the {blob.size} bytes of {blob.digest}")


def _where_it_starts(answer: Answer, blob: Descriptor, offset: int) -> int:
    """How many bytes to skip: a server without ranges sends all of a blob again."""
    if answer.status == 200:
        return offset
    found = content_range(answer.headers.get("Content-Range", ""))
    if found is None or found[0] != offset or found[1] not in (None, blob.size):
        raise IntegrityError(f"asked for {blob.digest} from byte {offset} of {blob.size} on, got another range")
    return 0


class BlobReader(io.RawIOBase):
    """A blob's bytes as a file: from the first server that begins to send it, verified at the end if read from the
    start.
    """

    def __init__(self, servers: Sequence[Server], repository: str, blob: Descriptor, offset: int = 0) -> None:
        self._blob = blob
        self._hash = hashlib.new(blob.digest.partition(":")[0]) if offset == 0 else None
        self._pieces = self._from_any(servers, repository, offset)
        self._rest = memoryview(b"")
        self._ended = False

    def _from_any(self, servers: Sequence[Server], repository: str, offset: int) -> Generator[bytes, None, None]:
        for turn in turns(servers):
            with turn as server, server.downloads:
                for piece in pieces(server, repository, self._blob, offset):
                    yield piece
                    offset += len(piece)
                return

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        room = memoryview(buffer)
        if not self._rest and not self._ended:
            self._rest = memoryview(next(self._pieces, b""))
            self._ended = not self._rest
            if self._hash and self._rest:
                self._hash.update(self._rest)
            if self._hash and self._ended:
                self._verify(self._hash.hexdigest())
        count = min(len(room), len(self._rest))
        room[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _verify(self, found: str) -> None:
        if found != self._blob.digest.partition(":")[2]:
            raise IntegrityError(f"the bytes that came for {self._blob.digest} have another digest")

    def close(self) -> None:
        if not self.closed:
            self._pieces.close()
        super().close()


def find_blob(server: Server, repository: str, digest: Digest) -> Descriptor:
    """A blob that is known by its digest only: how large it is. Raises NotFound, RegistryError."""
    name = server.repository(repository)
    answer = server.request("HEAD", f"{name}/blobs/{digest}", pull_scope(name))
    answer.close()
    if answer.length is None:
        raise RegistryError(f"{server.name} does not tell the size of {digest}")
    return Descriptor(ANY_BYTES, digest, answer.length)


# ---- up --------------------------------------------------------------------------------------------------------------


def has_blob(server: Server, repository: str, digest: Digest, size: int | None = None) -> bool:
    """Whether a registry has a blob (of that size, if it tells one)."""
    name = server.repository(repository)
    try:  # with the scope of the upload that may follow: one token for both
        answer = server.request("HEAD", f"{name}/blobs/{digest}", push_scope(name))
    except NotFound:
        return False
    answer.close()
    return size is None or answer.length in (None, size)


def upload(
    server: Server,
    repository: str,
    blob: Descriptor,
    open_at: OpenAt,
    progress: Progress,
    mount_from: Sequence[str] = (),
) -> bool:
    """Give a registry a blob: mounted from one of `mount_from` if it can, else sent. False when nothing was sent."""
    for other in mount_from or ("",):
        location = _start(server, repository, blob, other)
        if not location:
            progress(blob.size, blob.size)
            return False
        if other != (list(mount_from) or [""])[-1]:
            _abandon(server, repository, location)
    with server.uploads:
        _Upload(server, repository, blob, open_at, progress).run(location)
    return True


def _start(server: Server, repository: str, blob: Descriptor, mount_from: str = "") -> str:
    """Open an upload and return its URL; "" when the registry has mounted the blob instead."""
    name = server.repository(repository)
    query = f"?mount={blob.digest}&from={mount_from}" if mount_from else ""
    scopes = push_scope(name, *([mount_from] if mount_from else []))
    ok = (201, 202) if mount_from else (202,)
    try:
        answer = server.request("POST", f"{name}/blobs/uploads/{query}", scopes, headers={"Content-Length": "0"}, ok=ok)
    except (NotFound, Unauthorized):
        if not mount_from:
            raise
        return _start(server, repository, blob)  # the sibling may be closed to us: that is no reason to fail
    answer.close()
    if answer.status == 201:
        return ""
    return _location(server, answer)


def _abandon(server: Server, repository: str, location: str) -> None:
    try:
        scopes = push_scope(server.repository(repository))
        server.request("DELETE", location, scopes, ok=(200, 202, 204), attempts=1).close()
    except KedgeError:
        pass  # it will expire


def _location(server: Server, answer: Answer, default: str = "") -> str:
    location = answer.headers.get("Location", "")
    if not location and not default:
        raise RegistryError(f"{server.name} opened an upload but does not say where", status=answer.status)
    return server.follow(answer.url, location) if location else default


class _Upload:
    """One blob on its way up: first in one piece; if the registry lost that, in chunks, each acknowledged before the
    next.
    """

    def __init__(self, server: Server, repository: str, blob: Descriptor, open_at: OpenAt, progress: Progress) -> None:
        self.server, self.repository, self.blob = server, repository, blob
        self.open_at, self.progress = open_at, progress
        self.scopes = push_scope(server.repository(repository))
        self.offset = 0  # acknowledged bytes
        self.chunk = 0  # 0: all that is left in one request

    def run(self, location: str) -> None:
        failures, best, lost = 0, 0, False
        while True:
            try:
                location = self._chunks(location)
                self._finish(location)
                return
            except NotFound:
                if lost:
                    raise
                lost = True  # the upload, perhaps, and not the repository: one more may live longer
            except RegistryError as error:
                failures += 1
                if failures >= self.server.attempts or not (error.retryable or error.status == 416):
                    raise
                self.server.pause(failures)
            location = self._resume(location)
            if self.offset >= best + _HEADWAY:
                best, failures = self.offset, 0

    def _resume(self, location: str) -> str:
        """Ask how far the registry got; a new upload, in chunks, when it has forgotten this one."""
        try:
            answer = self.server.request("GET", location, self.scopes, ok=(200, 202, 204))
            answer.close()
            offset = acknowledged(answer.headers.get("Range", ""))
            if offset and offset <= self.blob.size:
                self.offset = offset
                return _location(self.server, answer, location)
            # `0-0` may mean one byte or none: only a new upload is certain to be empty
            self.chunk = _CHUNK if offset is None or offset else self.chunk
        except (RegistryError, NotFound):
            self.chunk = _CHUNK
        self.offset = 0
        return _start(self.server, self.repository, self.blob)

    def _chunks(self, location: str) -> str:
        """Send chunks until what is left goes into the last request; returns where that goes."""
        while self.blob.size - self.offset and (self.offset or self.chunk):
            end = min(self.blob.size, self.offset + (self.chunk or self.blob.size))
            headers = _OCTETS | {
                "Content-Length": str(end - self.offset),
                "Content-Range": f"{self.offset}-{end - 1}",
            }
            body = self._body(self.offset, end)
            answer = self.server.request(
                "PATCH", location, self.scopes, headers=headers, body=body, ok=(202, 204), attempts=1
            )
            answer.close()
            location = _location(self.server, answer, location)
            self.offset = self._acknowledged(answer, end)
        return location

    def _acknowledged(self, answer: Answer, sent: int) -> int:
        offset = acknowledged(answer.headers.get("Range", ""))
        if offset is None:
            return sent
        if not self.offset < offset <= sent:
            raise RegistryError(
                f"{self.server.name} acknowledges {offset} bytes of an upload of which {sent} were sent"
            )
        return offset

    def _finish(self, location: str) -> None:
        separator = "&" if urlsplit(location).query else "?"
        url = f"{location}{separator}digest={self.blob.digest.replace(':', '%3A')}"
        headers = _OCTETS | {"Content-Length": str(self.blob.size - self.offset)}
        body = self._body(self.offset, self.blob.size) if self.offset < self.blob.size else b""
        answer = self.server.request("PUT", url, self.scopes, headers=headers, body=body, ok=(201, 204), attempts=1)
        answer.close()
        stated = stated_digest(answer.headers.get("Docker-Content-Digest"))
        if stated and stated != self.blob.digest:
            raise IntegrityError(f"{self.server.name} stored {stated} instead of {self.blob.digest}")
        self.progress(self.blob.size, self.blob.size)

    def _body(self, start: int, end: int) -> Callable[[], Iterator[bytes]]:
        def read() -> Iterator[bytes]:
            left = end - start
            with self.open_at(start) as source:
                while left:
                    piece = source.read(min(PIECE, left))
                    if not piece:
                        raise IntegrityError(f"{self.blob.digest} is {left} bytes shorter than its descriptor says")
                    left -= len(piece)
                    yield piece
                    self.progress(end - left, self.blob.size)

        return read
