"""From words to an exit code: which command, with which options, and what happens to its errors.

Owns the table of commands (names and one-line summaries, so that `kedge --help` imports none of them), exit codes,
and the last word on errors and interrupts. Does not know what any command does.
"""

from typing import TYPE_CHECKING, Final

from kedge.cli.command import Command, Options
from kedge.cli.parse import UsageError, parse, parse_global
from kedge.model.errors import KedgeError
from kedge.model.suggest import nearest

if TYPE_CHECKING:
    from kedge.cli.console import Console

SUCCESS: Final = 0
FAILURE: Final = 1
USAGE: Final = 125  # what Docker's client ends with for a wrong command line
INTERRUPTED: Final = 130

# group -> names; `kedge --help` shows them in this order. Each name is a module of this package (a dash becomes a _).
GROUPS: Final[dict[str, dict[str, str]]] = {
    "Build and run": {
        "build": "Build an image from a Dockerfile",
        "run": "Run a command in a fresh container of an image",
        "logs": "Show the whole output of build steps",
    },
    "Look at images": {
        "images": "List images",
        "history": "Show how an image was made",
        "size": "Show where an image's bytes come from, and what is wasted",
        "inspect": "Show an image's configuration and layers as JSON",
        "tag": "Give an image one more name",
        "rmi": "Remove images",
    },
    "Move images": {
        "pull": "Bring an image from a registry into the store",
        "push": "Send an image to a registry",
        "copy": "Copy an image between registries, layouts and the store",
        "manifest inspect": "Show what a name points at: an index and its platforms, or a manifest",
        "login": "Keep a credential for a registry",
        "logout": "Forget a registry's credential",
        "import": "Make an image of a root file system archive",
        "export": "Write an image's file system as a tar",
        "save": "Write images to an archive",
        "load": "Read images from an archive",
    },
    "Serve others": {
        "serve": "Serve Docker's and BuildKit's clients",
    },
    "Look after the store and this machine": {
        "du": "Show what the store takes on disk",
        "prune": "Remove what nothing needs",
        "volume ls": "List volumes",
        "volume rm": "Remove volumes with all that is in them",
        "doctor": "Check what this machine allows and say what is missing",
        "version": "Show the version of Kedge and of what it runs on",
        "completion": "Print a script that completes kedge's words in a shell",
    },
}
# What Docker also calls them; known only where the command exists.
ALIASES: Final = {
    "image ls": "images",
    "image rm": "rmi",
    "image history": "history",
    "image inspect": "inspect",
    "image tag": "tag",
    "image pull": "pull",
    "image push": "push",
    "image save": "save",
    "image load": "load",
    "image build": "build",
    "image import": "import",
    "image prune": "prune",
    "buildx build": "build",
    "builder build": "build",
    "builder prune": "prune",
    "system df": "du",
    "ls": "images",
}


def command_names() -> list[str]:
    """All commands, in the order of the help."""
    return [name for group in GROUPS.values() for name in group]


def load(name: str) -> Command:
    """The command of that name, its module imported."""
    from importlib import import_module

    module = import_module("kedge.cli." + name.replace(" ", "_").replace("-", "_") + ("_" if name == "import" else ""))
    command: Command = module.COMMAND
    return command


def run(words: list[str]) -> int:
    """Do what `words` say; returns the exit code. KedgeErrors become messages; anything else is a bug and is raised."""
    from kedge.cli.console import Console

    console = Console.of_process()
    try:
        options, rest = parse_global(words)
        console.configure(options)
        _stop_cleanly()
        code = _run(options, rest, console)
        console.flush()
        return code
    except KedgeError as error:
        return _failed(error, console)
    except Terminated as signal:
        return 128 + int(signal.args[0])
    except KeyboardInterrupt:
        console.interrupted()
        return INTERRUPTED
    except BrokenPipeError:
        console.drop_output()  # its reader has seen enough (`kedge images | head`)
        return FAILURE
    finally:
        console.close()


class Terminated(KeyboardInterrupt):
    """Another process asked us to end: as with Ctrl-C, steps are stopped and nothing half-made is kept."""


def _stop_cleanly() -> None:
    """Let SIGTERM and SIGHUP end what we do in the way Ctrl-C does, unless we were told to ignore them (nohup)."""
    import signal

    def terminated(number: int, _: object) -> None:
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, terminated)


def _run(options: Options, words: list[str], console: "Console") -> int:
    if options.version:
        words = ["version", "--short"]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"] if words[1:] else []
    if options.help or not words:
        from kedge.cli.help import overview

        console.print(overview())
        return SUCCESS
    name, rest = _choose(words)
    command = load(name)
    chosen = parse(command, rest)
    if chosen.help:
        from kedge.cli.help import page

        console.print(page(command))
        return SUCCESS
    console.configure(chosen)
    if command.privileged:
        console.enter_user_namespace()
    return command.work(chosen, console)


def _choose(words: list[str]) -> tuple[str, list[str]]:
    """The command that the first word (or the first two) name, and the other words; raises UsageError."""
    known = command_names()
    for count in (2, 1):
        name = " ".join(words[:count])
        name = ALIASES.get(name, name)
        if len(words) >= count and name in known:
            return name, words[count:]
    guess = nearest(words[0], known) or nearest(" ".join(words[:2]), known)
    raise UsageError(f"unknown command: kedge {words[0]}", "", f"Did you mean kedge {guess}?" if guess else "")


def _failed(error: KedgeError, console: "Console") -> int:
    from kedge.cli.failure import describe

    if console.debug:
        import traceback

        traceback.print_exception(error, file=console.stderr)
    for line in describe(error):
        console.complain(line)
    return USAGE if isinstance(error, UsageError) else console.failure_code
