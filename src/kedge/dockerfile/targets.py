"""The stages a Dockerfile offers as targets (`--call targets`).

Owns the values, their text and their JSON, which are those of BuildKit's `frontend.targets` subrequest.
"""

import json
from typing import Any

from kedge.dockerfile.outline import add_text, location_json, source_json, table
from kedge.dockerfile.stages import StagedFile
from kedge.model.errors import Location
from kedge.model.value import dataclass


@dataclass(frozen=True, slots=True)
class BuildTarget:
    """One stage: `base` and `platform` as written, `description` from the comment above it, `default` for the last."""

    name: str
    default: bool
    description: str
    base: str
    platform: str
    location: Location


@dataclass(frozen=True, slots=True)
class Targets:
    """All stages in the order of the file."""

    targets: tuple[BuildTarget, ...]
    source: str

    def to_json(self) -> str:
        """The subrequest's result.json."""
        out = {"targets": [_json(target) for target in self.targets], "sources": [source_json(self.source)]}
        return json.dumps(out, indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """The subrequest's result.txt."""
        rows = [(_shown(target), target.description) for target in self.targets]
        return table([("TARGET", "DESCRIPTION"), *rows], 1)


def list_targets(file: StagedFile) -> Targets:
    """The targets of a file."""
    last = len(file.stages) - 1
    targets = tuple(
        BuildTarget(
            stage.name, stage.index == last, stage.doc, stage.source.base, stage.source.platform, stage.location
        )
        for stage in file.stages
    )
    return Targets(targets, file.file.source.text)


def _shown(target: BuildTarget) -> str:
    if target.default:
        return f"{target.name} (default)" if target.name else "(default)"
    return target.name


def _json(target: BuildTarget) -> dict[str, Any]:
    out: dict[str, Any] = {}
    add_text(out, name=target.name)
    if target.default:
        out["default"] = True
    add_text(out, description=target.description, base=target.base, platform=target.platform)
    return out | {"location": location_json(target.location)}
