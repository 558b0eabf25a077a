"""A Dockerfile's tree in the notation of BuildKit's parser tests: `(run "echo hello")`, one instruction a line.

Owns that notation, whose quoting is Go's: for tests, and for people who debug a Dockerfile. Does not know what an
instruction means.
"""

from kedge.dockerfile.arguments import READERS
from kedge.dockerfile.parser import Dockerfile, Node

_NAMED = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def dump(file: Dockerfile) -> str:
    """The whole tree, each line ended by a line feed."""
    return "".join(f"({_dump_node(node)})\n" for node in file.nodes)


def _dump_node(node: Node) -> str:
    parts = [node.keyword.lower()]
    if node.flags:
        parts.append("[" + " ".join(map(_quote, node.flags)) + "]")
    if node.child is not None:
        parts.append(f"({_dump_node(node.child)})")
    elif node.name not in READERS and node.name != "ONBUILD":
        parts.append('""')  # an unknown instruction keeps one empty argument there
    return " ".join([*parts, *map(_quote, node.values)]).strip()


def _quote(text: str) -> str:
    return '"' + "".join(map(_quote_character, text)) + '"'


def _quote_character(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if character.isprintable():
        return character
    code = ord(character)
    if "\udc80" <= character <= "\udcff":
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
