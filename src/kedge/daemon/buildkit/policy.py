"""Source policies: a client's rules about which sources its build may use, and what replaces them.

Owns matching and replacing (BuildKit's sourcepolicy). Patterns come from clients and Python's regular expressions can
take exponential time: only those are taken that cannot. Does not know where sources are used.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from kedge.daemon.wire import policy
from kedge.model.errors import InvalidInput
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.value import replace

_MOST_CHANGES: Final = 20
_MOST_RULES: Final = 1000
_LONGEST: Final = 500
_MOST_OPEN_ENDS: Final = 3  # parts of a pattern that match any length: each multiplies the time
_GROUP_REPEATED: Final = re.compile(r"\)[*+{?]|\\[1-9]|\(\?")
_OPEN_END: Final = re.compile(r"(?<!\\)[*+]|(?<!\\)\{\d*,\}")

Policy = Callable[[Source, Platform | None], Source]


def read_policies(told: Sequence[Any]) -> Policy | None:
    """What policies make of a source; None when there are none. The function raises InvalidInput for a denied one."""
    rules = [list(one.rules) for one in told if one.rules]
    if not rules:
        return None
    if sum(map(len, rules)) > _MOST_RULES:
        raise InvalidInput("a source policy has too many rules")
    compiled = [[(_pattern(rule.selector), rule) for rule in one] for one in rules]

    def apply(source: Source, platform: Platform | None = None) -> Source:
        for _ in range(_MOST_CHANGES):
            changed = next((new for one in compiled if (new := _evaluate(one, source)) != source), source)
            if changed == source:
                return source
            source = changed
        raise InvalidInput(f"too many operations: source policies change {source.identifier[:100]} without end")

    return apply


def _evaluate(rules: Sequence[tuple["re.Pattern[str]", Any]], source: Source) -> Source:
    """The source after the first rule that changes it. Of rules that allow or deny, the last one that fits decides."""
    denied = False
    for pattern, rule in rules:
        found = _matches(pattern, rule.selector, source)
        if found is None:
            continue
        if rule.action == policy.CONVERT:
            new = _converted(rule, source, found)
            if new != source:
                return new
        else:
            denied = rule.action == policy.DENY
    if denied:
        raise InvalidInput(f"source {source.identifier[:200]!r} not allowed by policy: source denied by policy")
    return source


def _matches(pattern: "re.Pattern[str]", selector: Any, source: Source) -> "re.Match[str] | None":
    for one in selector.constraints:
        value = source.attr(one.key)
        if one.condition == policy.EQUAL and value != one.value:
            return None
        if one.condition == policy.NOTEQUAL and value == one.value:
            return None
        if one.condition == policy.MATCHES and not _regex(one.value).search(value[:_LONGEST]):
            return None
    if len(source.identifier) > _LONGEST:
        raise InvalidInput("a source's name is too long for a policy to judge")
    if selector.match_type == policy.REGEX:
        return pattern.search(source.identifier)
    return pattern.fullmatch(source.identifier)


def _pattern(selector: Any) -> "re.Pattern[str]":
    text = selector.identifier
    if len(text) > _LONGEST:
        raise InvalidInput("a pattern of a source policy is too long")
    if selector.match_type == policy.REGEX:
        return _regex(text)
    if selector.match_type == policy.WILDCARD:
        parts = text.split("*")
        if len(parts) - 1 > _MOST_OPEN_ENDS:
            raise InvalidInput(f"a pattern of a source policy has more than {_MOST_OPEN_ENDS} *")
        return re.compile("(.*?)".join(re.escape(part) for part in parts), re.DOTALL)
    return re.compile(re.escape(text))


def _regex(text: str) -> "re.Pattern[str]":
    if len(text) > _LONGEST or _GROUP_REPEATED.search(text) or len(_OPEN_END.findall(text)) > _MOST_OPEN_ENDS:
        raise InvalidInput(f"the regular expression {text[:60]!r} of a source policy could take too long to match")
    try:
        return re.compile(text)
    except re.error as error:
        raise InvalidInput(f"invalid regex {text[:60]!r}: {error}") from None


def _converted(rule: Any, source: Source, found: "re.Match[str]") -> Source:
    groups = ("", *(group or "" for group in found.groups()))

    def group(reference: "re.Match[str]") -> str:
        number = int(reference[1] or reference[2])
        return groups[number] if number < len(groups) else ""

    identifier = re.sub(r"\$\{(\d{1,2})\}|\$(\d{1,2})", group, rule.updates.identifier) or source.identifier
    if "://" not in identifier:
        raise InvalidInput(f"a source policy makes an invalid source: {identifier[:100]!r}")
    attrs = dict(source.attrs) | dict(rule.updates.attrs)
    return replace(source, identifier=identifier, attrs=tuple(sorted(attrs.items())))
