"""Documents of build records, for clients that read them through containerd's content service.

Owns the files `history/<ref>/<hex of digest>` below the service's directory, each for as long as its record is kept,
and who may read them: nobody but the user whose build it was. Does not know what they say.
"""

import os
import shutil
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc

from kedge.daemon.peer import Peer
from kedge.daemon.wire import content, control
from kedge.model.digest import Digest, hex_part, parse_digest, sha256
from kedge.model.errors import InvalidDigest

STATUS_TYPE: Final = "application/vnd.googeapis.google.rpc.status+proto"  # so spelled by those who look for it
LOGS_TYPE: Final = "application/vnd.buildkit.status.v0"
_PIECE: Final = 1 << 20


class Documents:
    """All documents. Thread-safe."""

    def __init__(self, directory: Path, peer_of: Callable[[Any], Peer]) -> None:
        self._directory, self._peer_of = directory, peer_of
        self._refs: dict[tuple[str, str], set[str]] = {}  # realm, hex of a digest -> records that have it
        self._lock = threading.Lock()

    def put(
        self, ref: str, realm: str, media_type: str, data: bytes, annotations: Mapping[str, str] | None = None
    ) -> Any:
        """Keep a document of a record; returns its descriptor."""
        digest = sha256(data)
        with suppress(OSError):  # a full disk must not fail a build that is done
            path = self._directory / ref / hex_part(digest)
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            aside.write_bytes(data)
            os.replace(aside, path)
            with self._lock:
                self._refs.setdefault((realm, path.name), set()).add(ref)
        return control.Descriptor(media_type=media_type, digest=digest, size=len(data), annotations=annotations)

    def load(self, ref: str, realm: str) -> None:
        """Know the documents of a record that an earlier service kept."""
        with suppress(OSError), self._lock:
            for name in os.listdir(self._directory / ref):
                self._refs.setdefault((realm, name), set()).add(ref)

    def get(self, ref: str, digest: Digest) -> bytes | None:
        """A record's document."""
        try:
            return (self._directory / ref / hex_part(digest)).read_bytes()
        except OSError:
            return None

    def forget(self, ref: str) -> None:
        """Remove a record's documents."""
        with self._lock:
            for key, refs in list(self._refs.items()):
                refs.discard(ref)
                if not refs:
                    del self._refs[key]
        shutil.rmtree(self._directory / ref, ignore_errors=True)

    def keep_only(self, refs: Container[str]) -> None:
        """Remove documents whose record was never written: an earlier service was killed between the two."""
        with suppress(OSError):
            for entry in os.scandir(self._directory):
                if entry.is_dir(follow_symlinks=False) and entry.name not in refs:
                    self.forget(entry.name)

    # ---- containerd.services.content.v1.Content: reading only --------------------------------------------------------

    def Info(self, request: Any, context: grpc.ServicerContext) -> Any:
        size = self._path(request.digest, context).stat().st_size
        return content.InfoResponse(info=content.Info(digest=request.digest, size=size))

    def List(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        realm = self._peer_of(context).realm
        with self._lock:
            names = sorted(name for owner, name in self._refs if owner == realm)
        for name in names:
            with suppress(FileNotFoundError):
                digest = f"sha256:{name}"
                size = self._path(digest, context).stat().st_size
                yield content.ListContentResponse(info=[content.Info(digest=digest, size=size)])

    def Read(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        data = self._path(request.digest, context).read_bytes()
        start = max(request.offset, 0)
        end = min(start + request.size, len(data)) if request.size > 0 else len(data)
        for offset in range(start, end, _PIECE):
            yield content.ReadContentResponse(offset=offset, data=data[offset : min(offset + _PIECE, end)])

    def _path(self, digest: str, context: grpc.ServicerContext) -> Path:
        try:
            name = hex_part(parse_digest(digest))
        except InvalidDigest as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        with self._lock:
            refs = sorted(self._refs.get((self._peer_of(context).realm, name), ()))
        for ref in refs:
            if (path := self._directory / ref / name).is_file():
                return path
        context.abort(grpc.StatusCode.NOT_FOUND, f"content {digest[:80]}: not found")
        raise AssertionError("abort does not return")
