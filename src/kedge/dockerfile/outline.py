"""What a target takes: its build arguments, secrets and SSH agents (`--call outline`).

Owns the values, their text and their JSON, which are those of BuildKit's `frontend.outline` subrequest. Does not know
how they were found.
"""

import base64
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from kedge.dockerfile.options import SecretUse
from kedge.model.errors import Location
from kedge.model.value import dataclass, field

if TYPE_CHECKING:
    from kedge.dockerfile.variables import ArgValue


@dataclass(slots=True)
class Capture:
    """What a stage has used so far, while it is lowered."""

    args: dict[str, "ArgValue"] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    secrets: dict[str, SecretUse] = field(default_factory=dict)
    ssh: dict[str, SecretUse] = field(default_factory=dict)

    def copy(self) -> "Capture":
        """A capture for a stage built on this one."""
        return Capture(dict(self.args), set(self.used), dict(self.secrets), dict(self.ssh))

    def used_args(self) -> dict[str, "ArgValue"]:
        """The arguments used, and those that their defaults read."""
        found: dict[str, ArgValue] = {}
        stack = list(self.used)
        while stack:
            name = stack.pop()
            if name in self.args and name not in found:
                found[name] = self.args[name]
                stack.extend(self.args[name].needs)
        return found


@dataclass(frozen=True, slots=True)
class OutlineArg:
    """A build argument: its default or given value, and the comment above it."""

    name: str
    description: str
    value: str
    location: Location


@dataclass(frozen=True, slots=True)
class Outline:
    """All that a target takes, in the order of the file."""

    name: str
    description: str
    args: tuple[OutlineArg, ...]
    secrets: tuple[SecretUse, ...]
    ssh: tuple[SecretUse, ...]
    source: str

    def to_json(self) -> str:
        """The subrequest's result.json."""
        out: dict[str, Any] = {}
        add_text(out, name=self.name, description=self.description)
        lists: list[tuple[str, list[Any]]] = [
            ("args", [_arg_json(arg) for arg in self.args]),
            ("secrets", [_use_json(use) for use in self.secrets]),
            ("ssh", [_use_json(use) for use in self.ssh]),
        ]
        out |= {key: value for key, value in lists if value}
        out["sources"] = [source_json(self.source)]
        return json.dumps(out, indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """The subrequest's result.txt."""
        parts = []
        if self.name or self.description:
            rows = [("TARGET:", self.name or "(default)")]
            rows += [("DESCRIPTION:", self.description)] if self.description else []
            parts.append(table(rows, 1))
        if self.args:
            rows3 = [(arg.name, arg.value, arg.description) for arg in self.args]
            parts.append(table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows3], 3))
        for title, uses in (("SECRET", self.secrets), ("SSH", self.ssh)):
            if uses:
                parts.append(table([(title, "REQUIRED"), *((u.id, "true" if u.required else "") for u in uses)], 3))
        return "".join(part + "\n" for part in parts)


Row: TypeAlias = tuple[str, ...]


def table(rows: Iterable[Row], padding: int) -> str:
    """Rows in columns, each as wide as its longest cell and `padding` more; the last one is not filled up."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) + padding for column in range(len(rows[0]) - 1)]
    lines = ("".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)) + row[-1] for row in rows)
    return "".join(line + "\n" for line in lines)


def location_json(location: Location) -> dict[str, Any]:
    """A place in the source, as BuildKit's pb.Location: a range for each line."""
    lines = range(location.start, location.end + 1)
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}} for line in lines]}


def source_json(text: str) -> str:
    """The Dockerfile's bytes, as Go's JSON writes a []byte."""
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def add_text(out: dict[str, Any], **texts: str) -> None:
    """Put those texts that are not empty into `out`."""
    out |= {key: value for key, value in texts.items() if value}


def _arg_json(arg: OutlineArg) -> dict[str, Any]:
    out: dict[str, Any] = {"name": arg.name}
    add_text(out, description=arg.description, value=arg.value)
    return out | {"location": location_json(arg.location)}


def _use_json(use: SecretUse) -> dict[str, Any]:
    out: dict[str, Any] = {"name": use.id}
    if use.required:
        out["required"] = True
    return out | {"location": location_json(use.location)}
