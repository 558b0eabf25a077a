"""From a layer's directory to its blob: tar, digest, compression and the compressed digest in one pass, on all cores.

Owns the framing of compressed layers: a function of the bytes, the kind and the level only, never of the number of
cores or of how the tar was cut into writes. Does not know tar (`tar_write`) or layers.

gzip: the content is cut every MiB, and each piece is a member of its own (RFC 1952, 2.2) without name or time, so
pieces can be made in parallel. libdeflate makes them: its bytes are the same on every processor, as ISA-L's are not
(level 3 differs between AVX2 and AVX-512, all levels without SSE4.2) nor those of "zlib", which may be zlib-ng. zstd:
one frame by libzstd's own threads, with jobs of a fixed size.
"""

import hashlib
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from kedge.model.digest import Digest
from kedge.model.errors import InvalidInput
from kedge.model.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from kedge.storage.layer_bytes import Compression as Compression

MEDIA_TYPES: dict[str, str] = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "uncompressed": OCI_LAYER}
_LEVELS = {"gzip": range(10), "zstd": range(1, 23), "uncompressed": range(1)}
_PIECE = 1 << 20
_MOST_CORES = 8  # and pieces in flight: one SHA-256 of the tar is no faster, and memory counts
_ZSTD_JOB = 2 << 20  # bytes; decides the output
_ZSTD_CHUNK = 1 << 18
# From which level on: how many cores, and the logarithm of a table's entries, at most. Each core has tables and windows
# of its own, which libzstd would make 640 MiB large at level 22.
_ZSTD_LIMITS = ((16, 1, 20), (10, 2, 21), (1, 4, 21))
_ZSTD_WINDOW = 23  # the logarithm of what all readers promise to have (RFC 8878, 3.1.1.1.2)
_LARGE = threading.BoundedSemaphore(2)  # layers of more than one piece packed at the same time


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
        if first and last:  # most layers are small: no thread is worth it
            self._hash.update(piece)
            self._emit(self._encoder.encode(piece))
            return
        if self._pool is None:
            _LARGE.acquire()
            self._pool = ThreadPoolExecutor(self._cores + 1, "kedge-pack")
        if self._hashing:
            self._hashing.result()
        self._hashing = self._pool.submit(self._hash.update, piece)
        if self._encoder.parallel:
            self._pieces.append(self._pool.submit(self._encoder.encode, piece))
            if len(self._pieces) > 2 * self._cores:
                self._emit(self._pieces.popleft().result())
        else:
            self._emit(self._encoder.encode(piece))

    def _emit(self, data: bytes) -> None:
        if self._out and data:
            self._out.write(data)


class _Nothing:
    """Hash only."""

    parallel = False

    def __init__(self, level: int | None) -> None:
        pass

    def encode(self, piece: bytes) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""


class _Plain(_Nothing):
    def encode(self, piece: bytes) -> bytes:
        return piece


class _Gzip(_Nothing):
    """Without a level libdeflate's 1: about the size of zlib's 3."""

    parallel = True

    def __init__(self, level: int | None) -> None:
        from deflate import gzip_compress

        self._compress = gzip_compress
        self._level = 1 if level is None else level

    def encode(self, piece: bytes) -> bytes:
        return bytes(self._compress(piece, self._level))


class _Zstd(_Nothing):
    """Jobs of 2 MiB instead of the four windows that libzstd takes cost half a percent of size and save 60 MB.

    Smaller tables cost nothing up to level 12 and up to six percent above; they save 20 to 700 MB for each core.
    """

    def __init__(self, level: int | None) -> None:
        import zstandard

        level = level or 3
        usual = zstandard.ZstdCompressionParameters.from_level(level)
        most, table = next((cores, table) for first, cores, table in _ZSTD_LIMITS if level >= first)
        # threads=0 would choose another algorithm, with other bytes, than any number of threads.
        cores = min(most, len(os.sched_getaffinity(0)))
        how = zstandard.ZstdCompressionParameters.from_level(
            level,
            threads=cores,
            job_size=_ZSTD_JOB,
            write_checksum=True,
            window_log=min(usual.window_log, _ZSTD_WINDOW),
            chain_log=min(usual.chain_log, table),
            hash_log=min(usual.hash_log, table),
        )
        compressor = zstandard.ZstdCompressor(compression_params=how)
        self._stream: Any = compressor.chunker(chunk_size=_ZSTD_CHUNK)

    def encode(self, piece: bytes) -> bytes:
        return b"".join(self._stream.compress(piece))

    def end(self) -> bytes:
        return b"".join(self._stream.finish())


_ENCODERS: dict[str, type[_Nothing]] = {"gzip": _Gzip, "zstd": _Zstd, "uncompressed": _Plain}
