"""JSON from a client, read field by field with its type checked: whatever is sent, the answer is a value or a 400.

Owns the reading of bodies, queries and filters. Does not know what a field is for.
"""

import json
from collections.abc import Mapping
from typing import Any

from kedge.model.errors import InvalidInput

_LARGEST = 1 << 62


class Fields:
    """A JSON object. A missing field and null are the same: the default."""

    def __init__(self, value: Any, where: str = "the request") -> None:
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise InvalidInput(f"{where} must be a JSON object")
        self.raw: dict[str, Any] = value
        self._where = where

    @classmethod
    def parse(cls, data: bytes) -> "Fields":
        """The object in a body; an empty body is an empty one."""
        if not data.strip():
            return cls({})
        try:
            return cls(json.loads(data))
        except (ValueError, RecursionError):
            raise InvalidInput("the request's body is no valid JSON") from None

    def __contains__(self, name: str) -> bool:
        return self.raw.get(name) is not None

    def _get(self, name: str, kind: type | tuple[type, ...], default: Any, what: str) -> Any:
        value = self.raw.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidInput(f"{self._where}: {name} must be {what}")
        return value

    def text(self, name: str, default: str = "") -> str:
        value: str = self._get(name, str, default, "a string")
        return checked_text(value, name)

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self._get(name, bool, default, "true or false"))

    def number(self, name: str, default: int = 0) -> int:
        value = self._get(name, (int, float), default, "a number")
        if isinstance(value, float) and (not value.is_integer() or abs(value) > _LARGEST):
            raise InvalidInput(f"{self._where}: {name} must be a whole number")
        if abs(value) > _LARGEST:
            raise InvalidInput(f"{self._where}: {name} is out of range")
        return int(value)

    def texts(self, name: str, *, word: bool = False) -> tuple[str, ...] | None:
        """A list of strings, None when there is none; with `word`, a single string is a list of one."""
        value = self.raw.get(name)
        if word and isinstance(value, str):
            value = [value]
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise InvalidInput(f"{self._where}: {name} must be a list of strings")
        return tuple(checked_text(each, name) for each in value)

    def object(self, name: str) -> "Fields":
        return Fields(self.raw.get(name), f"{self._where}: {name}")

    def objects(self, name: str) -> list["Fields"]:
        value = self._get(name, list, [], "a list")
        return [Fields(each, f"{self._where}: {name}") for each in value]

    def mapping(self, name: str) -> dict[str, str]:
        """An object of strings; null values become empty strings."""
        value = self._get(name, dict, {}, "an object")
        if not all(each is None or isinstance(each, str) for each in value.values()):
            raise InvalidInput(f"{self._where}: {name} must be an object of strings")
        return {checked_text(key, name): checked_text(each or "", name) for key, each in value.items()}


def checked_text(value: str, name: str) -> str:
    """Text that can become an argument of a system call: no NUL, no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{name} is no valid text") from None
    if "\0" in value:
        raise InvalidInput(f"{name} must not hold a NUL character")
    return value


def json_object(text: str, name: str) -> Fields:
    """A query parameter that holds a JSON object; empty: none."""
    if not text:
        return Fields({})
    try:
        return Fields(json.loads(text), name)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{name} is no valid JSON") from None


def read_filters(text: str) -> dict[str, tuple[str, ...]]:
    """`filters`: {"label": {"a=b": true}}, or as old clients write it {"label": ["a=b"]}."""
    found: dict[str, tuple[str, ...]] = {}
    for key, value in json_object(text, "filters").raw.items():
        if isinstance(value, Mapping):
            found[key] = tuple(str(each) for each in value)
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            found[key] = tuple(value)
        else:
            raise InvalidInput(f"invalid filter {key[:40]!r}")
    return found


def read_flag(text: str) -> bool:
    """A boolean query parameter, as Docker reads it."""
    return text.strip().lower() not in ("", "0", "no", "false", "none")


def read_number(text: str, name: str, default: int = 0) -> int:
    """A whole number in a query parameter."""
    if not text:
        return default
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise InvalidInput(f"{name} must be a whole number")
    return int(text)
