"""Sizes and durations as the configuration files of Go programs spell them.

Owns the spellings: `512MB` is binary whatever its letters, as in docker/go-units' RAMInBytes; `10%` is of a disk;
durations are `48h`, `1h30m`, or seconds. Does not know what they are for.
"""

import re
import shutil
from pathlib import Path
from typing import Any, Final

from kedge.model.errors import InvalidInput

_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([kmgtp]?)(?:i?b)?)", re.IGNORECASE)
_SHIFTS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_TIMES: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "ms": 0.001}
_ANY_DISK: Final = 2_000_000_000  # bytes that a percentage is where the disk is not known


def read_bytes(value: Any, disk: Path) -> int:
    """Bytes: a number, a size, or a percentage of the disk that `disk` is on or will be. Raises InvalidInput."""
    if isinstance(value, int) and not isinstance(value, bool):
        return max(value, 0)
    text = str(value).strip()
    if text.endswith("%") and text[:-1].isascii() and text[:-1].isdecimal():
        return percentage(int(text[:-1]), disk)
    found = _SIZE.fullmatch(text)
    if not found:
        raise InvalidInput(f"buildkitd.toml: {text[:40]!r} is no size")
    return int(float(found[1]) * (1 << _SHIFTS[found[2].lower()]))


def percentage(part: int, disk: Path) -> int:
    """A part of a disk in whole GB, rounded up as BuildKit does."""
    if not part:
        return 0
    there = next((path for path in (disk, *disk.parents) if path.exists()), None)
    total = shutil.disk_usage(there).total if there else 0
    return (total * part // 100 // (1 << 30) + 1) * 10**9 if total else _ANY_DISK


def read_seconds(value: Any) -> float:
    """Seconds: a number, or Go's spelling. Raises InvalidInput."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return max(float(value), 0.0)
    text = str(value).strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(f"buildkitd.toml: {text[:40]!r} is no duration")
    return sum(float(number) * _TIMES[unit] for number, unit in parts)


def read_count(value: Any) -> int:
    """A whole number, not below 0. Raises InvalidInput."""
    text = str(value or 0).strip()
    if not text.isascii() or not text.isdecimal():
        raise InvalidInput(f"{text[:40]!r} is no number")
    return int(text)
