"""Sources behind a policy: what it denies is not touched, what it replaces is brought instead.

Owns that order. Does not know rules, nor schemes.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from kedge.model.errors import Unsupported
from kedge.model.graph import Snapshot
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.sources.handler import Pin, SourceHandler, Work

Policy: TypeAlias = Callable[[Source, Platform | None], Source]  # raises InvalidInput for one that is denied


class Policed:
    """SourceHandler over all others: the scheme is known only when the policy has spoken."""

    def __init__(self, handlers: Mapping[str, SourceHandler], policy: Policy) -> None:
        self._handlers, self._policy = handlers, policy

    def pin(self, source: Source, platform: Platform | None, work: Work) -> Pin:
        """The pin of what is used instead."""
        handler, source = self._chosen(source, platform)
        return handler.pin(source, platform, work)

    def fetch(self, source: Source, platform: Platform | None, pin: Pin, work: Work) -> Snapshot:
        """What is used instead."""
        handler, source = self._chosen(source, platform)
        return handler.fetch(source, platform, pin, work)

    def _chosen(self, source: Source, platform: Platform | None) -> tuple[SourceHandler, Source]:
        source = self._policy(source, platform)
        handler = self._handlers.get(source.scheme)
        if handler is None:
            raise Unsupported(f"sources of the kind {source.scheme[:40]!r} are not supported")
        return handler, source
