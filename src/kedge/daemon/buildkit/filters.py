"""containerd's filters, as far as clients use them: `type==regular,inuse`.

Owns the syntax and the operators. Does not know what is filtered: the fields are given.
"""

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from kedge.model.errors import InvalidInput

One = TypeVar("One")
_TERM: Final = re.compile(r"\s*([A-Za-z][\w./-]*)\s*(?:(==|!=|~=|<|<=|>|>=|=)\s*(\"(?:[^\"\\]|\\.)*\"|[^,]*))?\s*")


def read_filters(filters: Sequence[str], fields: Mapping[str, Callable[[One], str]]) -> Callable[[One], bool]:
    """A test for any of the filters; of each, all comma-separated terms must hold. Raises InvalidInput."""
    chosen = [_read_filter(text, fields) for text in filters if text]
    return lambda one: not chosen or any(all(term(one) for term in terms) for terms in chosen)


def _read_filter(text: str, fields: Mapping[str, Callable[[One], str]]) -> list[Callable[[One], bool]]:
    terms: list[Callable[[One], bool]] = []
    at = 0
    while at < len(text):
        found = _TERM.match(text, at)
        if not found or found.end() == at:
            raise InvalidInput(f"invalid filter {text[:80]!r}")
        terms.append(_term(fields, found[1], found[2] or "", (found[3] or "").strip().strip('"')))
        at = found.end()
        if at < len(text):
            if text[at] != ",":
                raise InvalidInput(f"invalid filter {text[:80]!r}")
            at += 1
    return terms


def _term(fields: Mapping[str, Callable[[One], str]], name: str, operator: str, value: str) -> Callable[[One], bool]:
    field = fields.get(name.lower())
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
