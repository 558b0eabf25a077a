"""A blob read while it still comes in, so that decompressing and unpacking need not wait for its last byte.

Owns the waiting between who writes and who reads. Nothing read here is verified yet: what is made of it may be used
only after the writer's commit, and only if it was `undisturbed`.
"""

import os
import threading
from collections.abc import Callable

from kedge.model.errors import Cancelled
from kedge.storage.blobs import BlobWriter


class Arriving:
    """Runs `fetch`, which fills and commits `writer`, in a thread, and gives the bytes as a file to one reader.

    A context manager: leaving waits for the thread, whose error `join` raises.
    """

    def __init__(self, writer: BlobWriter, fetch: Callable[[], None]) -> None:
        self._writer, self._fetch = writer, fetch
        self._size = writer.expected.size if writer.expected else 0
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="kedge-fetch", daemon=True)
        self._error: BaseException | None = None
        self._done = self._unread = self._unwanted = False
        self._fd = writer.reader()
        self._position, self._restarts = 0, writer.restarts

    @property
    def undisturbed(self) -> bool:
        """Is what was read what is there? A download may start anew, from a server with other bytes."""
        return self._writer.restarts == self._restarts

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, waited for; b"" at the end, which comes early when the fetching fails or starts anew."""
        with self._change:
            while not (have := self._have()) and not self._over():
                self._change.wait()
        data = os.pread(self._fd, min(size, have), self._position) if have else b""
        self._position += len(data)
        return data

    def leave(self) -> None:
        """Nobody reads on: `read` gives b"" from now on. The fetching goes on."""
        with self._change:
            self._unread = True
            self._change.notify_all()

    def stop(self) -> None:
        """Nobody wants the blob any more: the fetching ends, as if cancelled, with its next write."""
        self._unwanted = True
        self.leave()

    def join(self) -> None:
        """Wait for the blob to be committed; raises what ended the fetching instead."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "Arriving":
        self._writer.changed = self._changed
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._writer.changed = None
        os.close(self._fd)

    def _have(self) -> int:
        return max(0, self._writer.offset - self._position) if self.undisturbed and not self._unread else 0

    def _over(self) -> bool:
        return self._done or self._unread or not self.undisturbed or self._position >= self._size

    def _changed(self) -> None:
        """Called by the writer after each write and restart."""
        if self._unwanted:
            raise Cancelled("nobody wants these bytes any more")
        with self._change:
            self._change.notify_all()

    def _work(self) -> None:
        try:
            self._fetch()
        except BaseException as error:  # raised by `join`
            self._error = error
        finally:
            with self._change:
                self._done = True
                self._change.notify_all()
