"""What the store holds, and what may go, in BuildKit's words.

Owns the translation of records and filters (containerd's filter syntax, as far as clients use it). Does not know what
is needed (`storage.gc`).
"""

import fnmatch
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from kedge.daemon.buildkit.errors import Refused
from kedge.daemon.buildkit.progress import to_timestamp
from kedge.daemon.wire import control
from kedge.model.errors import InvalidInput
from kedge.model.value import replace
from kedge.storage.accounts import Kind, Usage
from kedge.storage.gc import PruneOptions
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
_TERM: Final = re.compile(r"\s*([A-Za-z][\w./-]*)\s*(?:(==|!=|~=|<|<=|>|>=|=)\s*(\"(?:[^\"\\]|\\.)*\"|[^,]*))?\s*")
Match = Callable[[Usage], bool]


def usage_records(store: Store, filters: Sequence[str], age: float = 0, *, images: bool = True) -> list[Any]:
    """Everything that the filters choose; `age` keeps only what was not used for so many seconds.

    `images`: what an image holds is in use.
    """
    match, before = read_filters(filters), time.time() - age
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
    match = read_filters(request.filter)
    if min(request.keepDuration, request.reservedSpace, request.maxUsedSpace, request.minFreeSpace) < 0:
        raise Refused("a prune request has a negative number")
    until = time.time() - request.keepDuration / 1e9 if request.keepDuration else None
    keep = max(request.reservedSpace, request.maxUsedSpace) or None
    ids: tuple[str, ...] = ()
    if request.filter:
        ids = tuple(one.id for one in store.usage() if match(one))
        if not ids:
            return
    if request.all and not images and not ids:
        for record in store.images.list():
            store.images.remove(record.name)
    options = PruneOptions(all=request.all, until=until, ids=ids, keep=keep)
    for one in store.prune(options).records:
        yield usage_record(one)


def read_filters(filters: Sequence[str]) -> Match:
    """A test for any of the filters; of each, all comma-separated terms must hold. Raises InvalidInput."""
    chosen = [_read_filter(text) for text in filters if text]
    return lambda usage: not chosen or any(all(term(usage) for term in terms) for terms in chosen)


def _read_filter(text: str) -> list[Match]:
    terms: list[Match] = []
    at = 0
    while at < len(text):
        found = _TERM.match(text, at)
        if not found or found.end() == at:
            raise InvalidInput(f"invalid filter {text[:80]!r}")
        terms.append(_term(found[1], found[2] or "", (found[3] or "").strip().strip('"')))
        at = found.end()
        if at < len(text):
            if text[at] != ",":
                raise InvalidInput(f"invalid filter {text[:80]!r}")
            at += 1
    return terms


_FIELDS: Final[dict[str, Callable[[Usage], str]]] = {
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


def _term(name: str, operator: str, value: str) -> Match:
    field = _FIELDS.get(name.lower())
    if field is None:
        raise InvalidInput(f"unknown filter {name[:40]!r}")
    if not operator:
        return lambda one: field(one) not in ("", "false")
    if operator in ("==", "="):
        return lambda one: field(one) == value
    if operator == "!=":
        return lambda one: field(one) != value
    if operator == "~=":
        if any(character in value for character in "()[]{}|\\+"):
            raise InvalidInput(f"filter {name}~= takes only letters, digits, * and ?")
        return lambda one: fnmatch.fnmatchcase(field(one), f"*{value.replace('.*', '*')}*")
    raise InvalidInput(f"unknown operator {operator} in a filter")
