"""The nearest right word for a mistyped one.

Pure; used wherever a user's word is not one of a known set.
"""

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The member of `known` that `word` most probably meant, None when none is near. Letter case does not count."""
    raise NotImplementedError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint sentence naming the nearest right word, or the empty string."""
    raise NotImplementedError
