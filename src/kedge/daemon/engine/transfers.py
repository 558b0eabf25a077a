"""Images on their way: pull, push, import, save, load, and a look at a registry.

Owns Docker's progress words for what `sources`, `exporters` and `images` tell. Does not know their protocols.
"""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from kedge.daemon.engine.credentials import from_auth
from kedge.daemon.engine.fields import Fields
from kedge.daemon.engine.http import Exchange
from kedge.daemon.engine.images import not_here, read_platform
from kedge.daemon.engine.messages import Messages
from kedge.daemon.engine.routes import Call
from kedge.images.lookup import find, names_of, shown_name
from kedge.images.stored import name_of
from kedge.images.tagging import note_pushed
from kedge.model.digest import digest_of, hex_part
from kedge.model.errors import InvalidInput, InvalidReference, NotFound, Unauthorized
from kedge.model.event import Event, StatusEvent
from kedge.model.image import INDEXES, Index, platform_json
from kedge.model.platform import Platform
from kedge.model.reference import Reference, parse_reference
from kedge.sources.handler import Work
from kedge.storage.images import ImageRecord
from kedge.storage.store import Store

if TYPE_CHECKING:
    from kedge.sources.image import ImageSource

# Docker's words, which its libraries look for: not found, and not allowed.
_REFUSED: Final = (
    "repository does not exist, or has no such tag",
    "pull access denied, repository does not exist or may require 'docker login'",
)
_BETWEEN: Final = 0.1  # seconds between two messages about one thing


def create_image(call: Call) -> None:
    """`docker pull`, and `docker import`, which has a source instead of a name to pull."""
    if source := call.query("fromSrc"):
        _import(call, source)
    else:
        _pull(call)


# ---- pull ------------------------------------------------------------------------------------------------------------


def _pull(call: Call) -> None:
    """One image; without a tag or digest, all of the repository: Docker's client says `latest` when it means that."""
    every = not call.query("tag") and not _has_tag(call.query("fromImage"))
    reference = _reference(call.query("fromImage"), call.query("tag"))
    platform = read_platform(call.query("platform")) or call.engine.host
    credentials = from_auth(call.header("x-registry-auth"))
    exchange, stop = call.exchange, threading.Event()
    with (
        Messages(exchange) as messages,
        exchange.watched(stop.set),
        call.engine.store(credentials) as store,
        call.engine.registry(credentials, stop) as registry,
    ):
        from kedge.sources.image import ImageSource

        source = ImageSource(store, registry, call.engine.host)
        wanted = [reference]
        if every:
            with _refusal():
                wanted = [reference.with_tag(tag) for tag in registry.tags(reference)]
        for each in wanted:
            same = _pull_one(each, platform, source, store, messages, stop)
            what = "Image is up to date" if same else "Downloaded newer image"
            messages(status=f"Status: {what} for {each.familiar}")
            call.engine.events.tell("image", "pull", each.familiar, {"name": each.familiar_name})


def _has_tag(name: str) -> bool:
    return "@" in name or ":" in name.rpartition("/")[2]


@contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except (Unauthorized, NotFound) as error:
        error.message = f"{_REFUSED[isinstance(error, Unauthorized)]}: {error.message}"
        raise


def _pull_one(
    reference: Reference,
    platform: Platform,
    source: "ImageSource",
    store: Store,
    messages: Messages,
    stop: threading.Event,
) -> bool:
    """Pull and tell; True when it was here already."""
    shown = reference.repository if reference.registry == "docker.io" else reference.familiar_name
    first = Once(lambda: messages(status=f"Pulling from {shown}", id=reference.tag or str(reference.digest)))
    work = Work(digest_of(("pull", str(reference))), PullProgress(messages, first), stop)
    before = store.images.get(str(reference))
    with _refusal():
        image = source.pull(reference, platform, work)
    first()
    if reference.digest:  # so that a container can be made by that name
        record = ImageRecord(str(reference), image.target, image.manifest.config.digest, time.time())
        store.images.set(record)
    messages(status=f"Digest: {image.target.digest}")
    return before is not None and before.target.digest == image.target.digest


def _reference(name: str, tag: str) -> Reference:
    if not name:
        raise InvalidInput("an image must be named: fromImage")
    if not tag:
        return parse_reference(name)
    return parse_reference(f"{name}@{tag}" if tag.startswith("sha256:") else f"{name}:{tag}")


class Once:
    """Something to be done once, whoever comes first."""

    def __init__(self, do: Any) -> None:
        self._do, self._lock, self._done = do, threading.Lock(), False

    def __call__(self) -> None:
        with self._lock:
            done, self._done = self._done, True
        if not done:
            self._do()


class PullProgress:
    """Status events of layers as Docker's words: a Report."""

    def __init__(self, messages: Messages, first: Once) -> None:
        self._messages, self._first = messages, first
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StatusEvent) or "sha256:" not in event.id:
            return
        fetching = event.id.startswith("sha256:")
        if not fetching and event.id.startswith("resolve"):
            return
        layer = hex_part(parse_digest_in(event.id))[:12]
        self._first()
        done = event.completed is not None
        with self._lock:
            now = time.monotonic()
            if layer not in self._told:
                self._messages(status="Pulling fs layer", progressDetail={}, id=layer)
            elif not done and now - self._told[layer] < _BETWEEN:
                return
            self._told[layer] = now
        if done:
            word = "Download complete" if fetching else "Pull complete"
            self._messages(status=word, progressDetail={}, id=layer)
        else:
            self._messages(
                status="Downloading" if fetching else "Extracting",
                progressDetail={"current": event.current, "total": event.total},
                id=layer,
            )


def parse_digest_in(text: str) -> Any:
    """The digest that a status's id ends with or holds."""
    return "sha256:" + text.partition("sha256:")[2][:64]


# ---- push ------------------------------------------------------------------------------------------------------------


def push_image(call: Call) -> None:
    from kedge.exporters.push import publishable, push

    name, tag = call["name"], call.query("tag")
    platform = read_platform(call.query("platform"))
    credentials = from_auth(call.header("x-registry-auth"))
    stop = threading.Event()
    with (
        Messages(call.exchange) as messages,
        call.exchange.watched(stop.set),
        call.engine.store(credentials) as store,
        call.engine.registry(credentials, stop) as registry,
    ):
        names = [parse_reference(f"{name}:{tag}")] if tag else _all_tags(store, name)
        records = [(each, _record(store, each)) for each in names]
        shown = parse_reference(name).familiar_name
        messages(status=f"The push refers to repository [{parse_reference(name).repository_only}]")
        for each, record in records:
            report = PushProgress(messages)
            work = Work(digest_of(("push", str(each))), report, stop)
            platforms = [platform] if platform else []
            published = publishable(store, record.target)
            pushed = push(store, registry, published, [each], work, platforms=platforms)
            report.settle()
            note_pushed(store, record, each, pushed.digest)
            messages(status=f"{each.tag}: digest: {pushed.digest} size: {pushed.size}")
            messages(progressDetail={}, aux={"Tag": each.tag, "Digest": pushed.digest, "Size": pushed.size})
            call.engine.events.tell("image", "push", each.familiar, {"name": shown})


def _all_tags(store: Store, name: str) -> list[Reference]:
    repository = parse_reference(name)
    if repository.tag and name.rpartition("/")[2].find(":") > 0:
        return [repository]
    names = [parse_reference(record.name) for record in store.images.list() if name_of(record)]
    tags = [each for each in names if each.familiar_name == repository.familiar_name and not each.digest]
    if not tags:
        raise NotFound(f"An image does not exist locally with the tag: {repository.familiar_name}")
    return tags


def _record(store: Store, name: Reference) -> ImageRecord:
    record = store.images.get(str(name))
    if record is None:
        raise NotFound(f"An image does not exist locally with the tag: {name.familiar_name}")
    return record


class PushProgress:
    """Status events of a push as Docker's words: a Report."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._told: dict[str, float] = {}
        self._pushed: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StatusEvent) or not event.id.startswith("copying sha256:"):
            return
        blob = hex_part(parse_digest_in(event.id))[:12]
        done = event.completed is not None
        with self._lock:
            now = time.monotonic()
            if blob not in self._told:
                self._messages(status="Preparing", progressDetail={}, id=blob)
            elif not done and now - self._told[blob] < _BETWEEN:
                return
            self._told[blob] = now
            if done:
                self._pushed.add(blob)
        if done:
            self._messages(status="Pushed", progressDetail={}, id=blob)
        else:
            detail = {"current": event.current, "total": event.total}
            self._messages(status="Pushing", progressDetail=detail, id=blob)

    def settle(self) -> None:
        """Blobs that were begun and of which no end was told: they are there."""
        for blob in self._told.keys() - self._pushed:
            self._messages(status="Layer already exists", progressDetail={}, id=blob)


# ---- archives --------------------------------------------------------------------------------------------------------


class Outgoing(io.RawIOBase):
    """A response's body as a stream to write to; the response begins with the first bytes."""

    def __init__(self, exchange: Exchange, kind: str) -> None:
        self._exchange, self._kind = exchange, kind

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if not self._exchange.started:
            self._exchange.begin(200, self._kind)
        return self._exchange.write(data)


def save_images(call: Call) -> None:
    from kedge.exporters.archive import save

    names = [call["name"]] if "name" in call.parameters else list(call.queries("names"))
    if not names:
        raise InvalidInput("no image is named")
    with call.engine.store() as store:
        entries = [_entry(store, each) for each in names]
        out: Any = Outgoing(call.exchange, "application/x-tar")
        save(store, entries, out)
    call.exchange.end()


def _entry(store: Store, text: str) -> Any:
    """By a name, the image under that name; by an id, under all its names."""
    from kedge.exporters.archive import Entry

    try:
        record = find(store, text)
    except NotFound:
        raise not_here(text) from None
    with suppress(InvalidReference):
        if str(parse_reference(text)) == record.name:
            return Entry(record.target, (parse_reference(record.name),))
    return Entry(record.target, tuple(parse_reference(each) for each in names_of(store, record)))


def load_images(call: Call) -> None:
    from kedge.images.load import load

    stream: Any = call.exchange
    with Messages(call.exchange) as messages, call.engine.store() as store:
        for image in load(store, stream):
            for name in image.names:
                messages.stream(f"Loaded image: {shown_name(name)}\n")
            if not image.names:
                messages.stream(f"Loaded image ID: {image.id}\n")
            call.engine.events.tell("image", "load", image.id, {"name": image.id})


def _import(call: Call, source: str) -> None:
    from kedge.images.import_root import import_root

    if source != "-":
        raise InvalidInput("an archive is imported from the request's body only", hint="Use `docker import -`.")
    name = call.query("repo")
    names = [_reference(name, call.query("tag"))] if name else []
    platform = read_platform(call.query("platform")) or call.engine.host
    stream: Any = call.exchange
    with Messages(call.exchange) as messages, call.engine.store() as store:
        work = Work(digest_of(("import", name)))
        made = import_root(store, stream, platform, work, names, call.queries("changes"), call.query("message"))
        messages(status=made.id)


# ---- registries ------------------------------------------------------------------------------------------------------


def inspect_distribution(call: Call) -> None:
    credentials = from_auth(call.header("x-registry-auth"))
    reference = parse_reference(call["name"])
    with call.engine.registry(credentials) as registry:
        document = registry.manifest(reference)
        descriptor = document.descriptor
        platforms: list[Any] = []
        if descriptor.media_type in INDEXES:
            entries = Index.from_bytes(document.data, descriptor.media_type).manifests
            platforms = [platform_json(each.platform) for each in entries if each.platform]
        else:
            config = Fields.parse(document.data).object("config")
            data = _config(registry, reference, config.raw)
            platforms = [{"architecture": data.text("architecture"), "os": data.text("os")}]
    answer = descriptor.to_json() | {"annotations": dict(descriptor.annotations) or None}
    call.exchange.json(200, {"Descriptor": answer, "Platforms": platforms})


def _config(registry: Any, reference: Reference, raw: dict[str, Any]) -> Fields:
    from kedge.model.image import Descriptor

    return Fields.parse(registry.read_blob(reference, Descriptor.from_json(raw)))
