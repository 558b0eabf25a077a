"""`local://`: a directory of the client's, in place.

Owns the attributes of a local source and the filter they make. Nothing is transferred or copied here: the store adopts
the directory, reads what a checksum or COPY needs from it, and copies only if something must mount it. Knows no other
scheme.
"""

import json
import time
from typing import TYPE_CHECKING

from kedge.model.digest import digest_of
from kedge.model.errors import InvalidInput
from kedge.model.graph import Snapshot
from kedge.model.ops import Source
from kedge.model.patterns import Patterns
from kedge.model.platform import Platform
from kedge.session.session import Session, Wanted
from kedge.sources.handler import Pin, Work

if TYPE_CHECKING:
    from kedge.storage.layers import LayerStore
    from kedge.storage.tree import Filter


_FILTERS = (
    "local.includepattern",
    "local.excludepatterns",
    "local.metadatatransfer",
    "local.metadatatransferexclude",
)


class Included:
    """A filter that leaves out what no include pattern names, and of the rest what an exclude pattern names."""

    def __init__(self, include: Patterns, exclude: Patterns) -> None:
        self._include, self._exclude = include, exclude

    def matches(self, path: str) -> bool:
        """Is the path left out?"""
        return not self._include.matches(path) or self._exclude.matches(path)

    def may_match_below(self, directory: str) -> bool:
        """May the directory, left out itself, contain a path that is not?"""
        return True  # an include pattern may name anything below; contexts that use them are small


class LocalSource:
    """SourceHandler for local://. Volatile: known by the content of the paths that are taken from it, never stored."""

    def __init__(self, session: Session, layers: "LayerStore") -> None:
        self._session, self._layers = session, layers

    def pin(self, source: Source, platform: Platform | None, work: Work) -> Pin:
        """The name and the filter; what is in the directory is asked later, by checksum."""
        filters = tuple(source.attr(name) for name in _FILTERS)
        return Pin(digest_of((source.identifier, filters)), volatile=True)

    def fetch(self, source: Source, platform: Platform | None, pin: Pin, work: Work) -> Snapshot:
        """The directory as an adopted layer. Raises NotFound when the session lends none, or it is gone."""
        name = source.identifier.removeprefix("local://")
        started = time.time()

        def progress(size: int, done: bool) -> None:
            work.status(f"transferring {name}:", size, started=started, done=done)

        directory = self._session.directory(name, wanted_of(source), progress)
        return (self._layers.adopt(directory, filter_of(source)),)


def wanted_of(source: Source) -> Wanted:
    """What a local source's attributes ask of the client; raises InvalidInput for malformed ones."""
    include, exclude, follow = (
        tuple(_lines(source, f"local.{name}") or ()) for name in ("includepattern", "excludepatterns", "followpaths")
    )
    hint, session = source.attr("local.sharedkeyhint"), source.attr("local.session")
    only = tuple(_lines(source, "local.metadatatransferexclude") or ()) if _is_names(source) else None
    return Wanted(include, exclude, follow, hint, session, source.attr("local.differ") == "none", only)


def _is_names(source: Source) -> bool:
    """Are only the names of files wanted, but for some?"""
    return source.attr("local.metadatatransfer") == "true"


def filter_of(source: Source) -> "Filter | None":
    """The filter that a local source's attributes make; raises InvalidInput for malformed ones."""
    if _is_names(source):
        return None  # what came is all there is
    include, exclude = (_patterns(source, name) for name in ("local.includepattern", "local.excludepatterns"))
    if include is not None:
        return Included(include, exclude or Patterns(()))
    return exclude


def _patterns(source: Source, name: str) -> Patterns | None:
    lines = _lines(source, name)
    return Patterns(lines) if lines else None


def _lines(source: Source, name: str) -> list[str] | None:
    """BuildKit writes pattern lists as JSON arrays."""
    text = source.attr(name)
    if not text:
        return None
    try:
        lines = json.loads(text)
    except ValueError:
        lines = None
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise InvalidInput(f"attribute {name} is no JSON list of patterns")
    return lines
