"""Content by digest: the store's verified bytes, laid out as in an OCI image layout.

Owns `blobs/<algorithm>/<hex>` and the partial files under `ingest/`. A file's modification time is when it was last
used. Does not know what the bytes mean nor where they come from.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from kedge.model.digest import Digest, hex_part, parse_digest, sha256
from kedge.model.errors import IntegrityError, NotFound
from kedge.model.image import Descriptor
from kedge.storage.budget import Budget, Reservation
from kedge.storage.disk import translated
from kedge.storage.locks import Lease, Locks

_CHUNK = 1 << 20


def verified(source: BinaryIO, blob: Descriptor, where: str = "") -> Iterator[bytes]:
    """The bytes of a blob from a foreign place, exactly those: IntegrityError at the end otherwise, so that nothing may
    be made of the pieces before it. `where` is told with the error.
    """
    algorithm, _, text = blob.digest.partition(":")
    hasher, left = hashlib.new(algorithm), blob.size
    while piece := source.read(min(_CHUNK, left + 1)):
        hasher.update(piece)
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left or hasher.hexdigest() != text:
        raise IntegrityError(f"{blob.digest}{where} has other bytes than its digest says")


class BlobWriter:
    """A blob on its way in: a context manager. Bytes become a blob by `commit` only, and only when they are what was
    promised.

    `offset` is how many bytes are there already: what an earlier, broken attempt at the same expected blob left is kept
    and continued. Leaving without a commit keeps the bytes of an expected blob for the next attempt and drops others.
    Not to be used by two threads at once.
    """

    def __init__(
        self, path: Path, resting: Path, expected: Descriptor | None, reservation: Reservation, lock: ExitStack
    ) -> None:
        self.expected = expected
        self.offset = 0
        self.digest: Digest | None = None  # set by commit
        self.restarts = 0
        self.changed: Callable[[], None] | None = None  # called after each write and restart; may raise to stop
        self._path, self._resting, self._reservation, self._lock = path, resting, reservation, lock
        self._algorithm = expected.digest.partition(":")[0] if expected else "sha256"
        self._hash = hashlib.new(self._algorithm)
        with translated("write a blob"):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._resume()

    def _resume(self) -> None:
        """Hash what is there already."""
        limit = self.expected.size if self.expected else 0
        if os.fstat(self._fd).st_size > limit:
            os.ftruncate(self._fd, 0)
        while data := os.read(self._fd, _CHUNK):
            self._hash.update(data)
            self.offset += len(data)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append; raises IntegrityError for more bytes than expected, StoreError for a full disk or store."""
        size = len(data)
        if self.expected and self.offset + size > self.expected.size:
            raise IntegrityError(f"more than the {self.expected.size} bytes promised for {self.expected.digest}")
        self._reservation.cover(self.offset + size)
        self._hash.update(data)
        rest = memoryview(data)
        with translated("write a blob"):
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        self.offset += size
        if self.changed:
            self.changed()
        return size

    def reader(self) -> int:
        """A descriptor for the bytes written so far and those to come, not verified; the caller's to close."""
        with translated("write a blob"):
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def restart(self) -> None:
        """Forget all bytes so far: `offset` is 0 again."""
        self.restarts += 1
        self.offset = 0
        with translated("write a blob"):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.new(self._algorithm)
        if self.changed:
            self.changed()

    def commit(self) -> Digest:
        """Make the bytes a blob, durably. Raises IntegrityError, and drops them, when they are not what was expected.

        Fewer bytes than expected are kept, to be continued.
        """
        digest = Digest(f"{self._algorithm}:{self._hash.hexdigest()}")
        if self.expected and self.offset < self.expected.size:
            raise IntegrityError(f"only {self.offset} of the {self.expected.size} bytes of {self.expected.digest} came")
        if self.expected and digest != self.expected.digest:
            self.restart()
            raise IntegrityError(f"the bytes promised as {self.expected.digest} are {digest}")
        with translated("write a blob"):
            os.fdatasync(self._fd)
            place = self._resting / self._algorithm
            place.mkdir(exist_ok=True)
            os.utime(self._fd)
            os.rename(self._path, place / hex_part(digest))
        self._reservation.settle(os.fstat(self._fd).st_blocks * 512)
        self.digest = digest
        return digest

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.digest is None:
            keep = self.expected is not None and self.offset > 0 and self._path.name == hex_part(self.expected.digest)
            if not keep:
                self._path.unlink(missing_ok=True)
            self._reservation.settle(os.fstat(self._fd).st_blocks * 512 if keep else 0)
        os.close(self._fd)
        self._lock.close()


class BlobStore:
    """Verified bytes by digest. Every method may be called by several threads and processes at once."""

    def __init__(self, root: Path, locks: Locks, lease: Lease, budget: Budget) -> None:
        self._resting, self._ingest = root / "blobs", root / "ingest"
        self._locks, self._lease, self._budget = locks, lease, budget
        self._fresh: set[Digest] = set()  # known to be here and marked as used since our lease began
        self._guard = threading.Lock()

    def has(self, digest: Digest) -> bool:
        """Are the bytes here? Also marks them as used, which keeps them for as long as this store is open."""
        path = self._file(digest)
        if digest in self._fresh and path.exists():
            return True
        _ = self._lease.start  # must be older than the mark
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except PermissionError:
            return path.exists()
        with self._guard:
            self._fresh.add(digest)
        return True

    def path(self, digest: Digest) -> Path:
        """Where the blob's file is, for code that links or maps it. Raises NotFound."""
        if not self.has(digest):
            raise NotFound(f"the store has no blob {digest}")
        return self._file(digest)

    def size(self, digest: Digest) -> int:
        """In bytes. Raises NotFound."""
        with translated(f"read {digest}"):
            return self.path(digest).stat().st_size

    def open(self, digest: Digest) -> BinaryIO:
        """The bytes, to be read and closed by the caller. Raises NotFound."""
        with translated(f"read {digest}"):
            return open(self.path(digest), "rb")

    def read(self, digest: Digest, limit: int = 16 << 20) -> bytes:
        """All bytes of a small blob. Raises NotFound, or IntegrityError when there are more than `limit`."""
        with self.open(digest) as file, translated(f"read {digest}"):
            data = file.read(limit + 1)
        if len(data) > limit:
            raise IntegrityError(f"blob {digest} is larger than {limit} bytes")
        return data

    def put(self, data: bytes) -> Digest:
        """Store the bytes; durable on return. Idempotent."""
        digest = sha256(data)
        if not self.has(digest):
            with self.writer() as writer:
                writer.write(data)
                writer.commit()
        return digest

    def writer(self, expected: Descriptor | None = None) -> BlobWriter:
        """A way in for a stream. With `expected`, digest and size are verified and a broken attempt is continued.

        While another writer of the same blob is at work, this one starts anew, aside.
        """
        path, lock = None, ExitStack()
        if expected:
            hexadecimal = hex_part(parse_digest(expected.digest))
            attempt: AbstractContextManager[bool] = self._locks.tried(f"ingest:{expected.digest}")
            if lock.enter_context(attempt):
                path = self._ingest / hexadecimal
        try:
            reservation = self._budget.reserve(expected.size if expected else 0)
            return BlobWriter(path or self._ingest / self._lease.new_name(), self._resting, expected, reservation, lock)
        except BaseException:
            lock.close()
            raise

    def delete(self, digest: Digest) -> None:
        """Remove a blob. Does nothing when there is none."""
        with translated(f"remove {digest}"):
            self._file(digest).unlink(missing_ok=True)

    def list(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """Every blob with what stat(2) says of its file."""
        for algorithm in ("sha256", "sha512"):
            with suppress(FileNotFoundError):
                for entry in os.scandir(self._resting / algorithm):
                    with suppress(FileNotFoundError):
                        yield Digest(f"{algorithm}:{entry.name}"), entry.stat()

    def _file(self, digest: Digest) -> Path:
        algorithm, _, hexadecimal = digest.partition(":")
        return self._resting / algorithm / hexadecimal
