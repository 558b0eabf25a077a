"""Flags of instructions (`--chown=1000`): each instruction has a table, this reads words by it.

Owns the grammar of flags. Does not know what a flag's value means.
"""

from collections.abc import Iterable, Mapping
from enum import Enum, auto

from kedge.model.errors import DockerfileError
from kedge.model.suggest import did_you_mean
from kedge.model.value import dataclass, field


class Kind(Enum):
    """What a flag takes: nothing or true/false, one text, or a text each time it is given."""

    BOOL = auto()
    TEXT = auto()
    TEXTS = auto()


@dataclass(slots=True)
class Flags:
    """The flags given, by name."""

    booleans: dict[str, bool] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """The value of a TEXT flag."""
        return self.texts[name][0] if name in self.texts else default

    def list(self, name: str) -> tuple[str, ...]:
        """The values of a TEXTS flag in order."""
        return tuple(self.texts.get(name, ()))

    def true(self, name: str) -> bool:
        """Whether a BOOL flag is on; off when not given."""
        return self.booleans.get(name, False)


def read_flags(instruction: str, words: Iterable[str], table: Mapping[str, Kind]) -> Flags:
    """The flags in `words`, which all start with `--`; raises DockerfileError naming the flag and the nearest right
    one.
    """
    flags = Flags()
    for word in words:
        if word == "--":
            break
        name, equals, value = word.removeprefix("--").partition("=")
        kind = table.get(name)
        if kind is None:
            hint = _valid_flags(name, table)
            raise DockerfileError(f"unknown flag --{name} for {instruction}", hint=hint, fault=f"--{name}")
        if kind is not Kind.TEXTS and (name in flags.booleans or name in flags.texts):
            raise DockerfileError(f"flag --{name} is given twice")
        if kind is Kind.BOOL:
            flags.booleans[name] = _boolean(name, equals, value)
        elif not equals:
            raise DockerfileError(f"flag --{name} has no value", hint=f"Write --{name}=VALUE.", fault=word)
        else:
            flags.texts.setdefault(name, []).append(value)
    return flags


def _valid_flags(name: str, table: Mapping[str, Kind]) -> str:
    if not table:
        return "This instruction has no flags."
    known = [f"--{flag}" for flag in sorted(table)]
    return did_you_mean(f"--{name}", known) or f"It has {', '.join(known)}."


def _boolean(name: str, equals: str, value: str) -> bool:
    if value.lower() == "true" or not equals:
        return True
    if value.lower() == "false":
        return False
    raise DockerfileError(f"flag --{name} is either true or false, not {value!r}", fault=f"--{name}={value}")
