"""Text of strangers as it may stand on a terminal.

Owns what is taken out of it. Does not know where such text comes from: names of steps, files and images, errors.
"""

import re

# Controls but for tab and line feed, halves of surrogate pairs (bytes that were no UTF-8), and what turns the direction
# of writing: the first steer a terminal, the last make it show another order than the text has. Compiled when needed.
_UNSEEN = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


def visible(text: str) -> str:
    """`text` with a replacement character for each that would not be seen as itself."""
    return text if text.isascii() and text.isprintable() else re.sub(_UNSEEN, "\ufffd", text)
