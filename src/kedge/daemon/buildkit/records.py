"""Small documents about ended builds, by digest, for clients that read them through containerd's content service.

Owns the files `history/blobs/<hex>` below the service's directory. Does not know what they say.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc

from kedge.daemon.wire import content, control
from kedge.model.digest import hex_part, parse_digest, sha256
from kedge.model.errors import InvalidDigest

STATUS_TYPE: Final = "application/vnd.googeapis.google.rpc.status+proto"  # so spelled by those who look for it
_PIECE: Final = 1 << 20


class Records:
    """The documents."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, media_type: str, data: bytes) -> Any:
        """Keep a document; returns its descriptor."""
        digest = sha256(data)
        with suppress(OSError):  # a full disk must not fail a build that is done
            self._directory.mkdir(0o700, parents=True, exist_ok=True)
            aside = self._directory / f".{hex_part(digest)}.{os.getpid()}"
            aside.write_bytes(data)
            os.replace(aside, self._directory / hex_part(digest))
        return control.Descriptor(media_type=media_type, digest=digest, size=len(data))

    def remove(self, digest: str) -> None:
        """Forget a document."""
        if digest:
            (self._directory / hex_part(parse_digest(digest))).unlink(missing_ok=True)

    # ---- containerd.services.content.v1.Content: reading only --------------------------------------------------------

    def Info(self, request: Any, context: grpc.ServicerContext) -> Any:
        size = self._path(request.digest, context).stat().st_size
        return content.InfoResponse(info=content.Info(digest=request.digest, size=size))

    def Read(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        data = self._path(request.digest, context).read_bytes()
        start = max(request.offset, 0)
        end = min(start + request.size, len(data)) if request.size > 0 else len(data)
        for offset in range(start, end, _PIECE):
            yield content.ReadContentResponse(offset=offset, data=data[offset : min(offset + _PIECE, end)])

    def _path(self, digest: str, context: grpc.ServicerContext) -> Path:
        try:
            path = self._directory / hex_part(parse_digest(digest))
        except InvalidDigest as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        if not path.is_file():
            context.abort(grpc.StatusCode.NOT_FOUND, f"content {digest[:80]}: not found")
        return path
