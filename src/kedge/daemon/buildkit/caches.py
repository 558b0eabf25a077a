"""Caches of type local: directories of the client's, which are content stores of its session.

Owns the way there and back, through a directory of ours for the time of the build. Does not know caches' format.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.builder.request import CacheSpec
from kedge.daemon.sessions.layouts import receive_layout, send_blobs
from kedge.daemon.sessions.registry import ClientSession
from kedge.model.digest import parse_digest
from kedge.model.errors import Cancelled, KedgeError
from kedge.model.event import Report, WarningEvent
from kedge.model.value import replace

if TYPE_CHECKING:
    from kedge.storage.store import Store


class LentCaches:
    """The local caches of one build."""

    def __init__(self, store: "Store", session: Callable[[], ClientSession], cache_to: Sequence[CacheSpec]) -> None:
        self._store, self._session, self._wanted = store, session, cache_to
        self._held = ExitStack()
        self._targets: tuple[CacheSpec, ...] | None = None
        self._out: list[tuple[CacheSpec, Path]] = []  # what was asked for, our directory
        self._found: dict[CacheSpec, CacheSpec | None] = {}

    def close(self) -> None:
        """Remove our directories."""
        self._held.close()

    def _folder(self) -> Path:
        return Path(self._held.enter_context(self._store.layers.draft()).upper) / "cache"

    @property
    def targets(self) -> tuple[CacheSpec, ...]:
        """What to export to, as the builder takes it."""
        if self._targets is None:
            self._targets = tuple(self._target(spec) for spec in self._wanted)
        return self._targets

    def _target(self, spec: CacheSpec) -> CacheSpec:
        if spec.kind != "local":
            return spec
        attrs = dict(spec.attrs)
        folder = self._folder()
        self._out.append((spec, folder))
        attrs = {key: value for key, value in attrs.items() if key not in ("dest", "store", "reset")}
        return replace(spec, attrs=tuple(sorted((attrs | {"dest": str(folder)}).items())))

    def send(self, report: Report) -> None:
        """Give the client what was exported. One that cannot take it is warned, or as it asks for gets an error."""
        from kedge.exporters.cache import must_succeed

        for spec, folder in self._out:
            attrs = dict(spec.attrs)
            try:
                send_blobs(self._session(), f"local:{attrs.get('dest', '')}", folder)
            except Cancelled:
                raise
            except KedgeError as error:
                if must_succeed(attrs):
                    raise
                report(WarningEvent("", f"the cache is not exported, the build goes on without: {error.message}"))

    def sources(self, specs: Sequence[CacheSpec]) -> tuple[CacheSpec, ...]:
        """What to import from, as the builder takes it. A cache that cannot be had is left out."""
        found = (self._local(spec) if spec.kind == "local" else spec for spec in dict.fromkeys(specs))
        return tuple(spec for spec in found if spec is not None)

    def _local(self, spec: CacheSpec) -> CacheSpec | None:
        if spec not in self._found:
            self._found[spec] = self._source(spec)
        return self._found[spec]

    def _source(self, spec: CacheSpec) -> CacheSpec | None:
        attrs = dict(spec.attrs)
        try:
            folder = self._folder()
            digest = parse_digest(attrs.get("digest", ""))
            receive_layout(self._session(), f"local:{attrs.get('src', '')}", digest, folder)
        except KedgeError:
            return None
        return CacheSpec("local", (("digest", digest), ("src", str(folder))))
