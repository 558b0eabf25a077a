"""Content by digest: the store's verified bytes, laid out as in an OCI image layout.

Owns `blobs/<algorithm>/<hex>` and the partial files under `ingest/`. A file's modification time is when it was last used. Does
not know what the bytes mean nor where they come from.
"""

from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from kedge.model.digest import Digest
from kedge.model.image import Descriptor


class BlobWriter:
    """A blob on its way in: a context manager. Bytes become a blob by `commit` only, and only when they are what was promised.

    `offset` is how many bytes are there already: what an earlier, broken attempt at the same expected blob left is kept and
    continued. Leaving without a commit keeps the bytes of an expected blob for the next attempt and drops others.
    """

    expected: Descriptor | None
    offset: int

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append; raises IntegrityError for more bytes than expected, StoreError for a full disk or store."""
        raise NotImplementedError

    def restart(self) -> None:
        """Forget all bytes so far: `offset` is 0 again."""
        raise NotImplementedError

    def commit(self) -> Digest:
        """Make the bytes a blob, durably. Raises IntegrityError, and drops them, when they are not what was expected."""
        raise NotImplementedError

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError


class BlobStore:
    """Verified bytes by digest. Every method may be called by several threads and processes at once."""

    def has(self, digest: Digest) -> bool:
        """Are the bytes here? Also marks them as used, which keeps them for as long as this store is open."""
        raise NotImplementedError

    def path(self, digest: Digest) -> Path:
        """Where the blob's file is, for code that links or maps it. Raises NotFound."""
        raise NotImplementedError

    def size(self, digest: Digest) -> int:
        """In bytes. Raises NotFound."""
        raise NotImplementedError

    def open(self, digest: Digest) -> BinaryIO:
        """The bytes, to be read and closed by the caller. Raises NotFound."""
        raise NotImplementedError

    def read(self, digest: Digest, limit: int = 16 << 20) -> bytes:
        """All bytes of a small blob. Raises NotFound, or IntegrityError when there are more than `limit`."""
        raise NotImplementedError

    def put(self, data: bytes) -> Digest:
        """Store the bytes; durable on return. Idempotent."""
        raise NotImplementedError

    def writer(self, expected: Descriptor | None = None) -> BlobWriter:
        """A way in for a stream. With `expected`, digest and size are verified and a broken attempt is continued."""
        raise NotImplementedError

    def delete(self, digest: Digest) -> None:
        """Remove a blob. Does nothing when there is none."""
        raise NotImplementedError
