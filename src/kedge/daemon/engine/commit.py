"""An image of what a container has become: `POST /commit`.

Owns the layer of its writes, and the config that its own makes of its image's. Does not know how images are written.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from kedge.containers.supervised import Supervised
from kedge.daemon.engine.containers import described, layers_of, look_up
from kedge.daemon.engine.describe import config_of
from kedge.daemon.engine.fields import Fields
from kedge.daemon.engine.routes import Call
from kedge.exporters.assemble import Stage
from kedge.exporters.image import export_image
from kedge.exporters.options import ImageOptions
from kedge.images.changes import changed
from kedge.images.lookup import StoredImage
from kedge.model.digest import digest_of
from kedge.model.errors import Conflict, InvalidInput, StoreError
from kedge.model.graph import Layer
from kedge.model.image import OCI_LAYER, Descriptor, History, ImageConfig
from kedge.model.reference import parse_reference
from kedge.model.value import replace
from kedge.sources.handler import Work
from kedge.storage.store import Store
from kedge.storage.tar_write import TarOptions, write_tar

if TYPE_CHECKING:
    from kedge.daemon.engine.service import Engine

_KEPT: Final = (  # of a container's Config
    "User ExposedPorts Env Entrypoint Cmd Volumes WorkingDir Labels StopSignal Healthcheck OnBuild Shell".split()
)


def commit(call: Call) -> None:
    engine = call.engine
    if not call.query("container"):
        raise InvalidInput("no container is named")
    one = look_up(engine, call.query("container"))
    name, tag = call.query("repo"), call.query("tag")
    names = (parse_reference(f"{name}:{tag}" if tag else name),) if name else ()
    if any(each.digest for each in names):
        raise InvalidInput(f"refusing to create a tag with a digest reference: {name[:200]}")
    with engine.store() as store, _still(engine, one, call.flag("pause", default=True)):
        image, snapshot, _ = layers_of(store, one)
        config = changed(_config(engine, one, image, call.fields), call.queries("changes"))
        entry = History(" ".join(one.record.command), call.query("comment"), author=call.query("author"))
        config = replace(config, author=call.query("author"), history=(*image.config.history, entry))
        layer = _layer(store, one)
        stage = Stage(config, (*snapshot, layer), base=image.config, epoch=int(time.time()))
        made = export_image(store, [stage], ImageOptions(names=names), Work(digest_of(("commit", one.record.id))))
    engine.supervisor.tell(one, "commit", {"comment": call.query("comment")})
    for each in names:
        engine.events.tell("image", "tag", made.id, {"name": each.familiar})
    call.exchange.json(201, {"Id": made.id})


@contextmanager
def _still(engine: "Engine", one: Supervised, wanted: bool) -> Iterator[None]:
    """Nothing of it moves meanwhile: what is read is what it was at one instant."""
    if not wanted or not one.running or one.frozen is not None:
        yield
        return
    engine.supervisor.pause(one)
    try:
        yield
    finally:
        with suppress(Conflict):  # somebody let it go on, or it has ended
            engine.supervisor.unpause(one)


def _layer(store: Store, one: Supervised) -> Layer:
    """What it wrote, as the image's topmost layer; kept as a blob, as an imported one."""
    try:
        with store.blobs.writer() as writer:
            size = write_tar(one.container.upper, writer, TarOptions(layer=True)).bytes
            digest = writer.commit()
    except StoreError as error:
        if one.running and one.frozen is None:
            error.hint = error.hint or "Leave out --pause=false"
        raise
    layer = store.layers.declare(digest, Descriptor(OCI_LAYER, digest, size))
    store.layers.directory(layer)
    return layer


def _config(engine: "Engine", one: Supervised, image: StoredImage, body: Fields) -> ImageConfig:
    """The container's config, with what the body says in its place."""
    own: dict[str, Any] = config_of(engine, one, described(one))
    own |= {key: value for key, value in body.raw.items() if value}
    platform = image.config.platform
    document = {
        "architecture": platform.architecture,
        "os": platform.os,
        "variant": platform.variant,
        "config": {key: own[key] for key in _KEPT if own.get(key) is not None},
    }
    return ImageConfig.from_bytes(json.dumps(document).encode())
