"""Layers as bytes: their tars, diff ids and blobs, made once on demand and remembered.

Owns the choice between what came with a layer, what was made before and what must be made. Does not know framing
(`packing`), tar (`tar_write`) or how directories come about.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

from kedge.model.digest import Digest
from kedge.model.errors import KedgeError
from kedge.model.graph import Layer
from kedge.model.image import COMPRESSION_OF, OCI_LAYER, OCI_LAYER_GZIP, Descriptor
from kedge.model.value import dataclass, replace
from kedge.storage.blobs import BlobStore
from kedge.storage.layer_records import LayerInfo, LayerRecords, tar_form
from kedge.storage.locks import Locks
from kedge.storage.unpacking import Progress, Unpacker, verified

if TYPE_CHECKING:
    from kedge.storage.packing import Packer, Writable

Compression: TypeAlias = Literal["gzip", "zstd", "uncompressed"]
_CHUNK = 1 << 20


# The forms that an eStargz layer is remembered by: its blob, its tar, which has the table in it, and the table.
_ESTARGZ = ("estargz", "estargz-tar", "estargz-toc")


@dataclass(frozen=True, slots=True)
class Estargz:
    """A layer in eStargz form: its blob, digest and size of its own tar, and the digest of its table of contents."""

    blob: Descriptor
    diff_id: Digest
    size: int
    toc: Digest

    @property
    def descriptor(self) -> Descriptor:
        """The blob, with the annotations by which lazy readers know the form and check the table."""
        notes = {
            "containerd.io/snapshot/stargz/toc.digest": str(self.toc),
            "io.containers.estargz.uncompressed-size": str(self.size),
        }
        return replace(self.blob, annotations=tuple(notes.items()))


class LayerBytes:
    """See LayerStore's methods of the same names."""

    def __init__(self, records: LayerRecords, unpacker: Unpacker, blobs: BlobStore, locks: Locks) -> None:
        self._records, self._unpacker, self._blobs, self._locks = records, unpacker, blobs, locks
        unpacker.remake = self.remake

    def diff_id(self, layer: Layer, clamp: int | None, progress: Progress | None) -> tuple[Digest, int]:
        if made := self._known_tar(layer, clamp):
            return made
        from kedge.storage.packing import Packer

        with self._locks.held(f"form:{layer}:{tar_form(clamp)}"):
            if made := self._known_tar(layer, clamp):
                return made
            with Packer(None, "uncompressed", None) as packer:
                self._feed(self._records.info(layer), packer, clamp, progress)
            self._records.remember_forms(layer, _tar(packer, clamp))
        return packer.digest, packer.size

    def knows_diff_id(self, layer: Layer, clamp: int | None) -> bool:
        return self._known_tar(layer, clamp) is not None

    def blob(
        self,
        layer: Layer,
        compression: Compression,
        level: int | None,
        clamp: int | None,
        force: bool,
        progress: Progress | None,
    ) -> Descriptor:
        from kedge.storage.packing import check_level

        check_level(compression, level)
        info = self._records.info(layer)
        if info.declared:
            clamp = None
            if came := _came_as(info, compression, force):
                return came
        form = _form(compression, level, clamp)
        with self._locks.held(f"form:{layer}:{form}"):
            made = self._records.form(layer, form)
            if made and self._blobs.has(made.digest):
                return made
            return self._make(info, compression, level, clamp, progress)

    def estargz(self, layer: Layer, level: int | None, clamp: int | None, progress: Progress | None) -> Estargz:
        from kedge.storage.packing import check_level

        check_level("gzip", level)
        info = self._records.info(layer)
        if info.declared:
            clamp = None
        form = f"{'' if level is None else level}:{'' if clamp is None else clamp}"
        with self._locks.held(f"form:{layer}:estargz:{form}"):
            blob, plain, toc = (self._records.form(layer, f"{part}:{form}") for part in _ESTARGZ)
            if not (blob and plain and toc and self._blobs.has(blob.digest)):
                blob, plain, toc = self._make_estargz(info, level, clamp, form, progress)
        return Estargz(blob, plain.digest, plain.size, toc.digest)

    def _make_estargz(
        self, info: LayerInfo, level: int | None, clamp: int | None, form: str, progress: Progress | None
    ) -> tuple[Descriptor, Descriptor, Descriptor]:
        """Write the form from the layer's tar, which comes through a pipe from a thread of its own."""
        from concurrent.futures import ThreadPoolExecutor

        from kedge.storage.estargz import write_estargz
        from kedge.storage.packing import Packer

        read, write = os.pipe()

        def feed() -> None:
            with open(write, "wb", buffering=_CHUNK) as pipe, Packer(pipe, "uncompressed", None) as packer:
                self._feed(info, packer, clamp, progress)

        with self._blobs.writer() as writer, ThreadPoolExecutor(1, "kedge-estargz") as pool:
            with open(read, "rb", buffering=_CHUNK) as stream:
                feeding = pool.submit(feed)
                try:
                    written = write_estargz(stream, writer, level)
                    while stream.read(_CHUNK):
                        pass
                except KedgeError:
                    stream.close()  # a feed that nobody reads ends with it
                    with suppress(BrokenPipeError):
                        feeding.result()  # what went wrong first
                    raise
            feeding.result()
            size = writer.offset
            made = Descriptor(OCI_LAYER_GZIP, writer.commit(), size)
        plain = Descriptor(OCI_LAYER, written.diff_id, written.size)
        toc = Descriptor("application/json", written.toc, written.toc_size)
        forms = {f"{part}:{form}": one for part, one in zip(_ESTARGZ, (made, plain, toc), strict=True)}
        self._records.remember_forms(info.id, forms)
        return made, plain, toc

    def packed(
        self, digest: Digest, compression: Compression, level: int | None, progress: Progress | None
    ) -> Descriptor | None:
        for layer, clamp in self._records.tars_of(digest):
            return self.blob(layer, compression, level, clamp, True, progress)
        layer_ = self._records.find(digest)
        return self.blob(layer_, compression, level, None, True, progress) if layer_ else None

    def fetch_blob(self, descriptor: Descriptor, progress: Progress | None) -> None:
        if self._blobs.has(descriptor.digest):
            return
        sources = self._records.sources_of_blob(descriptor.digest) or [(descriptor, "")]
        best = max(sources, key=lambda source: bool(source[1]))
        self._unpacker.have(best[0], best[1], progress)

    def write_tar(self, layer: Layer, out: "Writable", clamp: int | None) -> None:
        from kedge.storage.packing import Packer

        with Packer(out, "uncompressed", None) as packer:
            self._feed(self._records.info(layer), packer, clamp, None)

    # ---- making ------------------------------------------------------------------------------------------------------

    def _known_tar(self, layer: Layer, clamp: int | None) -> tuple[Digest, int] | None:
        info = self._records.info(layer)
        if info.declared and info.diff_id:
            return info.diff_id, _size_of(info)
        made = self._records.form(layer, tar_form(clamp))
        return (made.digest, made.size) if made else None

    def _make(
        self,
        info: LayerInfo,
        compression: Compression,
        level: int | None,
        clamp: int | None,
        progress: Progress | None,
    ) -> Descriptor:
        from kedge.storage.packing import MEDIA_TYPES, Packer

        with self._blobs.writer() as writer, Packer(writer, compression, level) as packer:
            self._feed(info, packer, clamp, progress)
            size = writer.offset
            made = Descriptor(MEDIA_TYPES[compression], writer.commit(), size)
        self._records.remember_forms(info.id, _tar(packer, clamp) | {_form(compression, level, clamp): made})
        return made

    def remake(self, digest: Digest) -> bool:
        """Make a blob that was made of a layer before, and is gone; False when that cannot be done."""
        for layer, form in self._records.forms_of_blob(digest):
            info = self._records.info(layer)
            kind, _, rest = form.partition(":")
            if kind == _ESTARGZ[0]:
                level, _, clamp = rest.partition(":")
                self._make_estargz(info, _number(level), _number(clamp), rest, None)
            elif info.ready and not info.declared and kind not in _ESTARGZ:
                self._make(info, *_parse_form(form), None)
            if self._blobs.has(digest):
                return True
        return False

    def _feed(self, info: LayerInfo, packer: "Packer", clamp: int | None, progress: Progress | None) -> None:
        """Give the layer's tar to `packer`: the one it came as, byte for byte, or one written from its directory."""
        total = info.size or 0

        def report(done: int) -> None:
            if progress:
                progress("packing", info.diff_id or Digest(""), done, total)

        if info.declared:
            self._feed_original(info, packer, report, progress)
        else:
            from kedge.storage.tar_write import TarOptions, write_tar

            self._records.use([info.id])  # what was made here is there, and stays while it is used
            write_tar(self._records.directory(info.id), packer, TarOptions(clamp=clamp), report)
        packer.finish()

    def _feed_original(
        self, info: LayerInfo, packer: "Packer", report: Callable[[int], None], progress: Progress | None
    ) -> None:
        descriptor = self._unpacker.have_any(info, progress)
        with self._blobs.open(descriptor.digest) as blob, verified(blob, descriptor) as stream:
            while data := stream.read(_CHUNK):
                packer.write(data)
                report(stream.size)
            stream.finish(info.diff_id)


def _tar(packer: "Packer", clamp: int | None) -> dict[str, Descriptor]:
    return {tar_form(clamp): Descriptor(OCI_LAYER, packer.digest, packer.size)}


def _form(compression: Compression, level: int | None, clamp: int | None) -> str:
    """The name of a form, which also says how to make it again: see `_remake`."""
    return f"{compression}:{'' if level is None else level}:{'' if clamp is None else clamp}"


def _parse_form(form: str) -> tuple[Compression, int | None, int | None]:
    kind, level, clamp = form.split(":") if form.count(":") == 2 else ("uncompressed", "", form.partition(":")[2])
    compression: Compression = "gzip" if kind == "gzip" else "zstd" if kind == "zstd" else "uncompressed"
    return compression, _number(level), _number(clamp)


def _number(text: str) -> int | None:
    return int(text) if text else None


def _size_of(info: LayerInfo) -> int:
    """The size of a declared layer's tar, -1 while nobody knows it."""
    plain = (blob.size for blob, _ in info.sources if COMPRESSION_OF.get(blob.media_type) == "uncompressed")
    return info.size if info.size is not None else next(plain, -1)


def _came_as(info: LayerInfo, compression: Compression, force: bool) -> Descriptor | None:
    """The blob a declared layer came as, if that will do."""
    for descriptor, _ in info.sources:
        if not force or COMPRESSION_OF.get(descriptor.media_type) == compression:
            return descriptor
    return None
