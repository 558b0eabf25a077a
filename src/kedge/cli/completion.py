"""kedge completion: scripts that teach a shell the commands, their flags and the names of images.

Owns the three scripts. They are written from the tables of commands, so that pressing Tab starts Python only for
image names.
"""

from collections.abc import Callable, Iterator
from typing import Final

from kedge.cli.command import GLOBAL_FLAGS, HELP, Argument, Command, Flag, Options
from kedge.cli.console import Console

IMAGES: Final = "kedge images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null"


def work(options: Options, console: Console) -> int:
    from kedge.cli.parse import UsageError
    from kedge.model.suggest import nearest

    if options.shell not in SHELLS:
        guess = nearest(options.shell, SHELLS)
        raise UsageError(
            f"unknown shell: {options.shell}",
            "completion",
            f"Did you mean {guess}?" if guess else f"Shells are {', '.join(SHELLS)}.",
        )
    console.print("\n".join(SHELLS[options.shell]()))
    return 0


def _commands() -> list[Command]:
    from kedge.cli.start import command_names, load

    return [load(name) for name in command_names()]


def _visible(command: Command) -> tuple[Flag, ...]:
    return tuple(flag for flag in command.flags if not flag.hidden)


def _flags(command: Command) -> tuple[Flag, ...]:
    return (*_visible(command), HELP)


def _bash() -> Iterator[str]:
    yield "# kedge completion for bash: source <(kedge completion bash)"
    yield "_kedge() {"
    yield '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="" word'
    yield '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield '    case "$word" in -*) ;; *) command="$word"; break ;; esac'
    yield "  done"
    yield '  case "$command" in'
    for command in _commands():
        yield f'    "{command.word}")'
        for flag in _visible(command):
            if flag.choices:
                choices = " ".join(flag.choices)
                yield f'      if [[ "$before" == "--{flag.name}" ]]; then'
                yield f'        COMPREPLY=($(compgen -W "{choices}" -- "$current")); return'
                yield "      fi"
        flags = " ".join(f"--{flag.name}" for flag in _flags(command))
        yield f'      if [[ "$current" == -* ]]; then COMPREPLY=($(compgen -W "{flags}" -- "$current")); return; fi'
        yield f"      {_bash_argument(command)} ;;"
    words = " ".join([c.word for c in _commands()] + [f"--{flag.name}" for flag in GLOBAL_FLAGS])
    yield f'    "") COMPREPLY=($(compgen -W "{words}" -- "$current")) ;;'
    yield "  esac"
    yield "  [[ ${#COMPREPLY[@]} -gt 0 ]] && type __ltrim_colon_completions >/dev/null 2>&1 && \\"
    yield '    __ltrim_colon_completions "$current"'
    yield "}"
    yield "complete -o default -o bashdefault -F _kedge kedge"


def _bash_argument(command: Command) -> str:
    match command.arguments[0].complete if command.arguments else "":
        case "image":
            return f'COMPREPLY=($(compgen -W "$({IMAGES})" -- "$current"))'
        case "directory":
            return 'COMPREPLY=($(compgen -d -- "$current"))'
        case "shell":
            return f'COMPREPLY=($(compgen -W "{" ".join(SHELLS)}" -- "$current"))'
    return 'COMPREPLY=($(compgen -f -- "$current"))'


def _zsh() -> Iterator[str]:
    yield "#compdef kedge"
    yield "# kedge completion for zsh: source <(kedge completion zsh)"
    yield "_kedge_images() {"
    yield f'  local -a images; images=(${{(f)"$({IMAGES})"}}); compadd -a images'
    yield "}"
    yield "_kedge() {"
    yield "  local -a commands"
    yield "  local state line"
    yield f"  commands=({' '.join(_quoted(f'{c.word}:{c.summary}') for c in _commands())})"
    yield "  _arguments -C '1: :->command' '*:: :->rest'"
    yield '  if [[ "$state" == command ]]; then _describe command commands; return; fi'
    yield '  case "${line[1]}" in'
    for command in _commands():
        flags = " ".join(_quoted(text) for flag in _flags(command) for text in _zsh_flag(flag))
        yield f"    {command.word}) _arguments {flags} {_quoted('*:argument:' + _zsh_argument(command))} ;;"
    yield "  esac"
    yield "}"
    yield "compdef _kedge kedge"


def _zsh_flag(flag: Flag) -> Iterator[str]:
    text = flag.help.replace("[", "(").replace("]", ")").replace(":", " ")
    value = ""
    if not flag.is_switch and flag.optional is None:
        value = f":{flag.metavar.lower().replace(':', ' ')}:" + (
            f"({' '.join(flag.choices)})" if flag.choices else "_files"
        )
    repeated = "*" if flag.many else ""
    yield f"{repeated}--{flag.name}[{text}]{value}"
    if flag.short:
        yield f"{repeated}-{flag.short}[{text}]{value}"


def _zsh_argument(command: Command) -> str:
    kinds = {"image": "_kedge_images", "directory": "_files -/", "shell": f"({' '.join(SHELLS)})"}
    return kinds.get(command.arguments[0].complete if command.arguments else "", "_files")


def _fish() -> Iterator[str]:
    yield "# kedge completion for fish: kedge completion fish | source"
    names = " ".join(command.word for command in _commands())
    yield f"set -l kedge_commands {names}"
    for command in _commands():
        chosen = f"-n '__fish_seen_subcommand_from {command.word}'"
        yield (
            f'complete -c kedge -f -n "not __fish_seen_subcommand_from $kedge_commands" -a {command.word} '
            f"-d {_quoted(command.summary)}"
        )
        for flag in _flags(command):
            short = f" -s {flag.short}" if flag.short else ""
            value = "" if flag.is_switch or flag.optional is not None else " -r"
            choices = f" -a {_quoted(' '.join(flag.choices))}" if flag.choices else ""
            yield f"complete -c kedge {chosen} -l {flag.name}{short}{value}{choices} -d {_quoted(flag.help)}"
        if command.arguments and command.arguments[0].complete == "image":
            yield f"complete -c kedge -f {chosen} -a {_quoted('(' + IMAGES + ')')}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


SHELLS: Final[dict[str, Callable[[], Iterator[str]]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}

COMMAND = Command(
    "completion",
    "Print a script that completes kedge's words in a shell",
    work,
    arguments=(Argument("SHELL", complete="shell"),),
    examples=(
        ("source <(kedge completion bash)", "for this shell"),
        ("kedge completion fish > ~/.config/fish/completions/kedge.fish", "for every fish from now on"),
    ),
    privileged=False,
)
