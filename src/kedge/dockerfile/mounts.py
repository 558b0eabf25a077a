"""RUN --mount: its options, read strictly.

Owns the grammar and which option goes with which type. Does not know stages or the graph. An option that is not listed
is an error, never ignored: a builder that let one through lent the host's files to a step (CVE-2024-9407).
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias, TypeVar, get_args

from kedge.dockerfile.durations import parse_size
from kedge.model.errors import DockerfileError, KedgeError
from kedge.model.suggest import did_you_mean
from kedge.model.value import dataclass

MountType: TypeAlias = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing: TypeAlias = Literal["shared", "private", "locked"]
Word = TypeVar("Word", MountType, Sharing)

TRUE_WORDS = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE_WORDS = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_OPTIONS = (
    *("type", "from", "source", "src", "target", "dst", "destination", "readonly", "ro", "readwrite", "rw"),
    *("id", "sharing", "required", "size", "mode", "uid", "gid", "env"),
)
_TYPES: Final[dict[str, MountType]] = {word: word for word in get_args(MountType)}
_SHARINGS: Final[dict[str, Sharing]] = {word: word for word in get_args(Sharing)}
_OCTAL = re.compile(r"[0-7]+")
_DECIMAL = re.compile(r"[0-9]+")


@dataclass(slots=True)
class RunMount:
    """One --mount with its variables resolved. None: not said. `size` in bytes."""

    type: MountType = "bind"
    source_stage: str = ""
    source: str = ""
    target: str = ""
    readonly: bool | None = None
    id: str = ""
    sharing: Sharing | None = None
    required: bool = False
    size: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None

    @property
    def has_owner(self) -> bool:
        """Whether owner or mode were asked for."""
        return self.mode is not None or self.uid is not None or self.gid is not None


def mount_stage(text: str) -> str:
    """The stage or image that a mount's text names, empty for none: read before any variable is known.

    Raises DockerfileError for a variable in `from`, and for text that is no list of fields.
    """
    stage = ""
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        if equals and key.lower() == "from":
            if "$" in value[:-1]:
                raise DockerfileError(
                    "'from' of a mount cannot have variables", hint="Give the image a stage of its own, and name that."
                )
            stage = value
    return stage


def parse_mount(text: str, expand: Callable[[str], str]) -> RunMount:
    """The mount that `text` spells, each value passed through `expand`; raises DockerfileError.

    Options are read in order, so `type` has to come before those that only some types have.
    """
    mount = RunMount()
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        _set_option(mount, key, expand(value) if equals else None, field)
    _check(mount)
    return mount


def split_fields(text: str) -> list[str]:
    """The comma-separated fields of `text`; a field in double quotes may hold commas (RFC 4180). Raises
    DockerfileError.
    """
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise DockerfileError("a mount or device needs at least one option")
    fields, position = [], 0
    while True:
        field, position = _quoted(text, position) if text.startswith('"', position) else _plain(text, position)
        fields.append(field)
        if position == len(text):
            return fields
        position += 1


def _plain(text: str, start: int) -> tuple[str, int]:
    end = text.find(",", start)
    end = len(text) if end < 0 else end
    if '"' in text[start:end]:
        raise DockerfileError(f'a " stands inside the field {text[start:end][:100]!r}', hint="Quote the whole field.")
    return text[start:end], end


def _quoted(text: str, start: int) -> tuple[str, int]:
    pieces, position = [], start + 1
    while (end := text.find('"', position)) >= 0:
        pieces.append(text[position:end])
        position = end + 1
        if text.startswith('"', position):
            pieces.append('"')
            position += 1
        elif position == len(text) or text[position] == ",":
            return "".join(pieces), position
        else:
            break
    raise DockerfileError(f"the quoted field {text[start:][:100]!r} does not end properly")


def _set_option(mount: RunMount, key: str, value: str | None, field: str) -> None:
    setter = _SETTERS.get(key)
    if setter is None:
        if value is None and key not in _OPTIONS:
            message = f"invalid mount option {field[:100]!r}: expected key=value"
        else:
            message = f"unknown mount option {key[:100]!r}"
        hint = did_you_mean(key, _OPTIONS) or f"Options are {', '.join(_OPTIONS)}."
        raise DockerfileError(message, hint=hint, fault=field)
    if value is None and key not in _VALUELESS:
        raise DockerfileError(f"mount option {key!r} needs a value: {key}=…", fault=field)
    try:
        setter(mount, value)
    except ValueError:
        message = f"invalid value {(value or '')[:100]!r} for mount option {key!r}"
        raise DockerfileError(message, fault=field) from None
    except KedgeError as error:
        raise DockerfileError(f"mount option {key!r}: {error.message}", hint=error.hint, fault=field) from None


def _boolean(value: str | None) -> bool:
    if value is None or value in TRUE_WORDS:
        return True
    if value in FALSE_WORDS:
        return False
    raise ValueError


def _number(value: str | None, pattern: re.Pattern[str], base: int) -> int:
    if value is None or not pattern.fullmatch(value) or len(value) > 64:
        raise ValueError
    number = int(value, base)
    if number > 0xFFFFFFFF:
        raise ValueError
    return number


def _word(option: str, value: str | None, known: Mapping[str, Word]) -> Word:
    found = known.get((value or "").lower())
    if found is None:
        raise DockerfileError(f"unsupported {option} {value!r}", hint=did_you_mean(value or "", known))
    return found


def _type(mount: RunMount, value: str | None) -> None:
    mount.type = _word("type", value, _TYPES)


def _sharing(mount: RunMount, value: str | None) -> None:
    mount.sharing = _word("sharing", value, _SHARINGS)


def _required(mount: RunMount, value: str | None) -> None:
    if mount.type not in ("secret", "ssh"):
        raise DockerfileError(f"not for mounts of type {mount.type}", hint="Write type=… first.")
    mount.required = _boolean(value)


def _size(mount: RunMount, value: str | None) -> None:
    if mount.type != "tmpfs":
        raise DockerfileError(f"not for mounts of type {mount.type}", hint="Write type=tmpfs first.")
    mount.size = parse_size(value or "")


def _text(name: str) -> Callable[[RunMount, str | None], None]:
    return lambda mount, value: setattr(mount, name, value or "")


def _readonly(mount: RunMount, value: str | None) -> None:
    mount.readonly = _boolean(value)


def _readwrite(mount: RunMount, value: str | None) -> None:
    mount.readonly = not _boolean(value)


def _mode(mount: RunMount, value: str | None) -> None:
    mount.mode = _number(value, _OCTAL, 8)


def _uid(mount: RunMount, value: str | None) -> None:
    mount.uid = _number(value, _DECIMAL, 10)


def _gid(mount: RunMount, value: str | None) -> None:
    mount.gid = _number(value, _DECIMAL, 10)


_VALUELESS = frozenset({"readonly", "ro", "readwrite", "rw", "required"})
_SETTERS: dict[str, Callable[[RunMount, str | None], None]] = {
    "type": _type,
    "from": _text("source_stage"),
    "source": _text("source"),
    "src": _text("source"),
    "target": _text("target"),
    "dst": _text("target"),
    "destination": _text("target"),
    "readonly": _readonly,
    "ro": _readonly,
    "readwrite": _readwrite,
    "rw": _readwrite,
    "id": _text("id"),
    "sharing": _sharing,
    "required": _required,
    "size": _size,
    "mode": _mode,
    "uid": _uid,
    "gid": _gid,
    "env": _text("env"),
}


def _check(mount: RunMount) -> None:
    if mount.type in ("bind", "tmpfs"):
        for name in ("mode", "uid", "gid"):
            if getattr(mount, name) is not None:
                raise DockerfileError(f"{name} is not for mounts of type {mount.type}")
    if mount.sharing is not None and mount.type != "cache":
        raise DockerfileError(f"sharing is not for mounts of type {mount.type}")
    if mount.readonly is None:
        mount.readonly = mount.type not in ("cache", "tmpfs")
    if mount.type == "secret":
        _check_secret(mount)
    if mount.type == "ssh" and mount.source:
        raise DockerfileError("a mount of type ssh has no source", hint="Name the agent by id=….")


def _check_secret(mount: RunMount) -> None:
    if mount.source_stage:
        raise DockerfileError("a mount of type secret has no from")
    if not (mount.source or mount.target or mount.id):
        raise DockerfileError("a mount of type secret needs an id or a target", hint="Write type=secret,id=NAME.")
    if mount.source and mount.id:
        raise DockerfileError("a mount of type secret has an id or a source, not both")
