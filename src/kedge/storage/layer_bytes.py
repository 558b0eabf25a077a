"""Layers as bytes: their tars, diff ids and blobs, made once on demand and remembered.

Owns the choice between what came with a layer, what was made before and what must be made. Does not know framing
(`packing`), tar (`tar_write`) or how directories come about.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.model.digest import Digest
from kedge.model.errors import NotFound
from kedge.model.graph import Layer
from kedge.model.image import COMPRESSION_OF, OCI_LAYER, Descriptor
from kedge.storage.blobs import BlobStore
from kedge.storage.layer_records import LayerInfo, LayerRecords, tar_form
from kedge.storage.locks import Locks
from kedge.storage.unpacking import Progress, Unpacker, verified

if TYPE_CHECKING:
    from kedge.storage.packing import Compression, Packer, Writable

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

    def diff_id(self, layer: Layer, clamp: int | None, progress: Progress | None) -> tuple[Digest, int]:
        from kedge.storage.packing import Packer

        if made := self._known_tar(self._records.info(layer), clamp):
            return made
        with self._locks.held(f"form:{layer}:{tar_form(clamp)}"):
            info = self._records.info(layer)
            if made := self._known_tar(info, clamp):
                return made
            with Packer(None, "uncompressed", None) as packer:
                self._feed(info, packer, clamp, progress)
            self._records.remember_forms(layer, _tar(packer, clamp if not info.sources else None))
        return packer.digest, packer.size

    def blob(
        self,
        layer: Layer,
        compression: "Compression",
        level: int | None,
        clamp: int | None,
        force: bool,
        progress: Progress | None,
    ) -> Descriptor:
        from kedge.storage.packing import check_level

        check_level(compression, level)
        info = self._records.info(layer)
        if came := _came_as(info, compression, force):
            return came
        clamp = None if info.sources else clamp
        form = _form(compression, level, clamp)
        with self._locks.held(f"form:{layer}:{form}"):
            made = self._records.form(layer, form)
            if made and self._blobs.has(made.digest):
                return made
            return self._make(info, compression, level, clamp, progress)

    def fetch_blob(self, descriptor: Descriptor, progress: Progress | None) -> None:
        if self._blobs.has(descriptor.digest):
            return
        for layer, form in self._records.forms_of_blob(descriptor.digest):
            if self._remake(layer, form, descriptor.digest, progress):
                return
        sources = [pair for pair in self._records.sources_of_blob(descriptor.digest) if pair[1]]
        if not sources:
            raise NotFound(f"the store has no blob {descriptor.digest}, and nowhere to fetch it from")
        self._unpacker.have(*sources[-1], progress)

    def write_tar(self, layer: Layer, out: "Writable", clamp: int | None) -> None:
        from kedge.storage.packing import Packer

        with Packer(out, "uncompressed", None) as packer:
            self._feed(self._records.info(layer), packer, clamp, None)

    # ---- making ------------------------------------------------------------------------------------------------------

    def _known_tar(self, info: LayerInfo, clamp: int | None) -> tuple[Digest, int] | None:
        declared = bool(info.sources)
        if declared and info.diff_id and info.size is not None:
            return info.diff_id, info.size
        made = self._records.form(info.id, tar_form(None if declared else clamp))
        return (made.digest, made.size) if made else None

    def _make(
        self,
        info: LayerInfo,
        compression: "Compression",
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

    def _remake(self, layer: Layer, form: str, digest: Digest, progress: Progress | None) -> bool:
        kind, level, clamp = (*form.split(":"), "")[:3] if not form.startswith("tar:") else ("tar", "", form[4:])
        compression: Compression = "zstd" if kind == "zstd" else "gzip" if kind == "gzip" else "uncompressed"
        number = int(level) if level else None
        self._make(self._records.info(layer), compression, number, int(clamp) if clamp else None, progress)
        return self._blobs.has(digest)

    def _feed(self, info: LayerInfo, packer: "Packer", clamp: int | None, progress: Progress | None) -> None:
        """Give the layer's tar to `packer`: the one it came as, byte for byte, or one written from its directory."""
        total = info.size or 0

        def report(done: int) -> None:
            if progress:
                progress("packing", info.diff_id or Digest(""), done, total)

        if info.sources:
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


def _form(compression: "Compression", level: int | None, clamp: int | None) -> str:
    """The name of a form, which also says how to make it again: see `_remake`."""
    return f"{compression}:{'' if level is None else level}:{'' if clamp is None else clamp}"


def _came_as(info: LayerInfo, compression: "Compression", force: bool) -> Descriptor | None:
    """The blob a declared layer came as, if that will do."""
    for descriptor, _ in info.sources:
        if not force or COMPRESSION_OF.get(descriptor.media_type) == compression:
            return descriptor
    return None
