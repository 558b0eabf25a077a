"""Image layouts that a client lends: containerd's content service over the session, as a source of images.

Owns reading blobs from the client. Nothing of what it says is believed: digest and size are verified. Layers are copied
into the store at once, for the client may be gone when they are needed. No path of this machine is ever looked at.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import grpc

from kedge.daemon.sessions.registry import ClientSession
from kedge.daemon.wire import content
from kedge.daemon.wire.calls import Calls
from kedge.model.digest import Digest, hex_part, parse_digest
from kedge.model.errors import (
    Cancelled,
    IntegrityError,
    InvalidDigest,
    InvalidInput,
    NotFound,
    SourceError,
    StoreError,
)
from kedge.model.graph import Snapshot
from kedge.model.image import Descriptor
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.sources.handler import Pin, Work
from kedge.sources.oci_layout import BlobSink, Layout
from kedge.sources.pick import PickedImage, declare_layers, limited, pick_image
from kedge.storage.disk import free_space

if TYPE_CHECKING:
    from kedge.storage.store import Store

STORE_HEADER: Final = "buildkit-attachable-store-id"
_LONGEST_NAME: Final = 256
_DEEPEST: Final = 3  # documents that name documents
_LARGEST_DOCUMENT: Final = 8 << 20
_MOST_BLOBS: Final = 20_000  # of one cache


class LentFiles:
    """The files of a layout whose blobs are in a content store of the client's. There is no index.json in one."""

    def __init__(self, session: ClientSession, store: str) -> None:
        self._calls: Calls = session.calls(content.services["Content"])
        self._metadata = ((STORE_HEADER, store),)

    def open(self, path: str) -> BinaryIO:
        """A blob by its path; raises NotFound."""
        if path == "index.json":
            return io.BytesIO(json.dumps({"schemaVersion": 2, "manifests": []}).encode())
        _, algorithm, hexadecimal = path.split("/")
        return cast(BinaryIO, _Blob(self._calls, self._metadata, parse_digest(f"{algorithm}:{hexadecimal}")))

    def close(self) -> None:
        """Nothing is open between reads."""


class _Blob(io.RawIOBase):
    """A blob's bytes, asked for from the position that was sought; never more than the client said there are."""

    def __init__(self, calls: Calls, metadata: Any, digest: Digest) -> None:
        self._calls, self._metadata, self._digest = calls, metadata, digest
        self._at = 0
        self._answers: Iterator[Any] | None = None
        self._rest = b""
        try:
            self._size = calls.unary("Info", content.InfoRequest(digest=digest), metadata=metadata).info.size
        except grpc.RpcError as error:
            raise _translated(error, digest) from None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._stop()
        self._at = max(0, base + offset)
        return self._at

    def close(self) -> None:
        self._stop()
        super().close()

    def _stop(self) -> None:
        """Ask for no more: the client may be sending."""
        if self._answers is not None:
            cast(Any, self._answers).cancel()
        self._answers, self._rest = None, b""

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        left = max(self._size - self._at, 0)
        size = left if size < 0 else min(size, left)
        if not size:
            return b""
        pieces, have = [self._rest], len(self._rest)
        if self._answers is None:
            request = content.ReadContentRequest(digest=self._digest, offset=self._at)
            self._answers = self._calls.listen("Read", request, metadata=self._metadata)
        try:
            while have < size:
                answer = next(self._answers, None)
                if answer is None:
                    break
                pieces.append(answer.data)
                have += len(answer.data)
        except grpc.RpcError as error:
            raise _translated(error, self._digest) from None
        data = b"".join(pieces)
        taken = data[:size]
        self._rest = data[len(taken) :]
        self._at += len(taken)
        return taken

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class LentLayouts:
    """SourceHandler for oci-layout:// over a session, and `Blobs` of the layouts there; `lender` gives the session by
    its id, "" for the build's own.
    """

    def __init__(self, store: "Store", host: Platform, lender: Callable[[str], ClientSession]) -> None:
        self._store, self._host, self._lender = store, host, lender

    def resolve(self, rest: str, platform: Platform, session: str = "") -> PickedImage:
        """The image for `platform` of `STORE@DIGEST`. Raises NotFound, IntegrityError, InvalidInput."""
        name, _, digest = rest.rpartition("@")
        with self._layout(name, session) as layout:
            image = pick_image(rest, layout.find("", parse_digest(digest)), layout, platform)
            for document in {image.target, image.descriptor}:
                self._store.blobs.put(layout.read(document))
        self._store.blobs.put(image.config_data)
        return image

    def _layout(self, name: str, session: str) -> Layout:
        if not name or len(name) > _LONGEST_NAME or not name.isascii() or not name.isprintable():
            raise InvalidInput(f"{name[:80]!r} names no image layout of the client's")
        return Layout(name, LentFiles(self._lender(session), f"oci:{name}"))

    def pin(self, source: Source, platform: Platform | None, work: Work) -> Pin:
        """The image that a digest names."""
        image = self._resolve(source, platform)
        return Pin(image.key, labels=(("image", f"{image.name}@{image.target.digest}"),))

    def fetch(self, source: Source, platform: Platform | None, pin: Pin, work: Work) -> Snapshot:
        """The image's layers, their bytes in the store."""
        image = self._resolve(source, platform)
        with self._layout(_named(source).rpartition("@")[0], source.attr("oci.session")) as layout:
            for layer in image.manifest.layers:
                work.check()
                if self._store.blobs.has(layer.digest):
                    continue
                with self._store.blobs.writer(layer) as writer:
                    layout.copy(layer, writer, lambda at, whole: None)
                work.status(layer.digest, layer.size, layer.size, done=True)
        return declare_layers(self._store, image, "")

    def find_blob(self, source: Source) -> Descriptor:
        """A blob of a lent layout."""
        name, _, digest = _named(source).rpartition("@")
        with self._layout(name, source.attr("oci.session")) as layout:
            return layout.find_blob(parse_digest(digest))

    def copy_blob(
        self, source: Source, descriptor: Descriptor, writer: BlobSink, progress: Callable[[int, int], None]
    ) -> None:
        """Its bytes, which are believed by their digest only."""
        with self._layout(_named(source).rpartition("@")[0], source.attr("oci.session")) as layout:
            layout.copy(descriptor, writer, progress)

    def _resolve(self, source: Source, platform: Platform | None) -> PickedImage:
        image = self.resolve(_named(source), platform or self._host, source.attr("oci.session"))
        return limited(image, source.attr("oci.layerlimit"))


def _named(source: Source) -> str:
    """STORE@DIGEST of a source; LLB names the store in an attribute, and something readable in the identifier."""
    name, _, digest = source.identifier.partition("://")[2].rpartition("@")
    return f"{source.attr('oci.store') or name}@{digest}"


def _translated(error: grpc.RpcError, digest: Digest) -> Exception:
    if error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
        return Cancelled("the client went away")
    if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN):
        return NotFound(f"the client's image layout has no {digest}")
    return SourceError(f"the client's image layout cannot be read: {(error.details() or '')[:300]}")


# ---- the other way ---------------------------------------------------------------------------------------------------


def send_blobs(session: ClientSession, store: str, directory: Path) -> None:
    """Put every blob of a layout in `directory` into a content store of the client's. Raises KedgeError."""
    if not store.isascii() or not store.isprintable():
        raise InvalidInput(f"the client's store {store[:100]!r} cannot be reached: its name is not printable ASCII")
    calls = session.calls(content.services["Content"])
    metadata = ((STORE_HEADER, store),)
    for path in sorted((directory / "blobs").glob("*/*")):
        digest = f"{path.parent.name}:{path.name}"
        try:
            _send_blob(calls, metadata, digest, path)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise InvalidInput(f"the client could not take the result: {(error.details() or '')[:300]}") from None


def _send_blob(calls: Calls, metadata: Any, digest: str, path: Path) -> None:
    size = path.stat().st_size

    def requests() -> Iterator[Any]:
        common = {"ref": f"kedge-{digest}", "total": size, "expected": digest}
        yield content.WriteContentRequest(action=content.STAT, **common)
        offset = 0
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                yield content.WriteContentRequest(action=content.WRITE, offset=offset, data=data, **common)
                offset += len(data)
        yield content.WriteContentRequest(action=content.COMMIT, offset=offset, **common)

    for answer in calls.stream("Write", requests(), metadata=metadata):
        if answer.action == content.COMMIT:
            return


def receive_layout(session: ClientSession, store: str, root: Digest, directory: Path) -> None:
    """Copy an image or cache, from its root document down, out of a store of the client's. Raises KedgeError."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    kind = _Copy(LentFiles(session, store), blobs).document(root, None, 0)
    size = (blobs / hex_part(root)).stat().st_size
    index = {"schemaVersion": 2, "manifests": [{"mediaType": kind, "digest": root, "size": size}]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


class _Copy:
    """Blobs on their way from the client: as many as a cache may have, each as large as what names it says."""

    def __init__(self, files: LentFiles, blobs: Path) -> None:
        self._files, self._blobs, self._left = files, blobs, _MOST_BLOBS

    def document(self, digest: Digest, size: int | None, depth: int) -> str:
        """Copy a document and what it names; returns its media type. What manifests name is copied unread.

        `size` None: a document by itself.
        """
        path = self._blobs / hex_part(digest)
        if not path.exists():
            self._blob(digest, size, path)
        if depth > _DEEPEST or path.stat().st_size > _LARGEST_DOCUMENT:
            return ""
        kind, named = _read_document(path.read_bytes())
        for one, its_size in named:
            if one.startswith("sha256:"):
                self.document(one, its_size, depth + 1)
        return kind

    def _blob(self, digest: Digest, size: int | None, path: Path) -> None:
        self._left -= 1
        if self._left < 0:
            raise InvalidInput(f"the client's cache has more than {_MOST_BLOBS} blobs")
        most = _LARGEST_DOCUMENT if size is None else size
        if most > free_space(path.parent):
            raise StoreError(f"a blob of the client's cache has {most} bytes, more than there is room for")
        hasher, copied = hashlib.sha256(), 0
        with self._files.open(f"blobs/sha256/{hex_part(digest)}") as source, path.open("wb") as sink:
            while data := source.read(1 << 20):
                copied += len(data)
                if copied > most:
                    break
                hasher.update(data)
                sink.write(data)
        if hasher.hexdigest() != hex_part(digest) or (size is not None and copied != size):
            path.unlink()
            raise IntegrityError(f"{digest} of the client's has other bytes than what names it says")


def _read_document(data: bytes) -> tuple[str, list[tuple[Digest, int]]]:
    """The media type, and what is named with its size; nothing for what is no manifest."""
    try:
        value = json.loads(data)
        named = [*(value.get("manifests") or ()), *(value.get("layers") or ()), *filter(None, [value.get("config")])]
        entries = [one for one in named if isinstance(one, dict) and "digest" in one]
        return str(value.get("mediaType") or ""), [
            (parse_digest(str(one["digest"])), max(int(one["size"]), 0)) for one in entries
        ]
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError, InvalidDigest):
        return "", []
