"""Containers of the service: create, start, stop, wait, remove.

Owns these calls (Docker Engine API, Container) and the settings file in a container's home: the client's own
description, from which every start begins again. What a container is belongs to `kedge.containers`.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.containers.launching import Care, launch_of
from kedge.containers.request import ContainerRequest, claim_volumes, command_line
from kedge.containers.supervised import Launch, Supervised, signal_number
from kedge.daemon.engine.create import read_care, read_request
from kedge.daemon.engine.fields import Fields
from kedge.daemon.engine.images import found, read_platform
from kedge.daemon.engine.routes import Call
from kedge.daemon.engine.warnings import allowed, granted_limits, warnings_of
from kedge.images.lookup import StoredImage, find, read_image, snapshot_of
from kedge.model.errors import Conflict, InvalidInput, KedgeError, NotFound, StoreError, Unsupported
from kedge.model.graph import Snapshot
from kedge.model.image import Descriptor
from kedge.model.value import dataclass
from kedge.storage.images import ImageRecord
from kedge.storage.store import Store

if TYPE_CHECKING:
    from kedge.daemon.engine.service import Engine

_SETTINGS, _TARGET = "settings.json", "target.json"
NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Described:
    """A container with its settings: the client's own words, and what they ask for."""

    one: Supervised
    body: Fields
    request: ContainerRequest
    care: Care


def known(call: Call, name: str = "id") -> Supervised:
    """The container that the path names. Raises NotFound in Docker's words."""
    return look_up(call.engine, call[name])


def look_up(engine: "Engine", text: str) -> Supervised:
    try:
        return engine.supervisor.find(text)
    except NotFound as error:
        if "several" in error.message:
            raise
        raise NotFound(f"No such container: {text[:200]}") from None


def described(one: Supervised) -> Described:
    """A container with its settings; one of `kedge run` has none."""
    try:
        data = (one.container.home / _SETTINGS).read_bytes()
    except OSError:
        data = b""
    body = Fields.parse(data)
    return Described(one, body, read_request(body), read_care(body))


def keep_settings(one: Supervised, body: Fields) -> None:
    """Write down the client's description."""
    _keep(one.container.home / _SETTINGS, body.raw)


# ---- create ----------------------------------------------------------------------------------------------------------


def create(call: Call) -> None:
    body, engine = call.fields, call.engine
    text = body.text("Image")
    if not text:
        raise InvalidInput("no image is named")
    request, care = read_request(body), read_care(body)
    allowed(engine, request)
    signal_number(care.stop_signal or "SIGTERM")
    for each in request.volumes:
        if not each.made and not each.source.exists():
            raise InvalidInput(
                f'invalid mount config for type "bind": bind source path does not exist: {str(each.source)[:300]}'
            )
    with engine.store() as store:
        image = found(engine, store, text, read_platform(call.query("platform")))
        command = command_line(image.config, request)
        auto_remove = body.object("HostConfig").flag("AutoRemove")
        one = engine.supervisor.create(text, image.id, command, call.query("name").removeprefix("/"), auto_remove)
        try:
            _keep(one.container.home / _TARGET, image.descriptor.to_json())
            keep_settings(one, Fields(body.raw | _inherited(body, image)))
            snapshot = snapshot_of(store, image)
            claim_volumes(
                engine.supervisor.volumes, one.container, request, image.config, lambda: store.layers.mounted(snapshot)
            )
        except BaseException:
            engine.supervisor.remove(one, force=True, volumes=True)
            raise
    engine.supervisor.tell(one, "create", {})
    one.size = read_size(body)
    call.exchange.json(201, {"Id": one.record.id, "Warnings": warnings_of(request)})


def _inherited(body: Fields, image: StoredImage) -> dict[str, Any]:
    """What a container has of its image besides what it runs: Docker's `docker ps` filters by these."""
    config = image.config
    ports: dict[str, Any] = {port: {} for port in config.exposed_ports}
    return {
        "Labels": dict(config.labels) | body.mapping("Labels"),
        "ExposedPorts": ports | body.object("ExposedPorts").raw or None,
    }


def read_size(body: Fields) -> tuple[int, int] | None:
    """A terminal's rows and columns: HostConfig's ConsoleSize, or a body's own."""
    size = body.raw.get("ConsoleSize") or body.object("HostConfig").raw.get("ConsoleSize")
    if isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and 0 < n < 1 << 16 for n in size):
        return size[0], size[1]
    return None


def _keep(path: Path, value: Any) -> None:
    try:
        path.write_text(json.dumps(value))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None


def image_of(store: Store, one: Supervised) -> StoredImage:
    """The image that a container stands on, though it may have lost its names. Raises NotFound."""
    record = one.record
    try:
        target = Descriptor.from_json(json.loads((one.container.home / _TARGET).read_bytes()))
    except (OSError, ValueError):
        raise NotFound(f"container {record.name} was not made by this service") from None
    name = record.image
    with suppress(KedgeError):
        name = find(store, record.image).name
    return read_image(store, ImageRecord(name, target, target.digest, record.created), target)


def layers_of(store: Store, one: Supervised) -> tuple[StoredImage, Snapshot, tuple[Path, ...]]:
    """A container's image, and its layers as directories, fetched if they are not here yet."""
    image = image_of(store, one)
    snapshot = snapshot_of(store, image)
    return image, snapshot, store.layers.directories(snapshot)


# ---- running ---------------------------------------------------------------------------------------------------------


def start(call: Call) -> None:
    one = known(call)
    if one.running:
        call.exchange.send(304)
        return
    start_one(call.engine, one)
    call.exchange.send(204)


def start_one(engine: "Engine", one: Supervised) -> None:
    """Start a container by its settings. Raises what `Supervisor.start` raises."""
    if one.record.state == "running":
        raise Conflict(f"container {one.record.name} runs already, outside of this service")
    try:
        with engine.store() as store:
            launch = prepare(engine, store, one)
        engine.supervisor.start(one, launch)
    except BaseException:
        if not one.alive:
            engine.supervisor.not_started(one)
        raise


def prepare(engine: "Engine", store: Store, one: Supervised) -> Launch:
    """All that a container's start needs."""
    asked = described(one)
    image, snapshot, lowers = layers_of(store, one)
    allowed(engine, asked.request)
    request = granted_limits(asked.request)
    return launch_of(store, one.container, image.config, snapshot, lowers, request, asked.care)


def start_again(engine: "Engine") -> None:
    """Containers whose policy wants them to run whenever the service does."""
    for record in engine.supervisor.list():
        with suppress(KedgeError):
            one = engine.supervisor.of(record)
            policy = described(one).care.restart.name
            ended = record.state == "exited" and not record.auto_remove
            if ended and (policy == "always" or (policy == "unless-stopped" and not record.stopped)):
                start_one(engine, one)


def _stop(call: Call, one: Supervised) -> bool:
    number = signal_number(call.query("signal")) if call.query("signal") else one.stop_signal
    patience = call.number("t", described(one).body.number("StopTimeout", 10))
    return call.engine.supervisor.stop(one, number, patience)


def stop(call: Call) -> None:
    call.exchange.send(204 if _stop(call, known(call)) else 304)


def restart(call: Call) -> None:
    one = known(call)
    _stop(call, one)
    start_one(call.engine, one)
    call.exchange.send(204)


def kill(call: Call) -> None:
    one = known(call)
    number = signal_number(call.query("signal") or "SIGKILL")
    if not one.alive and one.record.state != "running":
        raise Conflict(f"cannot kill container: {call['id'][:100]}: container {one.record.id} is not running")
    call.engine.supervisor.signal(one, number)
    call.exchange.send(204)


def wait(call: Call) -> None:
    """The headers go out at once: the client starts the container after it has seen them."""
    one, exchange = known(call), call.exchange
    condition: Any = call.query("condition") or "not-running"
    if condition not in ("not-running", "next-exit", "removed"):
        raise InvalidInput(f"invalid condition: {condition[:40]!r}")
    ready: list[bool] = []

    def wanted() -> bool:
        if not ready:
            ready.append(True)
            exchange.begin()
        return not exchange.stopping.is_set() and not exchange.is_gone()

    code = call.engine.supervisor.wait(one, condition, wanted)
    if code is not None:
        exchange.write(json.dumps({"StatusCode": code}).encode() + b"\n")
        exchange.end()


def rename(call: Call) -> None:
    call.engine.supervisor.rename(known(call), call.query("name"))
    call.exchange.send(204)


def remove(call: Call) -> None:
    if call.flag("link"):
        raise Unsupported("links are not supported")
    call.engine.supervisor.remove(known(call), call.flag("force"), call.flag("v"))
    call.exchange.send(204)


def prune(call: Call) -> None:
    from kedge.storage.disk import measure

    filters, gone, freed = call.filters, [], 0
    for record in call.engine.supervisor.list():
        one = call.engine.supervisor.of(record)
        if one.alive or record.state == "running" or not passes_prune(labels_of(one), record.created, filters):
            continue
        size = measure(one.container.home).bytes
        with suppress(KedgeError):
            call.engine.supervisor.remove(one, force=False)
            gone.append(record.id)
            freed += size
    call.exchange.json(200, {"ContainersDeleted": gone or None, "SpaceReclaimed": freed})


def pause(call: Call) -> None:
    call.engine.supervisor.pause(known(call))
    call.exchange.send(204)


def unpause(call: Call) -> None:
    call.engine.supervisor.unpause(known(call))
    call.exchange.send(204)


def resize(call: Call) -> None:
    rows, columns = call.number("h"), call.number("w")
    if not (0 <= rows < 1 << 16 and 0 <= columns < 1 << 16):
        raise InvalidInput("a terminal's size is out of range")
    call.engine.supervisor.resize(known(call), rows, columns)
    call.exchange.send(200)


def unsupported(what: str) -> Callable[[Call], None]:
    """A handler that says what is missing."""

    def handler(call: Call) -> None:
        raise Unsupported(f"{what} not supported by Kedge")

    return handler


def labels_of(one: Supervised) -> dict[str, str]:
    """Its labels, with its image's; also when it is gone."""
    if one.labels is None:
        with suppress(KedgeError):
            one.labels = described(one).body.mapping("Labels")
    return one.labels or {}


def has_label(labels: dict[str, str], text: str) -> bool:
    key, equals, value = text.partition("=")
    return key in labels and (not equals or labels[key] == value)


def passes_prune(labels: dict[str, str], created: float, filters: dict[str, tuple[str, ...]]) -> bool:
    """What all prunes can be told: `label`, `label!`, `until`."""
    from kedge.daemon.engine.times import read_until

    return (
        all(has_label(labels, each) for each in filters.get("label", ()))
        and not any(has_label(labels, each) for each in filters.get("label!", ()))
        and all(created < read_until(each) for each in filters.get("until", ()))
    )
