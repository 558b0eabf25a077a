"""Times as Docker's clients write them.

Owns the reading of these texts. Does not know what they are for.
"""

import re
import time
from typing import Final

from kedge.model.errors import InvalidInput

_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def read_moment(text: str) -> float:
    """Seconds since the epoch, or RFC 3339; 0 for none. Raises InvalidInput."""
    try:
        moment = float(text or 0)
    except ValueError:
        import datetime

        try:
            moment = datetime.datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            raise InvalidInput(f"invalid time {text[:40]!r}") from None
    return moment if 0 <= moment < 1 << 40 else 0.0


def read_until(text: str) -> float:
    """The moment that `until` names: a time, or how long ago (`24h`). Raises InvalidInput."""
    if re.fullmatch(r"(\d{1,9}(\.\d{1,9})?(h|ms|m|s))+", text):
        return time.time() - read_duration(text)
    return read_moment(text)


def read_duration(text: str) -> float:
    """`24h`, `1h30m`: seconds. Raises InvalidInput."""
    if not re.fullmatch(r"(\d{1,9}(\.\d{1,9})?(h|ms|m|s))+", text):
        raise InvalidInput(f"invalid duration {text[:40]!r}: expected one such as 24h")
    return sum(float(n) * _UNITS[u] for n, u in re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text))
