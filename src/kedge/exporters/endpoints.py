"""What people call the places of a copy, and the readers and writers that stand for them: the work of `kedge copy`.

Owns the spelling: `REF` or `docker-image://REF` is a registry, `store://REF` the store, `oci-layout://PATH[:TAG]` a
layout directory (or, to read, an archive), `oci-archive://PATH[:TAG]` an archive. Does not know how anything is
copied.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kedge.exporters.copy_image import Reader, Steps, Writer, copy_image
from kedge.model.errors import InvalidInput, NotFound
from kedge.model.image import Descriptor
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference, parse_tag
from kedge.model.value import dataclass

if TYPE_CHECKING:
    from kedge.registry.client import Registry
    from kedge.storage.store import Store

_SCHEMES: Final = ("docker-image", "store", "oci-layout", "oci-archive")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place by name: its scheme and the rest."""

    scheme: str
    rest: str


@dataclass(frozen=True, slots=True)
class World:
    """Where endpoints are found. The store is asked for only if one of them is in it."""

    registry: "Registry"
    store: "Callable[[], Store]"


def parse_endpoint(text: str) -> Endpoint:
    """The place that `text` names; raises InvalidInput, InvalidReference."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "docker-image", text
    if scheme not in _SCHEMES or not rest:
        raise InvalidInput(
            f"{text[:200]!r} names no place for an image",
            hint=f"Write an image name, or {', '.join(f'{s}://…' for s in _SCHEMES)}.",
        )
    if scheme in ("docker-image", "store"):
        parse_reference(rest)
    return Endpoint(scheme, rest)


def copy(
    source: str, destinations: Sequence[str], world: World, steps: Steps, platforms: Sequence[Platform] = ()
) -> Descriptor:
    """Copy the image that `source` names to all `destinations`, byte for byte; returns its descriptor.

    Raises NotFound, InvalidInput, and what the places raise.
    """
    from_where, to_where = parse_endpoint(source), [parse_endpoint(text) for text in destinations]
    with opened_source(from_where, world) as (reader, root), ExitStack() as stack:
        writers = [stack.enter_context(opened_destination(where, world)) for where in to_where]
        return copy_image(reader, writers, root, steps, platforms=platforms, partial=from_where.scheme == "store")


@contextmanager
def opened_source(endpoint: Endpoint, world: World) -> Iterator[tuple[Reader, Descriptor]]:
    """A reader of the place, and the descriptor of the image it names."""
    from kedge.exporters.places import LayoutReader, RegistryReader, StoreReader

    if endpoint.scheme == "docker-image":
        reference = parse_reference(endpoint.rest)
        yield RegistryReader(world.registry, reference), world.registry.resolve(reference)
    elif endpoint.scheme == "store":
        record = world.store().images.get(str(parse_reference(endpoint.rest)))
        if record is None:
            raise NotFound(f"the store has no image {endpoint.rest}")
        yield StoreReader(world.store()), record.target
    else:
        from kedge.sources.oci_layout import open_layout, split_layout_name

        path, tag, digest = split_layout_name(endpoint.rest)
        with open_layout(path) as layout:
            yield LayoutReader(layout), layout.find(tag, digest)


@contextmanager
def opened_destination(endpoint: Endpoint, world: World) -> Iterator[Writer]:
    """A writer to the place, under the name the endpoint has."""
    from kedge.exporters.places import ArchiveWriter, LayoutWriter, RegistryWriter, StoreWriter

    if endpoint.scheme == "docker-image":
        yield RegistryWriter(world.registry, parse_reference(endpoint.rest))
    elif endpoint.scheme == "store":
        yield StoreWriter(world.store(), [parse_reference(endpoint.rest)])
    else:
        path, tag = _split_new(endpoint.rest)
        names = [parse_tag(tag)] if tag else []
        if endpoint.scheme == "oci-layout":
            yield LayoutWriter(Path(path), names)
        else:
            with ArchiveWriter(Path(path), names) as archive:
                yield archive


def _split_new(rest: str) -> tuple[str, str]:
    """Path and tag of a layout that need not exist yet: what stands behind the last colon is a tag unless it has a
    slash.
    """
    path, colon, tag = rest.rpartition(":")
    return (path, tag) if colon and "/" not in tag else (rest, "")
