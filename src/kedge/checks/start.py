"""Whether the process that an image starts can start: argv[0], its `#!` interpreters, its loader and its libraries.

Owns what a container runtime and the kernel do between the config and the first instruction of the program (execve(2),
the runtime's PATH lookup, env(1), the usual wrappers). In doubt a program counts as startable. Does not know stages.
"""

import json
import posixpath
import re
from typing import Final

from kedge.checks.elf import MAGIC, Elf, read_elf
from kedge.checks.files import Files
from kedge.checks.loader import Loader, Missing
from kedge.model.errors import IntegrityError, KedgeError
from kedge.model.image import ImageConfig
from kedge.model.value import dataclass
from kedge.storage.users import User, resolve_user

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHEBANG = 256  # bytes that the kernel looks at (BINPRM_BUF_SIZE)
_DEEPEST = 5  # interpreters of interpreters
_SHELLS: Final = frozenset({"sh", "ash", "bash", "dash"})
_WRAPPERS: Final = frozenset({"tini", "tini-static", "docker-init", "dumb-init"})
_OTHER_FORMATS: Final = (b"\0asm", b"MZ", b"PK")  # binfmt_misc may know them
_WORD = re.compile(r"(?:exec\s+)?([A-Za-z0-9_./+-]+)(?=\s|$)")
_BUILTINS: Final = frozenset(
    ". : [ alias bg break builtin case cd command continue declare do done echo elif else enable env eval exec exit "
    "export false fc fg fi for function getopts hash help if in jobs kill let local logout popd printf pushd pwd read "
    "readonly return select set shift shopt source suspend test then time times trap true type typeset ulimit umask "
    "unalias unset until wait while".split()
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a process cannot start. `program` is the word that names it, `reason` what is wrong, a phrase.

    `anchor` is the instruction at fault: ENTRYPOINT, CMD or USER. `files` are paths, and `libraries` libraries of `elf`
    at `path`, that are missing; `hint` is what to do, unless what is missing tells.
    """

    program: str
    reason: str
    anchor: str = ""
    files: tuple[str, ...] = ()
    libraries: tuple[Missing, ...] = ()
    path: str = ""
    elf: Elf | None = None
    hint: str = ""


def fault_of(files: Files, config: ImageConfig) -> Fault | None:
    """Why the config's process would not start in a tree; None if it would, if there is none, or if nobody can tell."""
    if config.platform.os != "linux" or not (config.entrypoint or config.cmd):
        return None
    try:
        user = resolve_user(files.tree, config.user)
    except KedgeError as error:
        return Fault(config.user, error.message, "USER", hint="Create the user in the final stage, or give a number")
    process = _Process(files, config, user)
    words = [*(config.entrypoint or ()), *(config.cmd or ())]
    fault = process.command(words)
    if fault is None:
        return None
    return fault if fault.anchor else _anchored(fault, config)


def _anchored(fault: Fault, config: ImageConfig) -> Fault:
    from kedge.model.value import replace

    return replace(fault, anchor="ENTRYPOINT" if config.entrypoint else "CMD")


class _Process:
    """One process being looked at before it is started."""

    def __init__(self, files: Files, config: ImageConfig, user: User) -> None:
        self._files, self._config, self._user = files, config, user
        self._cwd = config.working_dir or "/"
        path = config.env_value("PATH")
        self._path = DEFAULT_PATH if path is None else path
        search = (config.env_value("LD_LIBRARY_PATH") or "").replace(";", ":").split(":")
        self.loader = Loader(files, [posixpath.join(self._cwd, part) for part in search if part], self._cwd)

    # ---- words -------------------------------------------------------------------------------------------------------

    def command(self, words: list[str], depth: int = 0, by_shell: bool = False) -> Fault | None:
        """The fault of a command line; by a shell, what is no program at all is a script."""
        if not words or depth > _DEEPEST or not words[0]:
            return None
        path = self._lookup(words[0])
        if path is None:
            return None if self._in_volume(words[0]) else self._not_found(words)
        fault = self._program(words[0], path, 0, by_shell)
        return fault or self._wrapped(path, words, depth)

    def _lookup(self, word: str) -> str | None:
        """The path that the runtime would execute; a file without execute permission only if there is no better."""
        if "/" in word:
            path = posixpath.join(self._cwd, word)
            return path if self._files.find(path) else None
        second = None
        for directory in self._path.split(":"):
            path = posixpath.join(self._cwd, directory, word)
            found = self._files.find(path)
            if found and found.is_file:
                if found.has_execute_bit:
                    return path
                second = second or path
        return second

    def _not_found(self, words: list[str]) -> Fault:
        word, hint = words[0], ""
        if posixpath.basename(word) in _SHELLS and len(words) > 2 and words[1] == "-c":
            hint = 'Write the exec form, such as CMD ["/app", "-v"], which needs no shell; or use a base that has one'
        elif " " in word and self._lookup(word.split()[0]):
            hint = f"Write each argument as a word of its own: {json.dumps(word.split())}"
        if "/" in word:
            path = posixpath.normpath(posixpath.join(self._cwd, word))
            shown = word if word.startswith("/") else f"{word} (in {self._cwd})"
            return Fault(word, f"{shown} is not in the final image", files=(path,), hint=hint)
        directories = [directory for directory in self._path.split(":") if directory]
        paths = tuple(posixpath.join(self._cwd, directory, word) for directory in directories[:16])
        return Fault(
            word, f"no directory of PATH ({self._path[:200]}) has it in the final image", files=paths, hint=hint
        )

    def _in_volume(self, word: str) -> bool:
        """What is not there yet may come with a volume."""
        path = posixpath.normpath(posixpath.join(self._cwd, word)) + "/"
        return "/" in word and any(path.startswith(volume.rstrip("/") + "/") for volume in self._config.volumes)

    def _wrapped(self, path: str, words: list[str], depth: int) -> Fault | None:
        """The fault of what a well-known program starts in turn."""
        name = posixpath.basename(words[0])
        if name in _WRAPPERS:
            rest = words[words.index("--") + 1 :] if "--" in words else words[1:]
            return None if rest and rest[0].startswith("-") else self.command(rest, depth + 1)
        if name == "env":
            return self._env(words[1:], depth)
        if name in _SHELLS and len(words) > 2 and re.fullmatch(r"-[eux]*c", words[1]):
            return self._shell(path, words[2], depth)
        if depth == 0 and self._config.entrypoint and self._config.cmd and self._passes_on(path):
            return self._passed_on(list(self._config.cmd))
        return None

    def _env(self, words: list[str], depth: int) -> Fault | None:
        while words and (words[0] in ("-i", "-", "-S", "--") or "=" in words[0]):
            words = words[1:]
        return None if words and words[0].startswith("-") else self.command(words, depth + 1)

    def _shell(self, shell: str, text: str, depth: int) -> Fault | None:
        """The first command of a shell's text, if it is plain and the text ends where it fails."""
        if re.match(r"\[\s*'", text):
            return Fault(text, "it is no JSON list, so that a shell runs it", hint="Write its words in double quotes")
        plain = text.replace("&&", " ")
        match = _WORD.match(text.strip())
        if match is None or any(character in plain for character in ";|&\n`(") or match[1] in _BUILTINS:
            return None
        if posixpath.basename(self._files.resolved(shell)) == "busybox" and "/" not in match[1]:
            return None  # its shell may know the command itself
        return self.command([match[1]], depth + 1, by_shell=True)

    def _passes_on(self, path: str) -> bool:
        data = self._files.read(path, 64 << 10)
        return data.startswith(b"#!") and b'exec "$@"' in data

    def _passed_on(self, words: list[str]) -> Fault | None:
        """CMD as an entrypoint script runs it. The script may change it: only a program that is found can be wrong."""
        if words[0].startswith("-") or (path := self._lookup(words[0])) is None:
            return None
        fault = self._program(words[0], path, 0, by_shell=True)
        return fault and Fault(fault.program, fault.reason, "CMD", fault.files, fault.libraries, fault.path, fault.elf,
                               fault.hint)  # fmt: skip

    # ---- files -------------------------------------------------------------------------------------------------------

    def _program(self, word: str, path: str, depth: int, by_shell: bool = False) -> Fault | None:
        """The fault of executing the file at `path`, that is there."""
        if fault := self._permission(word, path):
            return fault
        with self._files.reading(path) as reader:
            if reader is None:
                return None
            head = reader(0, _SHEBANG)
            if head.startswith(b"#!"):
                return self._script(word, path, head, depth)
            if head.startswith(MAGIC):
                try:
                    elf = read_elf(reader)
                except IntegrityError as error:
                    return Fault(word, f"{path} is damaged: {error.message}")
                return self._elf(word, path, elf) if elf else None
        if by_shell or head.startswith(_OTHER_FORMATS):
            return None
        what = "is empty" if not head else "is neither an ELF program nor a script that starts with #!"
        return Fault(word, f"{path} {what}")

    def _permission(self, word: str, path: str) -> Fault | None:
        found = self._files.find(path)
        if found is None or not found.is_file:
            return Fault(word, f"{path} is no file")
        if not found.has_execute_bit:
            return Fault(word, f"{path} has no execute permission", hint="Use COPY --chmod=755, or RUN chmod +x")
        if self._user.uid == 0:
            return None
        who = f"the user {self._config.user}"
        real = self._files.resolved(path)
        directory = posixpath.dirname(real)
        parents = [directory]
        while directory not in ("/", ""):
            directory = posixpath.dirname(directory)
            parents.append(directory)
        for parent in reversed(parents):
            seen = self._files.find(parent)
            if seen and not seen.lets_execute(self._user):
                return Fault(word, f"{who} may not enter {parent}", hint="Move the program, or give way by chmod")
        if not found.lets_execute(self._user):
            return Fault(word, f"{who} may not execute {path}", hint="Use COPY --chown or --chmod=755")
        return None

    def _script(self, word: str, path: str, head: bytes, depth: int) -> Fault | None:
        line = head[2:].partition(b"\n")[0].decode("utf-8", "surrogateescape").strip(" \t")
        interpreter, _, argument = line.replace("\t", " ").partition(" ")
        argument = argument.strip()
        if not interpreter:
            return Fault(word, f"{path} names no interpreter behind #!")
        if line.endswith("\r") and not interpreter.endswith("perl"):
            return Fault(
                word,
                f"the first line of {path} ends in CR LF, so that {line[:-1]!r} is not what is looked for",
                hint="Save the script with LF line ends",
            )
        place = posixpath.join(self._cwd, interpreter)
        if not self._files.is_file(place):
            reason = f"the interpreter {interpreter} of the script {path} is not in the final image"
            return Fault(word, reason, files=(place,))
        if depth >= _DEEPEST:
            return Fault(word, f"{path} leads through more than {_DEEPEST} interpreters")
        fault = self._program(interpreter, place, depth + 1)
        if fault is None and posixpath.basename(interpreter) == "env":
            fault = self._env_of_script(path, argument)
        return fault and Fault(word, fault.reason, fault.anchor, fault.files, fault.libraries, fault.path, fault.elf,
                               fault.hint)  # fmt: skip

    def _env_of_script(self, path: str, argument: str) -> Fault | None:
        """`#!/usr/bin/env X`: the kernel gives all behind env as one word, unless env is told to split it."""
        split = re.match(r"(?:-S|--split-string=?)\s*", argument)
        words = argument[split.end() :].split() if split else [argument]
        while words and (words[0].startswith("-") or "=" in words[0]) and " " not in words[0]:
            words = words[1:]
        if not words or not words[0]:
            return None
        place = self._lookup(words[0])
        if place is not None:
            return self._program(words[0], place, 1)
        if " " in words[0]:
            reason = f"env looks for a program called {words[0]!r}, spaces included, for the script {path}"
            return Fault(path, reason, hint=f"Write #!/usr/bin/env -S {argument}")
        fault = self._not_found(words)
        reason = f"the interpreter {words[0]} of the script {path} is not in the final image (by PATH)"
        return Fault(path, reason, files=fault.files)

    def _elf(self, word: str, path: str, elf: Elf) -> Fault | None:
        platform = self._config.platform
        if not elf.runs_on(platform):
            return Fault(
                word,
                f"{path} is a program for {elf.architecture}, the image is for {platform}",
                hint="Build it for the target: TARGETARCH tells a cross compiler which it is",
            )
        if not elf.interpreter:
            return None  # static, or a loader itself
        files = () if self._files.is_file(posixpath.join(self._cwd, elf.interpreter)) else (elf.interpreter,)
        real = self._files.resolved(path)
        libraries = tuple(self.loader.missing(real, elf))
        if not files and not libraries:
            return None
        return Fault(word, _lacking(path, files, libraries), "", files, libraries, real, elf)


def _lacking(path: str, files: tuple[str, ...], libraries: tuple[Missing, ...]) -> str:
    wanted = [f"the loader {path}" for path in files]
    if libraries:
        names = [
            one.name if one.wanted_by == path or len(libraries) > 6 else _with_user(one, path) for one in libraries
        ]
        wanted.append(f"the librar{'ies' if len(libraries) > 1 else 'y'} {listed(names)}")
    return f"{path} needs {' and '.join(wanted)}, which the final image lacks"


def _with_user(one: Missing, path: str) -> str:
    by = posixpath.basename(one.wanted_by)
    return one.name if by == posixpath.basename(path) else f"{one.name} (for {by})"


def listed(words: list[str], most: int = 12) -> str:
    """`a, b and c`; what is beyond `most` is only counted."""
    if len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
