"""Layers as bytes: their tars, diff ids and blobs, made once on demand and remembered.

Owns the choice between what came with a layer, what was made before and what must be made. Does not know framing
(`packing`), tar (`tar_write`) or how directories come about.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from kedge.model.digest import Digest
from kedge.model.graph import Layer
from kedge.model.image import COMPRESSION_OF, OCI_LAYER, Descriptor
from kedge.storage.blobs import BlobStore
from kedge.storage.layer_records import LayerInfo, LayerRecords, tar_form
from kedge.storage.locks import Locks
from kedge.storage.unpacking import Progress, Unpacker, verified

if TYPE_CHECKING:
    from kedge.storage.packing import Packer, Writable

Compression: TypeAlias = Literal["gzip", "zstd", "uncompressed"]
_CHUNK = 1 << 20


class LayerBytes:
    """See LayerStore's methods of the same names. `directory(layer, progress)` makes a layer ready."""

    def __init__(
        self,
        records: LayerRecords,
        unpacker: Unpacker,
        blobs: BlobStore,
        locks: Locks,
        directory: Callable[[Layer, Progress | None], Path],
    ) -> None:
        self._records, self._unpacker, self._blobs, self._locks = records, unpacker, blobs, locks
        self._directory = directory
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
            if info.ready and not info.declared:
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

            write_tar(self._directory(info.id, progress), packer, TarOptions(clamp=clamp), report)
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
    return compression, int(level) if level else None, int(clamp) if clamp else None


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
