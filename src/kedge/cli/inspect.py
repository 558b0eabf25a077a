"""kedge inspect: everything an image says about itself, in Docker's JSON."""

import json

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.model.errors import NotFound


def work(options: Options, console: Console) -> int:
    from kedge.images.inspect import inspect
    from kedge.images.lookup import find
    from kedge.images.stored import opened

    store = console.store()
    found, missing = [], []
    for name in options.image:
        try:
            found.append(inspect(store, opened(store, find(store, name))))
        except NotFound as error:  # the others are shown all the same, as Docker does
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
