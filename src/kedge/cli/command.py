"""What a command is: its words, flags and the function that does it, as values.

Owns the tables that parsing, help, completion and the generated reference all read. Does not know any command.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from kedge.model.value import dataclass, field

if TYPE_CHECKING:
    from kedge.cli.console import Console


class Options:
    """The values of a command line: one attribute for each flag (`-` becomes `_`) and each argument."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no flag or argument is called {name}")


@dataclass(frozen=True, slots=True)
class Flag:
    """One `--name`. Without a metavar it is a switch (which also takes `=true` and `=false`, as Docker's do).

    `many` collects values in a list; `default` is what is used when it is not given; `convert` reads the text and
    raises InvalidInput. `optional` is the value of the flag without one (`--sbom`), which then takes `=VALUE`, or as
    its next word true, false or `KEY=…`. A `hidden` one is read, but in no help: Docker has it, and here it changes
    nothing or is refused with advice.
    """

    name: str
    help: str
    short: str = ""
    metavar: str = ""
    many: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()
    convert: Callable[[str], Any] | None = None
    optional: str | None = None
    shown_default: str = ""
    hidden: bool = False

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")

    @property
    def is_switch(self) -> bool:
        return not self.metavar


@dataclass(frozen=True, slots=True)
class Argument:
    """One positional word; `many` takes the rest, `optional` may be missing. `complete` names what completes it."""

    name: str
    many: bool = False
    optional: bool = False
    complete: str = ""

    @property
    def attribute(self) -> str:
        return self.name.partition("[")[0].lower().replace("-", "_")


Work: TypeAlias = "Callable[[Options, Console], int]"


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `summary` is a sentence without a full stop; `description` and `examples` are for `--help`.

    `interspersed` allows flags after arguments; `privileged` asks for a user namespace before any work as an ordinary
    user.
    """

    name: str
    summary: str
    work: Work
    flags: tuple[Flag, ...] = ()
    arguments: tuple[Argument, ...] = ()
    description: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    interspersed: bool = True
    privileged: bool = True
    aliases: tuple[str, ...] = field(default=())

    @property
    def word(self) -> str:
        """The first word of the name: what shells complete."""
        return self.name.split()[0]

    @property
    def usage(self) -> str:
        words = [f"kedge {self.name}", "[OPTIONS]"] if self.flags else [f"kedge {self.name}"]
        for argument in self.arguments:
            word = argument.name + ("..." if argument.many else "")
            words.append(f"[{word}]" if argument.optional else word)
        return " ".join(words)


HELP: Final = Flag("help", "Show this help and exit", short="h")

GLOBAL_FLAGS: Final = (
    Flag(
        "root",
        "Directory of the store",
        metavar="DIR",
        shown_default="$KEDGE_ROOT, else /var/lib/kedge or the XDG data directory",
    ),
    Flag("config", "Configuration file for registries, mirrors and limits", metavar="FILE"),
    Flag("debug", "Show a traceback with every error", short="D"),
    Flag("version", "Show the version and exit", short="v"),
    HELP,
)
