"""The texts that a build leaves in an image's history, letter for letter as BuildKit writes them.

Owns Go's ways of printing lists, strings and healthchecks. Does not know when an entry is made.
"""

from collections.abc import Iterable, Mapping

from kedge.dockerfile.durations import duration_text
from kedge.model.image import Healthcheck

COMMENT = "buildkit.dockerfile.v0"
_ESCAPES = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", '"': '\\"', "\\": "\\\\",
}  # fmt: skip


def quoted(text: str) -> str:
    """A Go string literal (strconv.Quote)."""
    return '"' + "".join(_quoted_character(c) for c in text) + '"'


def _quoted_character(character: str) -> str:
    code = ord(character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, kept by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted_list(words: Iterable[str] | None) -> str:
    """A list of string literals: `["sh" "-c"]`."""
    return "[" + " ".join(quoted(word) for word in words or ()) + "]"


def plain_list(words: Iterable[str]) -> str:
    """A list of bare words: `[80/tcp 443/tcp]`."""
    return "[" + " ".join(words) + "]"


def healthcheck_text(check: Healthcheck) -> str:
    """A healthcheck's fields by name."""
    fields = [
        f"Test:{plain_list(check.test)}",
        f"Interval:{duration_text(check.interval)}",
        f"Timeout:{duration_text(check.timeout)}",
        f"StartPeriod:{duration_text(check.start_period)}",
        f"StartInterval:{duration_text(check.start_interval)}",
        f"Retries:{check.retries}",
    ]
    return "{" + " ".join(fields) + "}"


def run_text(args: Iterable[str], build_args: Mapping[str, str]) -> str:
    """A RUN step: the build arguments in force, counted and named, then the command."""
    words = [f"{name}={value}" for name, value in build_args.items()]
    return " ".join([*([f"|{len(words)}"] if words else ()), *words, *args])
