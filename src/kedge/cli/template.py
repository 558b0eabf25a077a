"""The part of Go's templates that people give to `--format`.

Owns the grammar (text/template): fields, pipelines, `if`, `range`, `with`, `else`, comparisons, and Docker's
functions `json`, `join`, `lower`, `upper`, `title`, `split`, `println`, `pad`, `truncate`. Definitions and variables
are left out. Values are what JSON knows. Raises InvalidInput for a template that cannot be read.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from kedge.model.errors import InvalidInput
from kedge.model.value import dataclass, field

_PIECE = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'\s*("(?:\\.|[^"\\])*"|`[^`]*`|\(|\)|\||[^\s()|"`]+)')


@dataclass(slots=True)
class _Block:
    """`if`, `range` or `with`: what is tested, and what follows for yes and for no."""

    kind: str
    pipeline: list[str]
    yes: "list[Node]" = field(default_factory=list)
    no: "list[Node]" = field(default_factory=list)


Node: TypeAlias = "str | list[str] | _Block"  # text, a pipeline's tokens, or a block


class Template:
    """A template that was read once and is rendered for each record."""

    def __init__(self, text: str) -> None:
        self._nodes = _read(_unescape(text))

    def render(self, value: Any) -> str:
        """The text for `value`, the template's dot."""
        return "".join(_render(self._nodes, value, value))


# ---- reading ---------------------------------------------------------------------------------------------------------


def _unescape(text: str) -> str:
    """Docker's client reads \\t and \\n in formats, outside of actions, as what they mean."""
    return text.replace("\\t", "\t").replace("\\n", "\n")


def _read(text: str) -> list[Node]:
    top: list[Node] = []
    stack: list[tuple[_Block | None, list[Node]]] = [(None, top)]
    position, trim = 0, False
    for match in _PIECE.finditer(text):
        before = text[position : match.start()]
        before = before.lstrip() if trim else before
        stack[-1][1].append(before.rstrip() if match[1] else before)
        position, trim = match.end(), bool(match[3])
        if not match[2].strip().startswith("/*"):
            _action(_tokens(match[2]), stack)
    if len(stack) > 1:
        raise InvalidInput("the template ends inside a block", hint="Add {{end}}.")
    rest = text[position:]
    if "{{" in rest:
        raise InvalidInput("the template has {{ without }}")
    top.append(rest.lstrip() if trim else rest)
    return top


def _action(tokens: list[str], stack: list[tuple[_Block | None, list[Node]]]) -> None:
    word = tokens[0] if tokens else ""
    block = stack[-1][0]
    if word in ("if", "range", "with"):
        new = _Block(word, tokens[1:])
        stack[-1][1].append(new)
        stack.append((new, new.yes))
    elif word in ("else", "end") and block is None:
        raise InvalidInput(f"the template has {{{{{word}}}}} outside of a block")
    elif word == "end":
        stack.pop()
    elif word == "else" and block is not None:
        stack[-1] = (block, block.no)
        if tokens[1:]:
            new = _Block(tokens[1], tokens[2:])
            block.no.append(new)
            stack[-1] = (new, new.yes)  # in place of the outer block: one {{end}} closes both
    else:
        stack[-1][1].append(tokens)


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise InvalidInput(f"the template cannot be read at {text[position:][:30]!r}")
        tokens.append(match[1])
        position = match.end()
    if not tokens:
        raise InvalidInput("the template has an empty {{}}")
    return tokens


# ---- rendering -------------------------------------------------------------------------------------------------------


def _render(nodes: list[Node], dot: Any, top: Any) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, list):
            yield _text(_pipeline(node, dot, top))
        else:
            yield from _block(node, dot, top)


def _block(block: _Block, dot: Any, top: Any) -> Iterator[str]:
    value = _pipeline(block.pipeline, dot, top)
    if not value:
        yield from _render(block.no, dot, top)
    elif block.kind == "range":
        for item in sorted_values(value) if isinstance(value, dict) else value:
            yield from _render(block.yes, item, top)
    else:
        yield from _render(block.yes, value if block.kind == "with" else dot, top)


def sorted_values(value: dict[str, Any]) -> list[Any]:
    """A map's values in the order of its keys, as Go ranges over it."""
    return [value[key] for key in sorted(value)]


def _pipeline(tokens: list[str], dot: Any, top: Any) -> Any:
    """The value of `a b | c`: each command's result is the last argument of the next."""
    carried: list[Any] = []
    for command in _commands(tokens):
        words = _arguments(command, dot, top)
        if callable(words[0]):
            try:
                carried = [words[0](*words[1:], *carried)]
            except (TypeError, ValueError, IndexError, KeyError):
                raise InvalidInput(f"the template cannot do {' '.join(command)}") from None
        elif len(words) > 1 or carried:
            raise InvalidInput(f"the template calls {command[0]}, which is no function")
        else:
            carried = words
    return carried[0]


def _commands(tokens: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    depth = 0
    for token in [*tokens, "|"]:
        depth += (token == "(") - (token == ")")
        if token == "|" and depth == 0:
            if not command:
                raise InvalidInput("the template has an empty command")
            yield command
            command = []
        else:
            command.append(token)
    if depth:
        raise InvalidInput("the template has ( without )")


def _arguments(command: list[str], dot: Any, top: Any) -> list[Any]:
    values, index = [], 0
    while index < len(command):
        if command[index] == "(":
            close = _closing(command, index)
            values.append(_pipeline(command[index + 1 : close], dot, top))
            index = close
            if index + 1 < len(command) and command[index + 1].startswith("."):
                index += 1
                values[-1] = _field(values[-1], command[index])
        else:
            values.append(_operand(command[index], dot, top))
        index += 1
    return values


def _closing(command: list[str], start: int) -> int:
    depth = 0
    for index in range(start, len(command)):
        depth += (command[index] == "(") - (command[index] == ")")
        if depth == 0:
            return index
    raise InvalidInput("the template has ( without )")


def _operand(token: str, dot: Any, top: Any) -> Any:
    if token.startswith("."):
        return _field(dot, token)
    if token == "$" or token.startswith("$."):
        return _field(top, token[1:] or ".")
    if token[0] == '"':
        return json.loads(token)
    if token[0] == "`":
        return token[1:-1]
    if token in _CONSTANTS:
        return _CONSTANTS[token]
    if re.fullmatch(r"-?\d+", token):
        return int(token)
    if token in _FUNCTIONS:
        return _FUNCTIONS[token]
    raise InvalidInput(f"the template uses {token!r}, which is no function")


def _field(value: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        if not isinstance(value, dict):
            raise InvalidInput(f"the template asks for {path}, but there is no field {name}")
        if name not in value:
            known = ", ".join("." + key for key in value) or "none"
            raise InvalidInput(f"the template asks for {path}, which does not exist", hint=f"Fields here: {known}")
        value = value[name]
    return value


def _text(value: Any) -> str:
    """A value as Go prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + " ".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_text(value[key])}" for key in sorted(value)) + "]"
    return str(value)


def _printf(format: str, *values: Any) -> str:
    return re.sub(r"%([-+0 #\d.]*)([vsdq%])", _verb(iter(values)), format)


def _verb(values: Iterator[Any]) -> Callable[[re.Match[str]], str]:
    def one(match: re.Match[str]) -> str:
        if match[2] == "%":
            return "%"
        value = _text(next(values, None))
        if match[2] == "q":
            return json.dumps(value, ensure_ascii=False)
        width = match[1].partition(".")[0].lstrip("-0")
        return value.ljust(int(width)) if width and match[1].startswith("-") else value.rjust(int(width or 0))

    return one


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, dict) else value[key]
    return value


_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "nil": None}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    "join": lambda items, separator: str(separator).join(_text(item) for item in items),
    "split": lambda text, separator: str(text).split(separator),
    "lower": lambda text: str(text).lower(),
    "upper": lambda text: str(text).upper(),
    "title": lambda text: str(text).title(),
    "truncate": lambda text, length: str(text)[:length],
    "pad": lambda text, left, right: " " * left + str(text) + " " * right,
    "println": lambda *values: " ".join(_text(value) for value in values) + "\n",
    "print": lambda *values: "".join(_text(value) for value in values),
    "printf": _printf,
    "len": lambda value: len(value or ()),
    "index": _index,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
