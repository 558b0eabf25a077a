"""How sizes, ages and ids are spelled in tables, as Docker's client spells them.

Owns spelling only; pure functions.
"""

import re
from typing import Final

from kedge.model.digest import Digest, hex_part
from kedge.model.errors import InvalidInput

_UNITS: Final = {
    "": 1,
    "b": 1,
    "k": 1024,
    "kb": 1024,
    "m": 1024**2,
    "mb": 1024**2,
    "g": 1024**3,
    "gb": 1024**3,
    "t": 1024**4,
    "tb": 1024**4,
}
_DURATIONS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def size(count: int | None) -> str:
    """A number of bytes with three digits: `0B`, `2.29MB`, `1.5GB`; `N/A` for None."""
    if count is None:
        return "N/A"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if value < 999.5 or unit == "PB":
            break
        value /= 1000
    return f"{value:.3g}{unit}"


def age(seconds: float) -> str:
    """How long ago: `5 seconds ago`, `About a minute ago`, `3 weeks ago`."""
    return f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """A length of time in one rounded unit."""
    whole = int(max(seconds, 0.0))
    minutes, hours = whole // 60, round(whole / 3600)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    for limit, length, name in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if days < limit:
            return f"{days // length} {name}"
    return f"{days // 365} years"


def short_id(digest: str) -> str:
    """The first twelve digits of a digest."""
    return hex_part(Digest(digest))[:12]


def cut(text: str, length: int) -> str:
    """`text` in at most `length` characters, an ellipsis at its end if it was longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def parse_size(text: str) -> int:
    """Bytes: `128m`, `2g`, `65536`; binary units, as Docker reads memory. Raises InvalidInput."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip().lower().replace("ib", "b"))
    if not match or match[2] not in _UNITS:
        raise InvalidInput(f"{text!r} is no size", hint="Write a number with b, k, m or g, such as 512m.")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_duration(text: str) -> float:
    """Seconds: `10s`, `1h30m`, `7d`. Raises InvalidInput."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(f"{text!r} is no duration", hint="Write a number with s, m, h or d, such as 24h.")
    return sum(float(number) * _DURATIONS[unit] for number, unit in parts)
