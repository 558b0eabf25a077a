"""What the store holds, and what may go, in BuildKit's words.

Owns the translation of records, and what filters are about. Does not know what is needed (`storage.gc`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from kedge.daemon.buildkit.config import GcPolicy
from kedge.daemon.buildkit.errors import Refused
from kedge.daemon.buildkit.filters import read_filters
from kedge.daemon.buildkit.progress import to_timestamp
from kedge.daemon.wire import control
from kedge.model.value import replace
from kedge.storage.accounts import Kind, Usage
from kedge.storage.policies import Policy, collect
from kedge.storage.store import Store

_TYPES: Final[dict[Kind, str]] = {
    "layer": "regular",
    "blob": "regular",
    "cache-mount": "exec.cachemount",
    "log": "internal",
    "source": "source.git.checkout",
    "draft": "internal",
    "store": "internal",
}


def usage_records(store: Store, filters: Sequence[str], age: float = 0, *, images: bool = True) -> list[Any]:
    """Everything that the filters choose; `age` keeps only what was not used for so many seconds.

    `images`: what an image holds is in use.
    """
    match, before = read_filters(filters, FIELDS), time.time() - age
    return [
        usage_record(one if images or not one.shared else replace(one, in_use=False))
        for one in store.usage()
        if one.kind not in ("store", "draft") and match(one) and (not age or one.last_used <= before)
    ]


def usage_record(one: Usage) -> Any:
    """A Usage as a message."""
    return control.UsageRecord(
        ID=one.id,
        Mutable=one.kind == "cache-mount",
        InUse=one.in_use,
        Size=one.size,
        CreatedAt=to_timestamp(one.created),
        LastUsedAt=to_timestamp(one.last_used),
        UsageCount=1,
        Description=_description(one),
        RecordType=record_type(one),
        Shared=one.shared,
    )


def _description(one: Usage) -> str:
    return "local source of a client" if _is_lent(one) else one.description


def _is_lent(one: Usage) -> bool:
    return one.kind == "cache-mount" and one.id.startswith("lent-")


def record_type(one: Usage) -> str:
    """What BuildKit calls this kind of thing."""
    return "source.local" if _is_lent(one) else _TYPES[one.kind]


def prune(store: Store, request: Any, *, images: bool = True) -> Iterator[Any]:
    """Remove what a PruneRequest allows; yields what went. Without `images`, their names do not hold anything."""
    if min(request.keepDuration, request.reservedSpace, request.maxUsedSpace, request.minFreeSpace) < 0:
        raise Refused("a prune request has a negative number")
    rule = GcPolicy(
        request.all,
        request.keepDuration / 1e9,
        tuple(request.filter),
        request.reservedSpace,
        request.maxUsedSpace,
        request.minFreeSpace,
    )
    for one in collect(store, [policy_of(rule)], images=images or not request.all):
        yield usage_record(one)


def policy_of(rule: GcPolicy) -> Policy:
    """A rule as the store applies it. Raises InvalidInput for a filter that is none."""
    chosen = read_filters(rule.filters, FIELDS) if any(rule.filters) else None
    return Policy(rule.all, rule.keep_seconds, chosen, rule.reserved_space, rule.max_used_space, rule.min_free_space)


FIELDS: Final[dict[str, Callable[[Usage], str]]] = {
    "id": lambda one: one.id,
    "type": record_type,
    "description": _description,
    "inuse": lambda one: str(one.in_use).lower(),
    "mutable": lambda one: str(one.kind == "cache-mount").lower(),
    "immutable": lambda one: str(one.kind != "cache-mount").lower(),
    "shared": lambda one: str(one.shared).lower(),
    "private": lambda one: str(not one.shared).lower(),
    "parents": lambda one: "",
}
