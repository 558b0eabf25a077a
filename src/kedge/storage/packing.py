"""From a layer's directory to its blob: tar, digest, compression and the compressed digest in one pass, on all cores.

Owns the framing of compressed layers: a function of the bytes, the kind and the level only, never of the number of
cores or of how the tar was cut into writes. Does not know tar (`tar_write`) or layers.

gzip: one member (RFC 1952) without name or time; the content is cut every MiB, each piece deflated on its own (no
reference to the piece before) and ended by a full flush, so pieces can be made in parallel and concatenated. zstd: one
frame by libzstd's own threads, whose job size depends on the level alone.
"""

import hashlib
import os
import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from kedge.model.digest import Digest
from kedge.model.errors import InvalidInput
from kedge.model.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from kedge.storage.layer_bytes import Compression as Compression

MEDIA_TYPES: dict[str, str] = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "uncompressed": OCI_LAYER}
_LEVELS = {"gzip": range(10), "zstd": range(1, 23), "uncompressed": range(1)}
_PIECE = 1 << 20
_MOST_CORES = 8  # and pieces: what more would win is not worth their memory
_MOST_ZSTD_CORES = 4  # each takes some 20 MB
_LARGE = threading.BoundedSemaphore(2)  # layers of more than one piece packed at the same time
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no flags, no time, unknown system
_GZIP_LAST_BLOCK = b"\x03\x00"  # an empty final deflate block


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


def check_level(compression: Compression, level: int | None) -> None:
    """Raises InvalidInput for a level that the compression does not have."""
    if level is not None and level not in _LEVELS[compression]:
        allowed = _LEVELS[compression]
        raise InvalidInput(f"{compression} has no level {level}", hint=f"Use {allowed[0]} to {allowed[-1]}.")


class Packer:
    """Takes a tar by `write`, hashes it, and writes its compressed form to `out`. A context manager; call `finish`
    last.

    After `finish`, `digest` and `size` are those of the tar.
    """

    def __init__(self, out: Writable | None, compression: Compression, level: int | None) -> None:
        check_level(compression, level)
        self.digest, self.size = Digest(""), 0
        self._hash = hashlib.sha256()
        self._encoder = _ENCODERS[compression](level) if out else _Nothing(level)
        self._out = out
        self._buffer = bytearray()
        self._pool: ThreadPoolExecutor | None = None
        self._hashing: Future[None] | None = None
        self._pieces: deque[Future[bytes]] = deque()
        self._cores = min(_MOST_CORES, len(os.sched_getaffinity(0)))

    def write(self, data: bytes | memoryview) -> None:
        self._buffer += data
        if len(self._buffer) >= _PIECE:
            whole = len(self._buffer) // _PIECE * _PIECE
            with memoryview(self._buffer) as view:
                pieces = [bytes(view[at : at + _PIECE]) for at in range(0, whole, _PIECE)]
            del self._buffer[:whole]
            for piece in pieces:
                self._push(piece)

    def finish(self) -> None:
        """The tar is complete: write what is left."""
        if self._buffer or not self.size:
            self._push(bytes(self._buffer), last=True)
        while self._pieces:
            self._emit(self._pieces.popleft().result())
        if self._hashing:
            self._hashing.result()
        self._emit(self._encoder.end())
        self.digest = Digest("sha256:" + self._hash.hexdigest())

    def __enter__(self) -> "Packer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
            _LARGE.release()

    def _push(self, piece: bytes, last: bool = False) -> None:
        first = self.size == 0
        self.size += len(piece)
        if first:
            self._emit(self._encoder.begin())
        if first and last:  # most layers are small: no thread is worth it
            self._digest(piece)
            self._emit(self._encoder.encode(piece))
            return
        if self._pool is None:
            _LARGE.acquire()
            self._pool = ThreadPoolExecutor(self._cores + 1, "kedge-pack")
        if self._hashing:
            self._hashing.result()
        self._hashing = self._pool.submit(self._digest, piece)
        if self._encoder.parallel:
            self._pieces.append(self._pool.submit(self._encoder.encode, piece))
            if len(self._pieces) > 2 * self._cores:
                self._emit(self._pieces.popleft().result())
        else:
            self._emit(self._encoder.encode(piece))

    def _digest(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._encoder.note(piece)

    def _emit(self, data: bytes) -> None:
        if self._out and data:
            self._out.write(data)


class _Nothing:
    """Hash only."""

    parallel = False

    def __init__(self, level: int | None) -> None:
        pass

    def note(self, piece: bytes) -> None:
        """See every piece, in order, on one thread at a time."""

    def begin(self) -> bytes:
        return b""

    def encode(self, piece: bytes) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""


class _Plain(_Nothing):
    def encode(self, piece: bytes) -> bytes:
        return piece


class _Gzip(_Nothing):
    """Without a level, ISA-L's best (about zlib's level 3 at several times its speed); with one, zlib's."""

    parallel = True

    def __init__(self, level: int | None) -> None:
        import zlib

        from isal import isal_zlib

        self._crc_of: Callable[[bytes, int], int] = isal_zlib.crc32
        self._crc, self._size = 0, 0
        if level is None:
            self._deflate: Callable[[], Any] = lambda: isal_zlib.compressobj(3, wbits=-15)
            self._flush = isal_zlib.Z_FULL_FLUSH
        else:
            self._deflate = lambda: zlib.compressobj(level, wbits=-15)
            self._flush = zlib.Z_FULL_FLUSH

    def begin(self) -> bytes:
        return _GZIP_HEADER

    def note(self, piece: bytes) -> None:
        self._crc = self._crc_of(piece, self._crc)
        self._size += len(piece)

    def encode(self, piece: bytes) -> bytes:
        deflate = self._deflate()
        return bytes(deflate.compress(piece) + deflate.flush(self._flush))

    def end(self) -> bytes:
        return _GZIP_LAST_BLOCK + struct.pack("<II", self._crc, self._size & 0xFFFFFFFF)


class _Zstd(_Nothing):
    def __init__(self, level: int | None) -> None:
        import zstandard

        # threads=0 would choose another algorithm, with other bytes, than any number of threads.
        cores = min(_MOST_ZSTD_CORES, len(os.sched_getaffinity(0)))
        self._stream = zstandard.ZstdCompressor(level=level or 3, threads=cores, write_checksum=True).compressobj()

    def encode(self, piece: bytes) -> bytes:
        return self._stream.compress(piece)

    def end(self) -> bytes:
        return self._stream.flush()


_ENCODERS: dict[str, type[_Nothing]] = {"gzip": _Gzip, "zstd": _Zstd, "uncompressed": _Plain}
