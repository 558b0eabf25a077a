"""kedge inspect: everything an image says about itself, in Docker's JSON."""

import json
import time
from typing import TYPE_CHECKING, Any

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.history import moment
from kedge.cli.stored import StoredImage, find, name_of, opened
from kedge.model.errors import NotFound
from kedge.model.image import container_config_json

if TYPE_CHECKING:
    from kedge.storage.store import Store


def work(options: Options, console: Console) -> int:
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


def document(store: "Store", image: StoredImage) -> dict[str, Any]:
    """The image as `docker image inspect` shows it."""
    names = [name for item in store.images.list() if item.id == image.record.id and (name := name_of(item))]
    created = moment(image.config.created) or image.record.created_at
    repositories = sorted({name.familiar_name for name in names})
    return {
        "Id": image.record.id,
        "RepoTags": sorted(name.familiar for name in names if name.tag),
        "RepoDigests": [f"{name}@{image.record.target.digest}" for name in repositories],
        "Created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
        "Author": image.config.author,
        "Config": container_config_json(image.config),
        "Architecture": image.config.platform.architecture,
        "Variant": image.config.platform.variant,
        "Os": image.config.platform.os,
        "Size": image.size,
        "RootFS": {"Type": "layers", "Layers": list(image.config.diff_ids)},
        "Descriptor": image.descriptor.to_json(),
        "Metadata": {"LastTagTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(image.record.created_at))},
    }


COMMAND = Command(
    "inspect",
    "Show an image's configuration and layers as JSON",
    work,
    (Flag("format", "Format with a Go template, such as '{{.Config.Env}}' or '{{json .Config}}'", short="f", metavar="FORMAT"),
     Flag("type", "There are only images", metavar="TYPE", choices=("image",), hidden=True)),
    (Argument("IMAGE", many=True, complete="image"),),
    examples=(("kedge inspect -f '{{json .Config.Labels}}' hello", "one part of it"),),
    aliases=("image inspect",),
)
