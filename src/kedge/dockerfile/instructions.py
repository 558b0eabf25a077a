"""Typed instructions: what each line of a Dockerfile says, before any variable is expanded.

Owns the values. Does not know how they are read (that is `read.py`) nor what they do (that is `lower*.py`). Field order
and meaning follow Docker's Dockerfile reference; a field that may hold variables holds them as written.
"""

from typing import Literal, TypeAlias

from kedge.model.errors import Location
from kedge.model.image import Healthcheck as HealthcheckConfig
from kedge.model.value import dataclass

Network: TypeAlias = Literal["default", "none", "host"]
Security: TypeAlias = Literal["sandbox", "insecure"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A name and a value of ENV or LABEL; `legacy` for the form without `=`."""

    key: str
    value: str
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class ArgEntry:
    """One variable of ARG; `default` is None when there is none. `doc` is the comment above that starts with its
    name.
    """

    key: str
    default: str | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A heredoc. `data` as written; `chomp` (`<<-`) strips leading tabs; `expand` is False when the delimiter is
    quoted.
    """

    name: str
    data: str
    expand: bool = True
    chomp: bool = False


@dataclass(frozen=True, slots=True)
class Instruction:
    """What every instruction has: its word as written, its text on one line, where it stands, the comments right
    above.
    """

    word: str
    text: str
    location: Location
    comments: tuple[str, ...]

    @property
    def name(self) -> str:
        """The instruction in capitals."""
        return self.word.upper()


@dataclass(frozen=True, slots=True)
class From(Instruction):
    """`base` and `platform` may hold variables; `stage` is in lower case, `stage_as_written` and `as_word` are not."""

    base: str
    stage: str = ""
    platform: str = ""
    stage_as_written: str = ""
    as_word: str = ""


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    args: tuple[ArgEntry, ...]


@dataclass(frozen=True, slots=True)
class Env(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Label(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Copy(Instruction):
    """COPY: `sources` are paths, `inline` heredocs; `source_stage` is --from."""

    sources: tuple[str, ...]
    inline: tuple[InlineFile, ...]
    dest: str
    source_stage: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Add(Instruction):
    """ADD: None for `keep_git_dir` and `unpack` means not said."""

    sources: tuple[str, ...]
    inline: tuple[InlineFile, ...]
    dest: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A CDI device of RUN --device."""

    name: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Run(Instruction):
    """RUN: `args` is the exec form's list, or with `shell` the one text for the shell.

    `mounts` are the option texts of --mount, read by `mounts.parse_mount` once variables are known.
    """

    args: tuple[str, ...]
    shell: bool
    inline: tuple[InlineFile, ...] = ()
    mounts: tuple[str, ...] = ()
    network: Network = "default"
    security: Security = "sandbox"
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Cmd(Instruction):
    args: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True)
class Entrypoint(Instruction):
    """`args` is None for an empty ENTRYPOINT."""

    args: tuple[str, ...] | None
    shell: bool


@dataclass(frozen=True, slots=True)
class Shell(Instruction):
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, slots=True)
class Expose(Instruction):
    """`ports` are sorted words, variables and ranges unresolved."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopSignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True)
class Healthcheck(Instruction):
    health: HealthcheckConfig


@dataclass(frozen=True, slots=True)
class Onbuild(Instruction):
    """`trigger` is the instruction to run later, heredocs included."""

    trigger: str


@dataclass(frozen=True, slots=True)
class Maintainer(Instruction):
    maintainer: str


Command: TypeAlias = (
    Arg
    | Env
    | Label
    | Copy
    | Add
    | Run
    | Cmd
    | Entrypoint
    | Shell
    | Workdir
    | User
    | Expose
    | Volume
    | StopSignal
    | Healthcheck
    | Onbuild
    | Maintainer
)
