"""The nearest right word for a mistyped one.

Pure; used wherever a user's word is not one of a known set. Takes time proportional to the product of their lengths,
and looks at no word that is too long to be a typing error.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

_LONGEST = 64
_SHORTEST_START = 3  # characters; fewer begin too many words
_MOST_CANDIDATES = 300  # a file can set any number of variables, and mistype as many


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The member of `known` that `word` most probably meant, None when none is near. Letter case does not count.

    Near means: at most one edit for each three characters, where exchanging two neighbours is one edit. Of equally near
    words the first wins. With none near, a word that lacks only its last one or two letters is taken as meant.
    """
    if not word or len(word) > _LONGEST:
        return None
    known = tuple(islice(known, _MOST_CANDIDATES))
    best, best_distance = None, max(1, len(word) // 3) + 1
    lower, letters = word.lower(), set(word.lower())
    for candidate in known:
        if abs(len(candidate) - len(word)) >= best_distance:
            continue
        other = candidate.lower()
        if len(letters.symmetric_difference(other)) >= 2 * best_distance:
            continue  # an edit makes at most one letter appear and one disappear
        found = distance(lower, other)
        # Two short words with nothing in common are as far apart as they are long.
        if found < best_distance and found < max(len(word), len(candidate)):
            best, best_distance = candidate, found
    return best or _completed(lower, known)


def _completed(lower: str, known: Sequence[str]) -> str | None:
    fit = (one for one in known if one.lower().startswith(lower) and len(lower) < len(one) <= len(lower) + 2)
    return next(fit, None) if len(lower) >= _SHORTEST_START else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint sentence naming the nearest right word, or the empty string."""
    found = nearest(word, known)
    return f"Did you mean {found}?" if found else ""


def distance(left: str, right: str) -> int:
    """How many characters are to be inserted, deleted, replaced or exchanged with a neighbour to make one the other."""
    before: list[int] = []
    previous = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        current = [i]
        for j, b in enumerate(right, 1):
            cost = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, previous = previous, current
    return previous[-1]
