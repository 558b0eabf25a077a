"""Images of the store: list, inspect, history, tag, remove, prune, search.

Owns these documents (Docker Engine API, Image). What each means is in `kedge.images`. Does not know registries.
"""

import calendar
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kedge.daemon.engine.fields import json_object, read_flag
from kedge.daemon.engine.routes import Call
from kedge.daemon.engine.times import read_until
from kedge.images import tagging
from kedge.images.history import NO_TIME, history
from kedge.images.inspect import image_size, inspect, layer_size, repo_digests
from kedge.images.lookup import StoredImage, find, open_image, platforms_of, read_image
from kedge.images.stored import all_images, name_of, opened
from kedge.model.errors import Conflict, NotFound
from kedge.model.globs import glob_match
from kedge.model.platform import Platform, normalize
from kedge.model.reference import parse_reference
from kedge.storage.store import Store

if TYPE_CHECKING:
    from kedge.daemon.engine.service import Engine


def not_here(text: str) -> NotFound:
    """As Docker says it: its clients look for these words."""
    shown = text if re.search(r"[:@][^/]*$", text) or re.fullmatch(r"[0-9a-f]{12,64}", text) else f"{text}:latest"
    return NotFound(f"No such image: {shown[:300]}")


def found(engine: "Engine", store: Store, text: str, platform: Platform | None = None) -> StoredImage:
    """The image that a client names. Raises NotFound in Docker's words."""
    try:
        if platform is None:
            return opened(store, find(store, text))
        return open_image(store, text, platform, engine.host)
    except NotFound as error:
        if platform is not None and "is not here for" in error.message:
            raise
        raise not_here(text) from None


def read_platform(text: str) -> Platform | None:
    """`platform` as an OCI platform in JSON, or as linux/arm64."""
    if not text:
        return None
    if text.startswith("{"):
        fields = json_object(text, "platform")
        return normalize(fields.text("os") or "linux", fields.text("architecture"), fields.text("variant"))
    from kedge.model.platform import parse_platform

    return parse_platform(text)


def list_images(call: Call) -> None:
    filters = call.filters
    with call.engine.store() as store:
        images = [image for image in all_images(store) if _passes(store, image, filters)]
        call.exchange.json(200, summaries(store, images, manifests=call.flag("manifests")))


def summaries(store: Store, images: Sequence[StoredImage], manifests: bool = False) -> list[dict[str, Any]]:
    """One entry for each image, newest first, with all its names."""
    return [_summary(store, same, manifests) for same in _grouped(images)]


def _grouped(images: Sequence[StoredImage]) -> list[list[StoredImage]]:
    by_target: dict[str, list[StoredImage]] = {}
    for image in images:
        by_target.setdefault(image.record.target.digest, []).append(image)
    return list(by_target.values())


def measured(store: Store, images: Sequence[StoredImage], used: Sequence[str]) -> list[dict[str, Any]]:
    """The same, with what `docker system df` needs besides: the bytes that each shares with others, and how many
    containers stand on it; `used` are their images' ids.
    """
    groups = _grouped(images)
    times = Counter(diff_id for group in groups for diff_id in set(group[0].config.diff_ids))
    entries = []
    for group in groups:
        image = group[0]
        shared = [d for d in image.config.diff_ids if times[d] > 1]
        sizes = {
            "SharedSize": sum(layer_size(store, image, each) for each in shared),
            "Containers": list(used).count(image.id),
        }
        entries.append(_summary(store, group, manifests=False) | sizes)
    return entries


def _summary(store: Store, same: list[StoredImage], manifests: bool) -> dict[str, Any]:
    image = same[0]
    names = [name for each in same if (name := name_of(each.record))]
    tags = [name.familiar for name in names if not name.digest]
    digests = repo_digests(map(str, names), image.record.target.digest)
    entry: dict[str, Any] = {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": int(created_at(image)),
        "Size": image_size(store, image),
        "SharedSize": -1,
        "Labels": dict(image.config.labels) or None,
        "Containers": -1,
        "Descriptor": image.record.target.to_json(),
    }
    if manifests:
        entry["Manifests"] = [_manifest(store, image, *each) for each in platforms_of(store, image.record)]
    return entry


def _manifest(store: Store, image: StoredImage, descriptor: Any, _: Platform | None) -> dict[str, Any]:
    one = read_image(store, image.record, descriptor)
    size = image_size(store, one)
    platform = {"os": one.config.platform.os, "architecture": one.config.platform.architecture}
    return {
        "ID": descriptor.digest,
        "Descriptor": descriptor.to_json(),
        "Available": True,
        "Size": {"Total": size, "Content": sum(layer.size for layer in one.manifest.layers)},
        "Kind": "image",
        "ImageData": {"Platform": platform, "Size": {"Unpacked": size}, "Containers": []},
    }


def created_at(image: StoredImage) -> float:
    """When the image was made; for one made without a clock, when it came here."""
    return image.record.created_at if image.config.created <= NO_TIME else seconds(image.config.created)


def seconds(text: str) -> float:
    """RFC 3339 as seconds since the epoch; 0 for what is none."""
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", text)
    try:
        return float(calendar.timegm(tuple(map(int, match.groups())))) if match else 0.0
    except (ValueError, OverflowError):
        return 0.0


def _passes(store: Store, image: StoredImage, filters: dict[str, tuple[str, ...]]) -> bool:
    name = name_of(image.record)
    if any(read_flag(value) != (name is None) for value in filters.get("dangling", ())):
        return False
    labels = dict(image.config.labels)
    for label in filters.get("label", ()):
        key, equals, value = label.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    for key, wanted in (("before", True), ("since", False)):
        for text in filters.get(key, ()):
            other = find(store, text).created_at
            if (image.record.created_at >= other) if wanted else (image.record.created_at <= other):
                return False
    patterns = filters.get("reference", ())
    shown = (name.familiar_name, name.familiar) if name else ()
    return not patterns or any(glob_match(pattern, each) for pattern in patterns for each in shown)


def inspect_image(call: Call) -> None:
    with call.engine.store() as store:
        image = found(call.engine, store, call["name"], read_platform(call.query("platform")))
        document = inspect(store, image)
    document |= {"DockerVersion": "", "GraphDriver": {"Name": "overlayfs", "Data": None}}
    call.exchange.json(200, document)


def image_history(call: Call) -> None:
    with call.engine.store() as store:
        image = found(call.engine, store, call["name"], read_platform(call.query("platform")))
        rows = history(store, image)
        tags = [name.familiar for each in image.names if not (name := parse_reference(each)).digest]
    call.exchange.json(
        200,
        [
            {
                "Id": row.id or "<missing>",
                "Created": int(row.created if row.created is not None else seconds(row.created_text)),
                "CreatedBy": row.created_by,
                "Tags": tags if row.id else None,
                "Size": row.size,
                "Comment": row.comment,
            }
            for row in rows
        ],
    )


def tag_image(call: Call) -> None:
    repository, tag = call.query("repo"), call.query("tag")
    target = f"{repository}:{tag}" if tag else repository
    with call.engine.store() as store:
        image = found(call.engine, store, call["name"])
        record = tagging.tag(store, call["name"], target)
    call.engine.events.tell("image", "tag", image.id, {"name": parse_reference(record.name).familiar})
    call.exchange.send(201)


def remove_image(call: Call) -> None:
    text, force = call["name"], call.flag("force")
    with call.engine.store() as store:
        image = found(call.engine, store, text)
        _require_unused(call.engine, image, text, force)
        try:
            removed = tagging.remove(store, text, force=force)
        except Conflict:
            raise Conflict(
                f"conflict: unable to delete {text} (must be forced) - image is referenced in multiple repositories"
            ) from None
        if removed.deleted:
            _free(store, _pulled_layers(store, image))
    gone = [{"Untagged": name} for name in removed.untagged]
    gone += [{"Deleted": removed.deleted}] if removed.deleted else []
    for name in removed.untagged:
        call.engine.events.tell("image", "untag", image.id, {"name": name})
    if removed.deleted:
        call.engine.events.tell("image", "delete", image.id, {"name": image.id})
    call.exchange.json(200, gone)


def _require_unused(engine: "Engine", image: StoredImage, text: str, force: bool) -> None:
    """A container's image stays, unless that is wanted; its layers stay with the container in any case."""
    for record in engine.supervisor.list():
        if record.image_id == image.id and (record.state == "running" or not force) and len(image.names) < 2:
            how = "cannot be forced" if record.state == "running" else "must be forced"
            what = "using" if record.state == "running" else "using its referenced"
            raise Conflict(
                f"conflict: unable to delete {text[:100]} ({how}) - container {record.id[:12]} is {what} image "
                f"{image.id[7:19]}"
            )


def prune_images(call: Call) -> None:
    filters = call.filters
    only_nameless = all(read_flag(value) for value in filters.pop("dangling", ("true",)))
    used = {record.image_id for record in call.engine.supervisor.list()}
    gone: list[dict[str, str]] = []
    pulled: set[str] = set()
    with call.engine.store() as store:
        for image in list(all_images(store)):
            nameless = name_of(image.record) is None
            if image.id in used or (only_nameless and not nameless) or not _passes(store, image, filters):
                continue
            last = len([r for r in store.images.list() if r.target.digest == image.record.target.digest]) == 1
            store.images.remove(image.record.name)
            if not nameless:
                gone.append({"Untagged": parse_reference(image.record.name).familiar})
            if last:
                gone.append({"Deleted": image.id})
                pulled |= _pulled_layers(store, image)
        freed = _free(store, pulled) if gone else 0
    call.exchange.json(200, {"ImagesDeleted": gone or None, "SpaceReclaimed": freed})


def _pulled_layers(store: Store, image: StoredImage) -> set[str]:
    """Layers that came with it. Those made here stay as what builds remember: `docker builder prune` is for them."""
    found = {layer for diff_id in image.config.diff_ids if (layer := store.layers.find(diff_id))}
    return {layer for layer in found if store.layers.info(layer).declared}


def _free(store: Store, layers: set[str]) -> int:
    """Let go what no image holds any more; the bytes that took on disk."""
    from kedge.storage.gc import PruneOptions

    freed = store.prune(PruneOptions(kinds=("blob",))).bytes
    return freed + (store.prune(PruneOptions(kinds=("layer",), ids=tuple(layers))).bytes if layers else 0)


def search(call: Call) -> None:
    """Search what is here: registries other than Docker's own have no search."""
    term = call.query("term").lower()
    names: dict[str, None] = {}
    with call.engine.store() as store:
        for record in store.images.list():
            name = name_of(record)
            if name and term in name.familiar_name:
                names[name.familiar_name] = None
    limit = call.number("limit", 25)
    call.exchange.json(
        200,
        [
            {"name": name, "description": "in this store", "star_count": 0, "is_official": False, "is_automated": False}
            for name in list(names)[: max(0, limit)]
        ],
    )


def prune_builds(call: Call) -> None:
    from kedge.storage.gc import PruneOptions

    filters = call.filters
    keep = max(call.number("keep-storage"), call.number("max-used-space"), call.number("reserved-space"))
    until = next(iter(filters.get("until", ())), "")
    options = PruneOptions(
        all=call.flag("all"),
        until=read_until(until) if until else None,
        ids=tuple(each for each in filters.get("id", ())),
        keep=keep or None,
    )
    with call.engine.store() as store:
        pruned = store.prune(options)
    call.exchange.json(200, {"CachesDeleted": [item.id for item in pruned.records], "SpaceReclaimed": pruned.bytes})
