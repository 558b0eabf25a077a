"""kedge images: the images in the store."""

import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.filters import FILTER, is_true, label_matches, parse_filters
from kedge.cli.spelling import age, short_id, size
from kedge.cli.table import FORMAT, NO_TRUNC, QUIET, Column, listing

if TYPE_CHECKING:
    from kedge.images.lookup import StoredImage
    from kedge.storage.store import Store

FILTERS: Final = ("before", "dangling", "label", "reference", "since")
COLUMNS: Final = (
    Column("Repository", "REPOSITORY"),
    Column("Tag", "TAG"),
    Column("ID", "IMAGE ID"),
    Column("CreatedSince", "CREATED"),
    Column("Size", "SIZE"),
)


def work(options: Options, console: Console) -> int:
    filters = parse_filters(options.filter, FILTERS, "images")
    store = console.store()
    with store.lightened():
        records = _records(store, options, filters)
    columns = list(COLUMNS)
    if options.digests:
        columns.insert(2, Column("Digest", "DIGEST"))
    for line in listing(records, columns, options.format, "ID" if options.quiet else "", options.no_trunc):
        console.print(line)
    return 0


def _records(store: "Store", options: Options, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
    from kedge.images.lookup import find
    from kedge.images.stored import all_images, name_of

    limits: dict[str, float] = {
        key: find(store, filters[key][0]).created_at for key in ("before", "since") if key in filters
    }
    if options.repository:
        filters.setdefault("reference", []).append(options.repository)
    images = [image for image in all_images(store) if _matches(image, filters, limits)]
    if not options.digests:  # what a registry calls an image that has a tag is no image of its own
        tagged = {(name.name, image.id) for image in images if (name := name_of(image.record)) and not name.digest}
        pinned = [name_of(image.record) for image in images]
        images = [i for i, n in zip(images, pinned, strict=True) if not (n and n.digest and (n.name, i.id) in tagged)]
    return [record_of(store, image, options.no_trunc) for image in images]


def record_of(store: "Store", image: "StoredImage", full: bool) -> dict[str, Any]:
    """What a template may ask of an image."""
    from kedge.images.inspect import image_size
    from kedge.images.stored import name_of

    name = name_of(image.record)
    return {
        "ID": image.id if full else short_id(image.id),
        "Repository": name.familiar_name if name else "<none>",
        "Tag": (name.tag or "<none>") if name else "<none>",
        "Digest": image.record.target.digest,
        "CreatedSince": age(time.time() - image.record.created_at),
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(image.record.created_at)),
        "Size": size(image_size(store, image)),
        "Labels": ",".join(f"{key}={value}" for key, value in image.config.labels),
        "Platform": str(image.config.platform),
    }


def _matches(image: "StoredImage", filters: dict[str, list[str]], limits: dict[str, float]) -> bool:
    from kedge.images.stored import name_of

    name = name_of(image.record)
    created = image.record.created_at
    if "dangling" in filters and is_true(filters["dangling"][0]) != (name is None):
        return False
    if not label_matches(dict(image.config.labels), filters.get("label", [])):
        return False
    if created >= limits.get("before", float("inf")) or created <= limits.get("since", float("-inf")):
        return False
    patterns = filters.get("reference", [])
    return not patterns or (name is not None and any(_named(name.familiar_name, name.familiar, p) for p in patterns))


def _named(repository: str, full: str, pattern: str) -> bool:
    return fnmatchcase(full, pattern) or fnmatchcase(repository, pattern)


COMMAND = Command(
    "images",
    "List images",
    work,
    (
        Flag("all", "All images are always shown", short="a", hidden=True),
        Flag("digests", "Also show digests"),
        FILTER,
        FORMAT,
        NO_TRUNC,
        QUIET,
    ),
    (Argument("REPOSITORY[:TAG]", optional=True, complete="image"),),
    examples=(
        ("kedge images", "all images"),
        ("kedge images --filter label=dev.kedge.stand-in", "only those with a label"),
        ("kedge images --format '{{.ID}}  {{.Repository}}'", "chosen columns"),
    ),
    aliases=("image ls",),
)
