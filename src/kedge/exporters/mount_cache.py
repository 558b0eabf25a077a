"""Sending cache mounts elsewhere: `--cache-mount-to`.

Owns compressing packs, sending those that the place lacks, several at once, and the manifest. Does not know what is in
a pack (`storage.mount_packs`).
"""

import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

from kedge.exporters.cache import CachePlace, put_bytes
from kedge.exporters.image import Steps
from kedge.model.digest import sha256
from kedge.model.errors import Cancelled
from kedge.model.image import OCI_MANIFEST, Descriptor, Manifest, canonical_json
from kedge.sources.mount_cache import MOUNT_ARTIFACT, MOUNT_CONFIG, MOUNT_INDEX, MOUNT_PACK
from kedge.storage.mount_packs import MountPacker

_WORKERS: Final = 4
_IN_FLIGHT: Final = 8  # packs in memory


def send_mount(directory: Path, id: str, place: CachePlace, work: Steps, stop: threading.Event) -> Descriptor:
    """Send the directory's files, without packs that are there already. Returns the manifest's descriptor."""
    packer = MountPacker(directory)
    started, sent, packs = time.time(), 0, list[Descriptor]()

    def put(data: bytes) -> Descriptor:
        nonlocal sent
        compressed = _compressed(data)
        descriptor = Descriptor(MOUNT_PACK, sha256(compressed), len(compressed))
        if stop.is_set():
            raise Cancelled("the cache mount's export was given up")
        put_bytes(place, descriptor, compressed)
        sent += len(data)
        work.status(f"sending cache mount {id}", sent, started=started)
        return descriptor

    with ThreadPoolExecutor(_WORKERS, "cache-mount") as pool:
        jobs: list[Future[Descriptor]] = []
        for data in packer.packs():
            running = [job for job in jobs if not job.done()]
            if len(running) >= _IN_FLIGHT:
                wait(running, return_when=FIRST_COMPLETED)
            jobs.append(pool.submit(put, data))
        packs = [job.result() for job in jobs]
    packer.index.packs = [pack.digest for pack in packs]
    index_data, config_data = _compressed(packer.index.to_bytes()), canonical_json({"id": id})
    index = Descriptor(MOUNT_INDEX, sha256(index_data), len(index_data))
    config = Descriptor(MOUNT_CONFIG, sha256(config_data), len(config_data))
    put_bytes(place, index, index_data)
    put_bytes(place, config, config_data)
    layers = (index, *dict.fromkeys(packs))
    data = Manifest(config, layers, OCI_MANIFEST, artifact_type=MOUNT_ARTIFACT).to_bytes()
    root = Descriptor(OCI_MANIFEST, sha256(data), len(data))
    place.publish(root, data)
    work.status(f"sending cache mount {id}", sent, sent, started=started, done=True)
    return root


def _compressed(data: bytes) -> bytes:
    """One frame, always the same for the same bytes."""
    import zstandard

    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)
