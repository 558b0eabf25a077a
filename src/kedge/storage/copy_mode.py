"""Symbolic file modes, as `--chmod=u=rwX,go=rX` has them: chmod(1), "symbolic". Where systems differ, as BSD's
setmode(3), which BuildKit follows.

Owns the grammar `[ugoa]*([-+=]([rwxXst]*|[ugo]))+` and its meaning with a umask of 0. Does not change files.
"""

import re
import stat
from collections.abc import Callable

from kedge.model.errors import InvalidInput

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_CHANGE = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


def parse_mode(text: str) -> Callable[[int], int]:
    """What the symbolic mode makes of a file's st_mode: its new permission bits. Raises InvalidInput."""
    clauses = [_CLAUSE.fullmatch(part) for part in text.split(",")]
    if text[:1].isdigit():
        if not re.fullmatch(r"[0-7]{1,5}", text) or int(text, 8) > 0o7777:
            raise InvalidInput(f"invalid mode {text!r}: an octal mode has at most four digits from 0 to 7")
        octal = int(text, 8)
        return lambda mode: octal
    changes: list[tuple[str, str, str]] = []
    for clause in clauses:
        if clause is None:
            raise InvalidInput(f"invalid mode {text!r}", hint="Write it like 0755 or u=rwX,go=rX.")
        who = clause[1].replace("a", "ugo") or "ugo"
        changes += [(who, sign, what) for sign, what in _CHANGE.findall(clause[2])]

    def apply(mode: int) -> int:
        bits = mode & 0o7777
        for who, sign, what in changes:
            bits = _change(bits, stat.S_ISDIR(mode) or bool(mode & 0o111), who, sign, what)
        return bits

    return apply


def _change(bits: int, executable: bool, who: str, sign: str, what: str) -> int:
    if what in _SHIFTS:
        value = bits >> _SHIFTS[what] & 7
    else:
        value = sum(_BITS.get(letter, 0) for letter in set(what))
        if "X" in what and executable:
            value |= 1
    wanted = mask = 0
    for letter in who:
        wanted |= value << _SHIFTS[letter]
        mask |= 7 << _SHIFTS[letter]
    if what not in _SHIFTS:
        if "s" in what:
            wanted |= (stat.S_ISUID if "u" in who else 0) | (stat.S_ISGID if "g" in who else 0)
        if "t" in what and who.strip("o"):
            wanted |= stat.S_ISVTX
    if sign == "+":
        return bits | wanted
    if sign == "-":
        return bits & ~wanted
    # = takes the set-id bits away, from directories too, unless it copies a class; the sticky bit stays.
    if what not in _SHIFTS:
        mask |= (stat.S_ISUID if "u" in who else 0) | (stat.S_ISGID if "g" in who else 0)
    return bits & ~mask | wanted
