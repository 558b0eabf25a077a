"""kedge copy: an image from one place to another, without unpacking it."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kedge.cli.build_flags import flatten, words
from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.parse import UsageError
from kedge.cli.transfer import NO_REFERRERS, PROGRESS, QUIET, shown
from kedge.model.suggest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedge.exporters.copy_image import Writer
    from kedge.exporters.gather import Reader
    from kedge.model.image import Descriptor


def work(options: Options, console: Console) -> int:
    from kedge.exporters.copy_image import copy_image
    from kedge.model.platform import parse_platform

    platforms = [parse_platform(text) for text in flatten(options.platform)]
    mode = "quiet" if options.quiet else options.progress
    with ExitStack() as stack, shown(console, f"copying {options.source}", mode) as progress:
        reader, root = _source(options.source, console, stack)
        writers = [_destination(text, console, stack) for text in options.destination]
        copied = copy_image(reader, writers, root, progress, platforms=platforms, referrers=not options.no_referrers)
    console.print(copied.digest)
    return 0


def _source(text: str, console: Console, stack: ExitStack) -> "tuple[Reader, Descriptor]":
    kind, rest = split(text)
    return READERS[kind](rest, console, stack)


def _destination(text: str, console: Console, stack: ExitStack) -> "Writer":
    kind, rest = split(text)
    return WRITERS[kind](rest, console, stack)


def split(text: str) -> tuple[str, str]:
    """Which kind of place, and the rest; a name alone is in a registry. Raises UsageError."""
    for kind in READERS:
        if text.startswith(f"{kind}:"):
            return kind, text.removeprefix(f"{kind}:").removeprefix("//")
    if "://" in text:
        scheme = text.partition("://")[0]
        guess = nearest(scheme, READERS)
        raise UsageError(f"unknown kind of place: {scheme}://", "copy", f"Did you mean {guess}:?" if guess else
                         f"Kinds are {', '.join(READERS)}.")  # fmt: skip
    return "docker", text


# ---- places ----------------------------------------------------------------------------------------------------------


def _from_registry(text: str, console: Console, stack: ExitStack) -> "tuple[Reader, Descriptor]":
    from kedge.exporters.places import RegistryReader
    from kedge.model.reference import parse_reference

    reference = parse_reference(text)
    return RegistryReader(console.registry(), reference.repository_only), console.registry().resolve(reference)


def _to_registry(text: str, console: Console, stack: ExitStack) -> "Writer":
    from kedge.exporters.places import RegistryWriter
    from kedge.model.reference import parse_reference

    return RegistryWriter(console.registry(), parse_reference(text))


def _from_store(text: str, console: Console, stack: ExitStack) -> "tuple[Reader, Descriptor]":
    from kedge.exporters.places import StoreReader
    from kedge.exporters.push import publishable
    from kedge.images.lookup import find

    published = publishable(console.store(), find(console.store(), text).target)
    return StoreReader(console.store(), published.documents), published.target


def _to_store(text: str, console: Console, stack: ExitStack) -> "Writer":
    from kedge.exporters.places import StoreWriter
    from kedge.model.reference import parse_reference

    return StoreWriter(console.store(), [parse_reference(text)])


def _from_layout(text: str, console: Console, stack: ExitStack) -> "tuple[Reader, Descriptor]":
    from kedge.exporters.places import LayoutReader
    from kedge.sources.oci_layout import open_layout

    path, tag = _path_and_tag(text)
    layout = stack.enter_context(open_layout(str(path)))
    return LayoutReader(layout), layout.find(tag)


def _to_layout(text: str, console: Console, stack: ExitStack) -> "Writer":
    from kedge.exporters.places import LayoutWriter

    path, tag = _path_and_tag(text)
    return LayoutWriter(path, [tag] if tag else [])


def _to_archive(text: str, console: Console, stack: ExitStack) -> "Writer":
    from kedge.exporters.places import ArchiveWriter

    path, tag = _path_and_tag(text)
    return stack.enter_context(ArchiveWriter(path, [tag] if tag else []))


def _path_and_tag(text: str) -> tuple[Path, str]:
    """`PATH[:TAG]`; a tag has no slash in it."""
    path, colon, tag = text.rpartition(":")
    return (Path(path), tag) if colon and path and "/" not in tag else (Path(text), "")


READERS: "Final[dict[str, Callable[[str, Console, ExitStack], tuple[Reader, Descriptor]]]]" = {
    "docker": _from_registry,
    "store": _from_store,
    "oci": _from_layout,
    "oci-archive": _from_layout,
}
WRITERS: "Final[dict[str, Callable[[str, Console, ExitStack], Writer]]]" = {
    "docker": _to_registry,
    "store": _to_store,
    "oci": _to_layout,
    "oci-archive": _to_archive,
}

COMMAND = Command(
    "copy",
    "Copy an image between registries, layouts and the store",
    work,
    (
        Flag(
            "platform",
            "Only these of an image's platforms",
            metavar="OS/ARCH[,…]",
            many=True,
            convert=words,
            shown_default="all",
        ),
        NO_REFERRERS,
        PROGRESS,
        QUIET,
    ),
    (Argument("SOURCE"), Argument("DESTINATION", many=True)),
    description="""
    A place is docker://NAME (or NAME alone) in a registry, store:NAME in Kedge's store, oci:DIR[:TAG]
    for an OCI image layout, or oci-archive:FILE[:TAG] for a tar of one. Digests stay as they are; nothing is
    unpacked. What refers to the image (attestations, signatures) comes along.
    """,
    examples=(
        ("kedge copy alpine:3.20 registry.example.internal/alpine:3.20", "from one registry to another"),
        ("kedge copy store:hello oci:layout:hello", "out of the store into a layout"),
        ("kedge copy --platform linux/arm64 alpine:3.20 store:alpine:arm", "one platform into the store"),
    ),
)
