"""Writing a cache into a bucket of an S3-compatible store: `--cache-to type=s3`.

Owns what BuildKit's S3 cache adds to the document (each layer's type, diff id and size) and which objects are sent.
Does not know the library behind them (`sources.s3_cache`).
"""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kedge.exporters.cache import UNCOMPRESSED, CacheTarget, Packed
from kedge.exporters.image import Steps
from kedge.exporters.places import StoreReader
from kedge.model.digest import Digest
from kedge.model.errors import Cancelled
from kedge.model.image import Descriptor
from kedge.model.value import replace
from kedge.sources.s3_cache import Bucket, S3Options, read_options

if TYPE_CHECKING:
    from kedge.storage.store import Store


def send_s3(store: "Store", packed: Packed, target: CacheTarget, work: Steps, stop: threading.Event) -> None:
    """Send the objects that the bucket lacks, several at once, then the document under each name."""
    options = read_options(target.attributes)
    bucket = Bucket(options)
    unique = sorted({blob.digest: blob for blob in packed.layers}.values(), key=lambda blob: blob.size, reverse=True)
    with ThreadPoolExecutor(options.parallel, "cache-s3") as pool:
        jobs = [pool.submit(_put, store, bucket, options, blob, work, stop) for blob in unique]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            stop.set()
            raise
    pairs = zip(packed.document.layers, packed.layers, strict=True)
    layers = tuple(
        replace(layer, media_type=blob.media_type, diff_id=Digest(dict(blob.annotations)[UNCOMPRESSED]), size=blob.size)
        for layer, blob in pairs
    )
    data = replace(packed.document, layers=layers).to_bytes()
    for name in options.names:
        bucket.write(options.manifest_key(name), io.BytesIO(data), lambda count: None)


def _put(
    store: "Store", bucket: Bucket, options: S3Options, blob: Descriptor, work: Steps, stop: threading.Event
) -> None:
    started, title, sent = time.time(), f"writing layer {blob.digest}", 0
    if stop.is_set():
        raise Cancelled("the cache's export was given up")

    def progress(count: int) -> None:
        nonlocal sent
        if stop.is_set():
            raise Cancelled("the cache's export was given up")
        sent += count
        work.status(title, sent, blob.size, started=started)

    key = options.blob_key(blob.digest)
    if bucket.size(key) != blob.size:
        with StoreReader(store).open(replace(blob, annotations=())) as stream:
            bucket.write(key, stream, progress)
    work.status(title, blob.size, blob.size, started=started, done=True)
