"""kedge tag: one more name for an image."""

import time
from dataclasses import replace

from kedge.cli.command import Argument, Command, Options
from kedge.cli.console import Console
from kedge.cli.stored import find
from kedge.model.errors import InvalidReference
from kedge.model.reference import parse_reference


def work(options: Options, console: Console) -> int:
    name = parse_reference(options.new_name)
    if name.digest:
        raise InvalidReference(f"a digest cannot be given as a name: {options.new_name}")
    store = console.store()
    record = find(store, options.image)
    store.images.set(replace(record, name=str(name), created_at=record.created_at or time.time()))
    return 0


COMMAND = Command(
    "tag",
    "Give an image one more name",
    work,
    arguments=(Argument("IMAGE", complete="image"), Argument("NEW_NAME")),
    examples=(("kedge tag hello hello:1.0", "the same image under two names"),),
    aliases=("image tag",),
)
