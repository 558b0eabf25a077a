"""`--filter key=value`, given several times: records must match one value of each key.

Owns the grammar and the matching of common keys. Does not know which keys a command has; it names them.
"""

from collections.abc import Collection, Mapping
from typing import Final

from kedge.cli.command import Flag
from kedge.cli.parse import UsageError
from kedge.model.suggest import nearest

FILTER: Final = Flag("filter", "Only those that match", short="f", metavar="KEY=VALUE", many=True)


def parse_filters(texts: list[str], known: Collection[str], command: str) -> dict[str, list[str]]:
    """The filters by key; raises UsageError for a key the command does not know."""
    filters: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            guess = nearest(key, known)
            hint = f"Did you mean {guess}=…?" if guess and guess != key else f"Filters are {', '.join(sorted(known))}."
            raise UsageError(f"invalid filter {text!r}: expected KEY=VALUE with a known key", command, hint)
        filters.setdefault(key, []).append(value)
    return filters


def label_matches(labels: Mapping[str, str], wanted: list[str]) -> bool:
    """Does every wanted `key` or `key=value` occur in `labels`?"""
    for text in wanted:
        key, equals, value = text.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def is_true(text: str) -> bool:
    return text.lower() in ("1", "t", "true")
