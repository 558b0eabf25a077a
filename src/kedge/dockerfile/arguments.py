"""Arguments: how each instruction's text is cut into flags and values.

Owns the table from keyword to reader. Does not know lines or locations: errors are raised without one.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from kedge.dockerfile.lines import BLANKS
from kedge.dockerfile.words import split
from kedge.model.errors import DockerfileError

_GAP = re.compile(
    r"[\t\v\f\r ]+"
)  # what separates words; other Unicode blanks are stripped at the ends, but do not separate


class Arguments(NamedTuple):
    values: tuple[str, ...] = ()
    json: bool = False


Reader: TypeAlias = Callable[[str, str, str], Arguments]  # text behind the flags, escape character, instruction


def split_keyword(line: str) -> tuple[str, str]:
    """The first word of a logical line, and the rest."""
    keyword, *rest = _GAP.split(line.strip(BLANKS), 1)
    return keyword, rest[0] if rest else ""


# ---- flags -----------------------------------------------------------------------------------------------------------


def read_flags(text: str, escape: str) -> tuple[tuple[str, ...], str]:
    """The words with `--` in front, quotes and escapes resolved, and the text behind them; a bare `--` ends them."""
    flags: list[str] = []
    position = 0
    while flag := _next_flag(text, position, escape):
        position = flag[1]
        if flag[0] == "--":
            break
        flags.append(flag[0])
    return tuple(flags), text[position:].strip(BLANKS)


def _next_flag(text: str, position: int, escape: str) -> tuple[str, int] | None:
    """The flag behind `position` and where it ends; None when something else stands there."""
    while position < len(text) and text[position] in BLANKS:
        position += 1
    if not text.startswith("--", position):
        return None
    end = position
    while end < len(text) and text[end] not in BLANKS:
        end += 1
    word = text[position:end]
    if not any(special in word for special in ("'", '"', escape)):
        return word, end  # nearly every flag: compiling the patterns takes longer than reading a Dockerfile
    patterns = _flag_patterns(escape)
    match = patterns.flag.match(text, position)
    assert match
    parts = (part["inner"] if part["quote"] else part[0] for part in patterns.part.finditer(match[1]))
    return "".join(patterns.escaped.sub(r"\1", part) for part in parts), match.end()


class _FlagPatterns(NamedTuple):
    flag: re.Pattern[str]  # a whole flag, behind blanks
    part: re.Pattern[str]  # of a flag: a quoted text, or a run of others
    escaped: re.Pattern[str]


@lru_cache
def _flag_patterns(escape: str) -> _FlagPatterns:
    """An escape character escapes anything, inside both kinds of quotes too; at the very end it is nothing.

    The alternatives begin differently, so nothing backtracks. Possessive quantifiers would say so, but Python before
    3.11.5 returns wrong groups for them.
    """
    e = re.escape(escape)
    escaped = rf"{e}(?:.|\Z)"
    single, double = (rf"{quote}(?:{escaped}|[^{quote}{e}])*(?:{quote}|\Z)" for quote in "'\"")
    plain = rf"""(?:{escaped}|[^{e}'"{BLANKS}])"""
    quoted = rf"""(?P<quote>['"])(?P<inner>(?:{escaped}|(?!(?P=quote))[^{e}])*)(?:(?P=quote)|\Z)"""
    return _FlagPatterns(
        flag=re.compile(f"[{BLANKS}]*(--(?:{single}|{double}|{plain})*)", re.DOTALL),
        part=re.compile(f"{quoted}|{plain}+", re.DOTALL),
        escaped=re.compile(f"{e}(.?)", re.DOTALL),
    )


# ---- arguments -------------------------------------------------------------------------------------------------------


def read_nothing(text: str, escape: str, instruction: str) -> Arguments:
    return Arguments()


def _read_text(text: str, escape: str, instruction: str) -> Arguments:
    return Arguments((text,) if text else ())


def _read_words(text: str, escape: str, instruction: str) -> Arguments:
    return Arguments(tuple(_GAP.split(text)) if text else ())


def _read_json_or_text(text: str, escape: str, instruction: str) -> Arguments:
    members = json_strings(text)
    return _read_text(text, escape, instruction) if members is None else Arguments(members, True)


def _read_json_or_words(text: str, escape: str, instruction: str) -> Arguments:
    members = json_strings(text)
    return _read_words(text, escape, instruction) if members is None else Arguments(members, True)


def _read_quoted_words(text: str, escape: str, instruction: str) -> Arguments:
    return Arguments(split(text, escape))


def _read_pairs(text: str, escape: str, instruction: str) -> Arguments:
    """`key=value …`, or in the old form `key some value`: what comes first, a blank or `=`, tells which."""
    words = split(text, escape)
    if not words:
        return Arguments()
    if "=" not in words[0]:
        key, *value = _GAP.split(text, 1)
        if not value:
            raise DockerfileError(
                f"{instruction} must have two arguments",
                hint=f"Write {instruction} {key}=value, or {key}= for an empty value.",
            )
        return Arguments((key, value[0], ""))
    values: list[str] = []
    for word in words:
        key, separator, value_ = word.partition("=")
        if not separator:
            hint = f'A value with blanks must be quoted: {values[-3]}="{_unquoted(values[-2])} {word}".'
            raise DockerfileError(f"can't find = in {word!r}, it must be of the form name=value", hint=hint, fault=word)
        values += (key, value_, separator)
    return Arguments(tuple(values))


def _unquoted(text: str) -> str:
    return text.strip("'\"")


def _read_health_check(text: str, escape: str, instruction: str) -> Arguments:
    kind, *rest = re.split(f"[{BLANKS}]+", text, maxsplit=1)
    if not kind:
        return Arguments()
    command = _read_json_or_text(rest[0] if rest else "", escape, instruction)
    return Arguments((kind, *command.values), command.json)


READERS: Mapping[str, Reader] = {
    "ADD": _read_json_or_words,
    "ARG": _read_quoted_words,
    "CMD": _read_json_or_text,
    "COPY": _read_json_or_words,
    "ENTRYPOINT": _read_json_or_text,
    "ENV": _read_pairs,
    "EXPOSE": _read_words,
    "FROM": _read_words,
    "HEALTHCHECK": _read_health_check,
    "LABEL": _read_pairs,
    "MAINTAINER": _read_text,
    "RUN": _read_json_or_text,
    "SHELL": _read_json_or_text,
    "STOPSIGNAL": _read_text,
    "USER": _read_text,
    "VOLUME": _read_json_or_words,
    "WORKDIR": _read_text,
}


# ---- JSON ------------------------------------------------------------------------------------------------------------


def json_strings(text: str) -> tuple[str, ...] | None:
    """The members of a JSON array of strings; None for a text that is no JSON array.

    Raises DockerfileError for an array with other members: it is too like a JSON form to be meant for a shell.
    """
    text = text.lstrip(BLANKS)
    if not text.startswith("["):
        return None
    try:
        members = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(member, str) for member in members):
        raise DockerfileError(
            "a JSON array must be made of strings only", hint='Put every member in double quotes: ["sleep", "10"].'
        )
    # RFC 8259 leaves half a surrogate pair open; like Go's decoder we read the replacement character.
    return tuple(_LONE_SURROGATE.sub(_replacement, member) for member in members)


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _replacement(match: re.Match[str]) -> str:
    # U+DC80..DCFF stand for bytes of the file that were not UTF-8 (lines.decode): those are kept.
    return match[0] if "\udc80" <= match[0] <= "\udcff" else "\ufffd"


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)  # Go's decoder refuses what no float holds
    return value


def _no_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's
