"""What may go of itself, as buildkitd is told: `[worker.oci]` of its configuration, and its flags.

Owns the names, old ones too, and what holds where nothing is said. Does not know how rules are applied.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kedge.daemon.buildkit.config import GcPolicy
from kedge.daemon.buildkit.quantities import percentage, read_bytes, read_count, read_seconds
from kedge.model.errors import InvalidInput
from kedge.model.value import dataclass

_HOURS, _DAYS = 3600.0, 86400.0
_MADE_AGAIN: Final = ("type==source.local", "type==exec.cachemount", "type==source.git.checkout")
_FEW: Final = 512_000_000  # bytes that are nobody's worry
# BuildKit's own defaults: percentages of the disk, and bytes that are enough on any.
_RESERVED, _ENOUGH_RESERVED = 10, 10_000_000_000
_MOST, _ENOUGH = 80, 100_000_000_000
_FREE = 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much may stay, must stay free, and is never taken; in bytes, 0 for what is not said."""

    reserved: int = 0
    free: int = 0
    most: int = 0

    @property
    def said(self) -> bool:
        """Is anything said?"""
        return bool(self.reserved or self.free or self.most)


def read_rules(worker: Mapping[str, Any], keep_storage: str, disk: Path) -> tuple[GcPolicy, ...]:
    """The rules of a worker's table; `keep_storage` is the flag `Reserved[,Free[,Maximum]]` in MB, which is stronger.

    Raises InvalidInput.
    """
    tables = worker.get("gcpolicy", [])
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise InvalidInput("buildkitd.toml: gcpolicy is no list of tables")
    if tables:
        return tuple(_rule(one, disk) for one in tables)
    sizes = _flagged(keep_storage) if keep_storage else _told(worker, disk)
    return defaults(sizes if sizes.said else _of_disk(disk))


def defaults(sizes: Sizes) -> tuple[GcPolicy, ...]:
    """BuildKit's rules for some sizes: what is easily made again first, then what is old, then anything."""
    within = (sizes.reserved, sizes.most, sizes.free)
    return (
        GcPolicy(False, 48 * _HOURS, _MADE_AGAIN, 0, _FEW, 0),
        GcPolicy(False, 60 * _DAYS, (), *within),
        GcPolicy(False, 0, (), *within),
        GcPolicy(True, 0, (), *within),
    )


def _of_disk(disk: Path) -> Sizes:
    reserved = min(percentage(_RESERVED, disk), _ENOUGH_RESERVED)
    return Sizes(reserved, percentage(_FREE, disk), min(percentage(_MOST, disk), _ENOUGH))


def _told(worker: Mapping[str, Any], disk: Path) -> Sizes:
    reserved, free, most = (
        read_bytes(worker.get(name, 0), disk) for name in ("reservedSpace", "minFreeSpace", "maxUsedSpace")
    )
    sizes = Sizes(reserved, free, most)
    return sizes if sizes.said else Sizes(read_bytes(worker.get("gckeepstorage", 0), disk))


def _flagged(text: str) -> Sizes:
    numbers = [read_count(part) * 1_000_000 for part in text.split(",")][:3]
    return Sizes(*numbers)


def _rule(table: Mapping[str, Any], disk: Path) -> GcPolicy:
    filters = table.get("filters", [])
    if not isinstance(filters, list) or not all(isinstance(one, str) for one in filters):
        raise InvalidInput("buildkitd.toml: filters is no list of texts")
    reserved, most, free = (
        read_bytes(table.get(name, 0), disk) for name in ("reservedSpace", "maxUsedSpace", "minFreeSpace")
    )
    return GcPolicy(
        bool(table.get("all")),
        read_seconds(table.get("keepDuration", 0)),
        tuple(filters),
        reserved or read_bytes(table.get("keepBytes", 0), disk),
        most,
        free,
    )
