"""kedge inspect: everything an image says about itself, in Docker's JSON."""

import json
import time
from typing import TYPE_CHECKING, Any

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.model.errors import NotFound

if TYPE_CHECKING:
    from kedge.images.lookup import StoredImage
    from kedge.storage.store import Store


def work(options: Options, console: Console) -> int:
    from kedge.cli.stored import opened
    from kedge.images.lookup import find

    store = console.store()
    found, missing = [], []
    for name in options.image:
        try:
            found.append(document(store, opened(store, find(store, name))))
        except NotFound as error:
            missing.append(error)
    if options.format in (None, "json"):
        console.print(json.dumps(found, indent=None if options.format else 4, ensure_ascii=False))
    else:
        from kedge.cli.template import Template

        template = Template(options.format)
        for each in found:
            console.print(template.render(each))
    if missing:
        raise missing[0]
    return 0


def document(store: "Store", image: "StoredImage") -> dict[str, Any]:
    """The image as `docker image inspect` shows it."""
    from kedge.cli.history import moment
    from kedge.cli.stored import size_of
    from kedge.model.image import container_config_json
    from kedge.model.reference import parse_reference

    names = [parse_reference(name) for name in image.names]
    created = moment(image.config.created) or image.record.created_at
    return {
        "Id": image.id,
        "RepoTags": sorted(name.familiar for name in names if name.tag),
        "RepoDigests": sorted({f"{name.familiar_name}@{image.record.target.digest}" for name in names}),
        "Created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
        "Author": image.config.author,
        "Config": container_config_json(image.config),
        "Architecture": image.config.platform.architecture,
        "Variant": image.config.platform.variant,
        "Os": image.config.platform.os,
        "Size": size_of(store, image),
        "RootFS": {"Type": "layers", "Layers": list(image.config.diff_ids)},
        "Descriptor": image.descriptor.to_json(),
        "Metadata": {"LastTagTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(image.record.created_at))},
    }


COMMAND = Command(
    "inspect",
    "Show an image's configuration and layers as JSON",
    work,
    (
        Flag("format", "Format with a Go template, such as '{{json .Config}}'", short="f", metavar="FORMAT"),
        Flag("type", "There are only images", metavar="TYPE", choices=("image",), hidden=True),
    ),
    (Argument("IMAGE", many=True, complete="image"),),
    examples=(("kedge inspect -f '{{json .Config.Labels}}' hello", "one part of it"),),
    aliases=("image inspect",),
)
