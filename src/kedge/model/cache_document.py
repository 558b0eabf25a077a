"""A cache as it travels: which cache keys led to which layers, in BuildKit's format.

Owns the config document `application/vnd.buildkit.cacheconfig.v0` (BuildKit, cache/remotecache/v1/types): reading with
all its indexes checked, writing in a fixed order. Does not know how a record's digest is made, nor where bytes are.

A record is a node: its digest says what was done, each of its inputs lists alternatives, any of which will do: another
record with a selector (the input's key), or one that stands for content. Its results are chains of layers.
"""

import json
from typing import Any, Final

from kedge.model.digest import Digest, parse_digest
from kedge.model.errors import IntegrityError, InvalidDigest
from kedge.model.graph import Snapshot
from kedge.model.value import dataclass

CACHE_CONFIG: Final = "application/vnd.buildkit.cacheconfig.v0"
INLINE_FIELD: Final = "moby.buildkit.cache.v0"  # of an image's config: the records, JSON in base64
LARGEST: Final = 32 << 20  # bytes of a config; BuildKit itself reads no more than one MiB
_MOST_RECORDS: Final = 200_000
_NO_TIME: Final = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """A blob and the index of the layer below it, -1 for none. The rest only where no manifest tells it (S3)."""

    blob: Digest
    parent: int = -1
    media_type: str = ""
    diff_id: Digest | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """One alternative of an input: the index of a record, and the digest of the selected paths, if any."""

    record: int
    selector: str = ""


@dataclass(frozen=True, slots=True)
class CacheResult:
    """What a record led to: indexes of layers, bottom first. `created_at` is RFC 3339."""

    layers: tuple[int, ...]
    created_at: str = _NO_TIME


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """What was done (`digest`), to what (`inputs`: the alternatives of each), and what came out."""

    digest: Digest
    inputs: tuple[tuple[Link, ...], ...] = ()
    results: tuple[CacheResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A record to be: with the snapshot that came out, None where that is not (or no longer) known.

    `inputs` refer to other steps by index.
    """

    digest: Digest
    inputs: tuple[tuple[Link, ...], ...] = ()
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class CacheDocument:
    """A whole cache."""

    layers: tuple[CacheLayer, ...] = ()
    records: tuple[CacheRecord, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes) -> "CacheDocument":
        """Read a config. Raises IntegrityError for anything that is none: indexes out of range, loops."""
        try:
            value = json.loads(data)
            layers = tuple(_read_layer(entry) for entry in value.get("layers") or ())
            chains = _chains(layers)
            records = read_records(value.get("records") or (), chains)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidDigest) as error:
            raise IntegrityError(f"the cache's config cannot be read: {error}") from None
        return cls(layers, records)

    def to_bytes(self) -> bytes:
        """The config. Results must be chains along the layers' parents, bottom first."""
        layers = [_write_layer(layer) for layer in self.layers]
        records = [write_record(record, lambda layers: layers[-1]) for record in self.records]
        return json.dumps({"layers": layers, "records": records}, separators=(",", ":")).encode()


def read_records(entries: Any, chains: list[tuple[int, ...]]) -> tuple[CacheRecord, ...]:
    """Records as JSON values; `chains` are the layers below and including each. Raises IntegrityError, ValueError."""
    if len(entries) > _MOST_RECORDS:
        raise IntegrityError("the cache's config has too many records")
    records = tuple(_read_record(entry, len(entries), chains) for entry in entries)
    _refuse_loops(records)
    return records


def write_record(record: CacheRecord, top: Any) -> dict[str, Any]:
    """A record as a JSON value. `top` turns a result's layers into the index that stands for them, or None."""
    out: dict[str, Any] = {}
    results, chained = [], []
    for result in record.results:
        index = top(result.layers)
        if index is not None:
            results.append({"layer": index, "createdAt": result.created_at})
        else:
            chained.append({"layers": list(result.layers), "createdAt": result.created_at})
    if results:
        out["layers"] = results
    if chained:
        out["chains"] = chained
    out["digest"] = record.digest
    if record.inputs:
        out["inputs"] = [[_write_link(link) for link in links] for links in record.inputs]
    return out


def _write_link(link: Link) -> dict[str, Any]:
    return ({"selector": link.selector} if link.selector else {}) | {"link": link.record}


def _write_layer(layer: CacheLayer) -> dict[str, Any]:
    out: dict[str, Any] = {"blob": layer.blob}
    if layer.parent:
        out["parent"] = layer.parent
    if layer.diff_id:
        out["annotations"] = {
            "mediaType": layer.media_type,
            "diffID": layer.diff_id,
            "size": layer.size,
            "createdAt": _NO_TIME,
        }
    return out


def _read_layer(entry: Any) -> CacheLayer:
    notes = entry.get("annotations") or {}
    diff_id = parse_digest(notes["diffID"]) if notes.get("diffID") else None
    parent = _integer(entry.get("parent", 0))
    return CacheLayer(parse_digest(entry["blob"]), parent, str(notes.get("mediaType", "")), diff_id,
                      _integer(notes.get("size", 0)))  # fmt: skip


def _chains(layers: tuple[CacheLayer, ...]) -> list[tuple[int, ...]]:
    """For each layer, itself and all below it, bottom first."""
    chains: dict[int, tuple[int, ...]] = {}
    for start in range(len(layers)):
        way: list[int] = []
        at = start
        while at != -1 and at not in chains:
            if not 0 <= at < len(layers) or at in way or len(way) > 1000:
                raise IntegrityError("the cache's config has layers that lie on each other in a circle, or on none")
            way.append(at)
            at = layers[at].parent
        below = chains[at] if at != -1 else ()
        for index in reversed(way):
            below = (*below, index)
            chains[index] = below
    return [chains[index] for index in range(len(layers))]


def _read_record(entry: Any, count: int, chains: list[tuple[int, ...]]) -> CacheRecord:
    results = [
        CacheResult(chains[_index(result["layer"], len(chains))], _time(result)) for result in entry.get("layers") or ()
    ]
    results += [
        CacheResult(tuple(_index(layer, len(chains)) for layer in result["layers"]), _time(result))
        for result in entry.get("chains") or ()
    ]
    inputs = tuple(
        tuple(Link(_index(link["link"], count), str(link.get("selector", ""))) for link in links)
        for links in entry.get("inputs") or ()
    )
    return CacheRecord(parse_digest(entry["digest"]), inputs, tuple(results))


def _time(result: Any) -> str:
    return str(result.get("createdAt") or _NO_TIME)


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a number is no integer")
    return value


def _index(value: Any, length: int) -> int:
    if not 0 <= _integer(value) < length:
        raise IntegrityError(f"the cache's config refers to entry {value} of {length}")
    return int(value)


def _refuse_loops(records: tuple[CacheRecord, ...]) -> None:
    done = bytearray(len(records))  # 0 not seen, 1 on the way, 2 done
    for start in range(len(records)):
        stack = [start]
        while stack:
            at = stack[-1]
            if done[at] == 2:
                stack.pop()
                continue
            below = [link.record for links in records[at].inputs for link in links if done[link.record] != 2]
            if done[at] == 1 and below:
                raise IntegrityError("the cache's config has records that depend on themselves")
            done[at] = 1 if below else 2
            for index in below:
                if done[index] == 1:
                    raise IntegrityError("the cache's config has records that depend on themselves")
            stack += below
