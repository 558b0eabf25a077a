"""Durations and sizes as Go spells them: `1h30m`, `500ms`, `64m`.

Owns both directions, in whole nanoseconds and bytes. Does not know who uses them.
"""

import re

from kedge.model.errors import DockerfileError

_UNITS = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_TERM = r"([0-9]*)(?:(\.)([0-9]*))?(ns|us|µs|μs|ms|s|m|h)"
_LARGEST = 2**63 - 1
_MOST_DIGITS = 40  # more than `_LARGEST` has; int() refuses thousands of them
_SIZE = r"([0-9]+\.?[0-9]*|\.[0-9]+) ?([A-Za-z]{0,3})"
_SIZE_UNITS = r"b?|([kmgtp])(?:b|ib)?"


def parse_duration(text: str) -> int:
    """The nanoseconds that `text` spells (Go time.ParseDuration); raises DockerfileError."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total = position = 0
    while position < len(rest):
        term = re.compile(_TERM).match(rest, position)
        if term is None or not (term[1] or term[3]) or len(term[1].lstrip("0")) > _MOST_DIGITS:
            break
        from fractions import Fraction  # imports decimal: not for a Dockerfile without durations

        part = (term[3] or "")[:_MOST_DIGITS]
        amount = Fraction(int(term[1].lstrip("0") or 0)) + Fraction(int(part or 0), 10 ** len(part))
        total += int(amount * _UNITS[term[4]])
        position = term.end()
    if not rest or position < len(rest) or total > _LARGEST:
        hint = "Write a number and a unit, such as 30s or 1m30s."
        raise DockerfileError(f"invalid duration {text[:100]!r}", hint=hint)
    return sign * total


def duration_text(nanoseconds: int) -> str:
    """The shortest spelling with units, as Go's Duration.String: `1h0m0s`, `1.5s`, `500ms`, `0s`."""
    sign, value = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if value == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1000), ("ms", 10**6)):
        if value < size * 1000:
            return f"{sign}{_decimal(value, size)}{unit}"
    minutes, rest = divmod(value, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 10**9)}s"
    if hours:
        text = f"{hours}h{minutes}m{text}"
    elif minutes:
        text = f"{minutes}m{text}"
    return sign + text


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    digits = f"{part:0{len(str(unit)) - 1}d}".rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)


def parse_size(text: str) -> int:
    """The bytes that `text` spells, units of 1024 (`64m`, `1.5 GiB`); raises DockerfileError."""
    match = re.fullmatch(_SIZE, text)
    unit = match and re.fullmatch(_SIZE_UNITS, match[2].lower())
    if match is None or unit is None or len(match[1]) > 2 * _MOST_DIGITS:
        raise DockerfileError(f"invalid size {text[:100]!r}", hint="Write a number and a unit, such as 64m.")
    power = "kmgtp".index(unit[1]) + 1 if unit[1] else 0
    from fractions import Fraction

    size = int(Fraction(match[1]) * 1024**power)
    if size > _LARGEST:
        raise DockerfileError(f"size {text[:100]!r} is too large")
    return size
