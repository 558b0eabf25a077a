"""Words of a command line to options, by the rules Docker's users know.

Owns the grammar of GNU-style flags as Docker's clients read it: `--flag value`, `--flag=value`, `--switch`,
`--switch=false`, `-it`, `-eNAME`, `--`, flags after arguments. The standard library's argparse has neither
`--switch=false` nor a stop at the first argument, guesses abbreviations, and costs more start-up than this file. Does
not know any command.
"""

from typing import Any

from kedge.cli.command import GLOBAL_FLAGS, HELP, Command, Flag, Options
from kedge.model.errors import InvalidInput
from kedge.model.suggest import nearest

_SWITCH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


class UsageError(InvalidInput):
    """Words that are no such command line; `command` is the one whose help to read."""

    def __init__(self, message: str, command: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.command = command


def parse(command: Command, words: list[str]) -> Options:
    """The options that `words` (without the command's name) spell; raises UsageError. `help` is True when asked for.

    Global flags are understood here, too, where the command has none of that name.
    """
    own = {flag.name for flag in command.flags} | {"help", "version"}
    shorts = {flag.short for flag in command.flags}
    everywhere = [flag for flag in GLOBAL_FLAGS if flag.name not in own and flag.short not in shorts - {""}]
    values, rest = _flags(command.name, (*command.flags, HELP, *everywhere), words, command.interspersed)
    if not values["help"]:
        values |= _arguments(command, rest)
    return Options(**values)


def parse_global(words: list[str]) -> tuple[Options, list[str]]:
    """What stands before the command's name, and the other words; raises UsageError."""
    values, rest = _flags("", GLOBAL_FLAGS, words, interspersed=False)
    return Options(**values), rest


def _flags(
    command: str, flags: tuple[Flag, ...], words: list[str], interspersed: bool
) -> tuple[dict[str, Any], list[str]]:
    """Read `words` from the left: the flags' values, and the words that are no flags."""
    by_name = {f"--{flag.name}": flag for flag in flags} | {f"-{flag.short}": flag for flag in flags if flag.short}
    values: dict[str, Any] = {flag.attribute: _unset(flag) for flag in flags}
    rest: list[str] = []
    queue = list(reversed(words))
    while queue:
        word = queue.pop()
        if word == "--":
            return values, rest + queue[::-1]
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if not interspersed:
                return values, rest + queue[::-1]
        elif word.startswith("--"):
            _long(command, by_name, word, queue, values)
        else:
            _short(command, by_name, word, queue, values)
    return values, rest


def _unset(flag: Flag) -> Any:
    if flag.many:
        return []
    return bool(flag.default) if flag.is_switch else flag.default


def _long(command: str, by_name: dict[str, Flag], word: str, queue: list[str], values: dict[str, Any]) -> None:
    name, equals, value = word.partition("=")
    flag = by_name.get(name)
    if not flag:
        guess = nearest(name[2:], [known[2:] for known in by_name if known.startswith("--")])
        raise UsageError(f"unknown flag: {name}", command, f"Did you mean --{guess}?" if guess else "")
    if equals:
        _set(command, flag, value, values)
    elif flag.optional is not None and queue and _is_value(queue[-1]):
        _set(command, flag, queue.pop(), values)
    elif flag.is_switch or flag.optional is not None:
        values[flag.attribute] = _switched(flag)
    else:
        _set(command, flag, _next(command, name, queue), values)


def _short(command: str, by_name: dict[str, Flag], word: str, queue: list[str], values: dict[str, Any]) -> None:
    """A cluster such as -it; the first flag in it that takes a value takes what is left of the word."""
    letters = word[1:]
    while letters:
        name, letters = f"-{letters[0]}", letters[1:]
        flag = by_name.get(name)
        if not flag:
            raise UsageError(f"unknown shorthand flag: {name[1]!r} in {word}", command)
        if flag.is_switch and letters.startswith("="):
            return _set(command, flag, letters[1:], values)
        if flag.is_switch:
            values[flag.attribute] = _switched(flag)
        else:
            return _set(command, flag, letters.removeprefix("=") or _next(command, name, queue), values)


def _is_value(word: str) -> bool:
    """Does the word behind a flag that may stand alone belong to it: true, false or `KEY=…`, as no path is called?"""
    if word.startswith("-"):
        return False
    key, equals, _ = word.partition("=")
    return word in ("true", "false", "1", "0") or bool(equals and key.replace("-", "").isalpha() and key.islower())


def _switched(flag: Flag) -> Any:
    return flag.optional if flag.optional is not None else True


def _next(command: str, name: str, queue: list[str]) -> str:
    if not queue:
        raise UsageError(f"flag needs an argument: {name}", command)
    return queue.pop()


def _set(command: str, flag: Flag, text: str, values: dict[str, Any]) -> None:
    if flag.is_switch:
        if text.lower() not in _SWITCH:
            raise UsageError(f"invalid argument {text!r} for --{flag.name}: expected true or false", command)
        values[flag.attribute] = _SWITCH[text.lower()]
        return
    if flag.choices and text not in flag.choices:
        guess = nearest(text, flag.choices)
        hint = f"Did you mean {guess}?" if guess else f"Use one of {', '.join(flag.choices)}."
        raise UsageError(f"invalid argument {text!r} for --{flag.name}", command, hint)
    try:
        value = flag.convert(text) if flag.convert else text
    except InvalidInput as error:
        raise UsageError(f"invalid argument {text!r} for --{flag.name}: {error.message}", command, error.hint) from None
    if flag.many:
        values[flag.attribute].append(value)
    else:
        values[flag.attribute] = value


def _arguments(command: Command, words: list[str]) -> dict[str, Any]:
    """Hand out `words` to the command's arguments, left to right."""
    values: dict[str, Any] = {}
    left = list(words)
    for argument in command.arguments:
        if argument.many:
            values[argument.attribute], left = left, []
            if not values[argument.attribute] and not argument.optional:
                raise UsageError(f"kedge {command.name} needs at least one {argument.name}", command.name)
        elif left:
            values[argument.attribute] = left.pop(0)
        elif argument.optional:
            values[argument.attribute] = None
        else:
            raise UsageError(f"kedge {command.name} needs {_article(argument.name)}", command.name)
    if left:
        raise UsageError(f"unexpected argument {left[0]!r}", command.name)
    return values


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
