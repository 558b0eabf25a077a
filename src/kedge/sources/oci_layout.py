"""`oci-layout://`: images in an OCI image layout, a directory or an uncompressed tar of one.

Owns reading a layout (OCI image-layout.md) that nobody vouches for: files are found by validated digest, must be
regular, and are verified as they are read. Does not know how layers are unpacked.
"""

import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from kedge.model.digest import Digest, parse_digest
from kedge.model.errors import IntegrityError, InvalidInput, NotFound, Unsupported
from kedge.model.graph import Snapshot
from kedge.model.image import ANY_BYTES, INDEXES, MANIFESTS, Descriptor, Index, referring
from kedge.model.ops import Source
from kedge.model.platform import Platform, of_machine
from kedge.model.value import dataclass, replace
from kedge.sources.handler import Pin, Work
from kedge.sources.pick import PickedImage, buildkit_names, declare_layers, limited, pick_image
from kedge.storage.blobs import verified

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from kedge.storage.store import Store

_PIECE: Final = 1 << 20
_DOCUMENT_LIMIT: Final = 4 << 20
_CONFIG_LIMIT: Final = 8 << 20
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_FULL_NAME: Final = "io.containerd.image.name"


class _Files(Protocol):
    """The files of a layout by their path inside it; NotFound for a missing one."""

    def open(self, path: str) -> BinaryIO: ...
    def close(self) -> None: ...


class BlobSink(Protocol):
    """Where a blob is copied to: storage's BlobWriter is one."""

    offset: int

    def write(self, data: bytes, /) -> object: ...
    def commit(self) -> object: ...


class Layout:
    """An open image layout: a context manager. Safe for many threads."""

    def __init__(self, name: str, files: _Files) -> None:
        self.name = name
        self._files = files
        self._referring: dict[Digest, dict[Digest, Descriptor]] | None = None

    def index(self) -> Index:
        """What index.json lists. Raises NotFound where there is none, IntegrityError."""
        with self._files.open("index.json") as file:
            data = file.read(_DOCUMENT_LIMIT + 1)
        if len(data) > _DOCUMENT_LIMIT:
            raise IntegrityError(f"index.json of {self.name} has more than {_DOCUMENT_LIMIT} bytes")
        return Index.from_bytes(data)

    def find(self, tag: str = "", digest: Digest | None = None) -> Descriptor:
        """The image of a tag or digest; with neither, `latest` or the only one. Raises NotFound."""
        entries = [entry for entry in self.index().manifests if entry.media_type in MANIFESTS | INDEXES]
        found = [entry for entry in entries if _matches(entry, tag, digest)]
        if not tag and not digest:
            found = [entry for entry in entries if _matches(entry, "latest", None)] or self._images(entries)
        if len({entry.digest for entry in found}) == 1:
            return replace(found[0], annotations=())
        if digest and not found:
            return self._described(digest)
        tags = (
            ", ".join(dict.fromkeys(dict(entry.annotations).get(_REF_NAME, entry.digest) for entry in entries))
            or "none"
        )
        what = f"has no image {tag or digest}" if tag or digest else "holds several images"
        raise NotFound(f"the image layout {self.name} {what}", hint=f"It has: {tags[:1000]}.")

    def _images(self, entries: Sequence[Descriptor]) -> list[Descriptor]:
        """Those that are not only about others."""
        if len(entries) < 2:
            return list(entries)
        about = {digest for each in self._all_referring().values() for digest in each}
        return [entry for entry in entries if entry.digest not in about and not _is_list_of_referrers(entry)]

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        """The manifests that index.json lists, itself or under the tag schema's tag, and that are about `subject`."""
        return tuple(self._all_referring().get(subject, {}).values())

    def _all_referring(self) -> dict[Digest, dict[Digest, Descriptor]]:
        if self._referring is None:
            entries = list(self.index().manifests)
            lists = [entry for entry in entries if _is_list_of_referrers(entry)]
            entries += [one for each in lists for one in Index.from_bytes(self.read(each), each.media_type).manifests]
            found: dict[Digest, dict[Digest, Descriptor]] = {}
            for entry in entries:
                if entry.media_type in MANIFESTS | INDEXES and (about := self._about(entry)):
                    found.setdefault(about[0], {})[entry.digest] = about[1]
            self._referring = found
        return self._referring

    def _about(self, entry: Descriptor) -> tuple[Digest, Descriptor] | None:
        try:
            return referring(entry, self.read(entry))
        except NotFound:
            return None

    def _described(self, digest: Digest) -> Descriptor:
        """A document that index.json does not list itself, such as one platform's manifest."""
        from kedge.model.image import OCI_INDEX, OCI_MANIFEST, media_type_in, strict_json

        with self.open(digest) as file:
            data = file.read(_DOCUMENT_LIMIT)
        value = strict_json(data, str(digest))
        kind = media_type_in(value) or (OCI_INDEX if "manifests" in value else OCI_MANIFEST)
        return Descriptor(kind, digest, len(data))

    def open(self, digest: Digest, offset: int = 0) -> BinaryIO:
        """A blob's bytes from `offset` on, not verified. Raises NotFound."""
        algorithm, _, text = parse_digest(digest).partition(":")
        file = self._files.open(f"blobs/{algorithm}/{text}")
        file.seek(offset)
        return file

    def read(self, descriptor: Descriptor, limit: int = _DOCUMENT_LIMIT) -> bytes:
        """A small blob, verified. Raises NotFound, IntegrityError."""
        if descriptor.size > limit:
            raise IntegrityError(
                f"{descriptor.digest} claims {descriptor.size} bytes; {limit} are the most for its kind"
            )
        return b"".join(self._verified(descriptor))

    manifest = read

    def find_blob(self, digest: Digest) -> Descriptor:
        """A blob that is known by its digest only: how large it is. Raises NotFound."""
        with self.open(digest) as file:
            return Descriptor(ANY_BYTES, digest, file.seek(0, os.SEEK_END))

    def config(self, descriptor: Descriptor) -> bytes:
        return self.read(descriptor, _CONFIG_LIMIT)

    def copy(self, descriptor: Descriptor, sink: BlobSink, progress: Callable[[int, int], None]) -> None:
        """Write a blob's bytes from `sink.offset` on into `sink`, and commit it."""
        with self.open(descriptor.digest, sink.offset) as file:
            while piece := file.read(_PIECE):
                sink.write(piece)
                progress(sink.offset, descriptor.size)
        sink.commit()

    def _verified(self, descriptor: Descriptor) -> Iterator[bytes]:
        with self.open(descriptor.digest) as file:
            yield from verified(file, descriptor, f" in {self.name}")

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> "Layout":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_list_of_referrers(entry: Descriptor) -> bool:
    """Does the entry have the tag of the distribution specification's referrers tag schema?"""
    algorithm, dash, text = dict(entry.annotations).get(_REF_NAME, "").partition("-")
    return entry.media_type in INDEXES and bool(dash) and algorithm in ("sha256", "sha512") and _is_hex(text)


def _is_hex(text: str) -> bool:
    return len(text) >= 64 and not text.strip("0123456789abcdef")


def _matches(entry: Descriptor, tag: str, digest: Digest | None) -> bool:
    if digest:
        return entry.digest == digest
    notes = dict(entry.annotations)
    names = {notes.get(_REF_NAME, ""), notes.get(_FULL_NAME, "")}
    return bool(tag) and (tag in names or any(name.rpartition(":")[2] == tag and "/" in name for name in names))


def open_layout(path: str) -> Layout:
    """The layout at `path`: a directory, or a tar file. Raises NotFound, Unsupported."""
    try:
        if os.path.isdir(path):
            return Layout(path, _Directory(path))
        return Layout(path, _Archive(path))
    except OSError as error:
        raise NotFound(f"cannot read the image layout {path}: {(error.strerror or 'error').lower()}") from None


class _Directory:
    """A layout's directory. Its files may be links to anywhere: what they hold is believed only by digest."""

    def __init__(self, root: str) -> None:
        self._root = root

    def open(self, path: str) -> BinaryIO:
        full = os.path.join(self._root, path)
        try:
            # O_NONBLOCK: a FIFO in the place of a blob must not hold us
            fd = os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise NotFound(f"{self._root} is no whole image layout: {path}: {(error.strerror or '').lower()}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotFound(f"{self._root} is no whole image layout: {path} is no regular file")
        return os.fdopen(fd, "rb")

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int
    size: int


class _Archive:
    """A tar of a layout, read in place: the headers once, blobs by their offset."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise NotFound(f"{path} is neither a directory nor a tar file")
            self._members = _members(self._fd, path)
        except BaseException:
            os.close(self._fd)
            raise

    def open(self, path: str) -> BinaryIO:
        member = self._members.get(path)
        if member is None:
            raise NotFound(f"{self._path} is no whole image layout: it has no {path}")
        return io.BufferedReader(_Slice(os.dup(self._fd), member), _PIECE)

    def close(self) -> None:
        os.close(self._fd)


class _Slice(io.RawIOBase):
    """Some bytes of a file, read with positions of their own."""

    def __init__(self, fd: int, member: _Member) -> None:
        self._fd, self._member, self._at = fd, member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._member.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        room = memoryview(buffer)
        count = min(len(room), max(0, self._member.size - self._at))
        count = os.preadv(self._fd, [room[:count]], self._member.offset + self._at) if count else 0
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


_BLOCK = 512
_MEMBERS = 100_000


def _members(fd: int, path: str) -> dict[str, _Member]:
    """Where each regular file of a tar starts. Only plain headers: the paths of a layout are short, no writer needs
    others.

    A PAX or GNU extension is skipped with its data, so that an entry it renames keeps its short name, which no layout
    uses.
    """
    found: dict[str, _Member] = {}
    at, renamed = 0, False
    for _ in range(_MEMBERS):
        header = os.pread(fd, _BLOCK, at)
        if len(header) < _BLOCK or not header.strip(b"\0"):
            return found
        size = _checked_size(header, path)
        kind = header[156:157]
        if kind in b"0\0" and not renamed:
            prefix = header[345:500].rstrip(b"\0") if header[257:262] == b"ustar" and header[263:265] == b"00" else b""
            name = header[:100].partition(b"\0")[0]
            whole = (prefix + b"/" + name if prefix else name).decode(errors="replace").removeprefix("./")
            found[whole] = _Member(at + _BLOCK, size)
        renamed = kind in b"L" or (kind == b"x" and b" path=" in os.pread(fd, min(size, 1 << 16), at + _BLOCK))
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    raise IntegrityError(f"{path} has more than {_MEMBERS} entries: no image layout")


def _checked_size(header: bytes, path: str) -> int:
    try:
        stated = int(header[148:156].strip(b" \0") or b"0", 8)
        if header[124] & 0x80:  # base-256, for files over 8 GiB
            size = int.from_bytes(bytes([header[124] & 0x7F]) + header[125:136], "big")
        else:
            size = int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        stated, size = -1, -1
    if stated != sum(header[:148]) + 8 * 0x20 + sum(header[156:]) or not 0 <= size < 1 << 60:
        if header[:2] == b"\x1f\x8b" or header[:4] == b"\x28\xb5\x2f\xfd" or header[:6] == b"\xfd7zXZ\0":
            raise Unsupported(f"{path} is compressed", hint="Uncompress it first: an image layout is read in place.")
        raise IntegrityError(f"{path} is no tar file, or a damaged one")
    return size


# ---- the source ------------------------------------------------------------------------------------------------------


class OciLayoutSource:
    """SourceHandler for oci-layout://PATH[:TAG][@DIGEST]. `open` finds the layout that the client calls PATH."""

    def __init__(
        self, store: "Store", host: Platform | None = None, open: Callable[[str], Layout] | None = None
    ) -> None:
        self._store, self._host, self._open = store, host or of_machine(os.uname().machine), open or open_layout

    def resolve(self, rest: str, platform: Platform) -> PickedImage:
        """The image for `platform` that `rest`, the part behind `//`, names. Raises NotFound, IntegrityError."""
        path, tag, digest = split_layout_name(rest)
        with self._open(path) as layout:
            image = pick_image(rest, layout.find(tag, digest), layout, platform)
            for document in {image.target, image.descriptor}:
                self._store.blobs.put(layout.read(document))
        self._store.blobs.put(image.config_data)
        return image

    def pin(self, source: Source, platform: Platform | None, work: Work) -> Pin:
        image = self._image(source, platform)
        return Pin(
            image.key,
            labels=(("image", f"{image.name}@{image.target.digest}"),),
            buildkit=buildkit_names(image, platform or self._host),
        )

    def fetch(self, source: Source, platform: Platform | None, pin: Pin, work: Work) -> Snapshot:
        rest = source.identifier.partition("://")[2]
        path = os.path.abspath(split_layout_name(rest)[0])
        return declare_layers(self._store, self._image(source, platform), f"oci-layout://{path}")

    def _image(self, source: Source, platform: Platform | None) -> PickedImage:
        image = self.resolve(source.identifier.partition("://")[2], platform or self._host)
        return limited(image, source.attr("oci.layerlimit"))


def split_layout_name(rest: str) -> tuple[str, str, Digest | None]:
    """Path, tag and digest of `PATH[:TAG][@DIGEST]`; a path that exists as it is has no tag. Raises InvalidInput."""
    path, at, text = rest.partition("@sha")
    digest = parse_digest("sha" + text) if at else None
    tag = ""
    if not os.path.exists(path):
        before, colon, after = path.rpartition(":")
        if colon and "/" not in after:
            path, tag = before, after
    if not path:
        raise InvalidInput(f"{rest[:200]!r} names no image layout")
    return path, tag, digest
