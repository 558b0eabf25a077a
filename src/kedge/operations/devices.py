"""Devices of this machine in a step, by CDI: `RUN --device=vendor.com/class=name`.

Owns reading the Container Device Interface's JSON files (cncf-tags/container-device-interface, SPEC.md) and what of
them a step gets. Devices are named by the machine's own files only; nothing in an image can ask for one
(CVE-2026-53492).
"""

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kedge.model.errors import InvalidInput, NotFound, Unsupported
from kedge.model.value import dataclass
from kedge.sandbox.process import HostPath, MountPoint

FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(=([\w.:-]+|\*))?")
_LARGEST = 4 << 20


@dataclass(frozen=True, slots=True)
class Edits:
    """What devices add to a step: variables, and mounts of nodes and files."""

    env: tuple[str, ...] = ()
    mounts: tuple[MountPoint, ...] = ()


def edits_for(devices: Sequence[tuple[str, bool]], folders: Sequence[Path] = FOLDERS) -> Edits:
    """What the named devices need; a missing optional one adds nothing. Raises NotFound, Unsupported, InvalidInput."""
    env: list[str] = []
    mounts: dict[str, MountPoint] = {}
    for name, optional in devices:
        found = _find(name, folders)
        if not found and not optional:
            raise NotFound(
                f"this machine has no device {name}", hint=f"Devices are described in {folders[0]}, as JSON."
            )
        for edits in found:
            env += _list(edits, "env", str, name)
            mounts |= {mount.dest: mount for mount in _mounts(edits, name)}
    return Edits(tuple(dict.fromkeys(env)), tuple(mounts.values()))


def _find(name: str, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The edits of a device: its kind's own, and its own. Without `=NAME` the kind's first, with `=*` all of them."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name[:80]!r} is no name of a device", hint="It reads vendor.com/class=name.")
    kind, _, wanted = name.partition("=")
    found: list[dict[str, Any]] = []
    for spec in _specs(folders):
        if spec.get("kind") != kind:
            continue
        chosen = [device for device in _list(spec, "devices", dict, kind) if wanted in ("", "*", device.get("name"))]
        if chosen:
            found.append(spec.get("containerEdits") or {})
            found += [device.get("containerEdits") or {} for device in (chosen if wanted else chosen[:1])]
    return found


def _specs(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in sorted((path for folder in folders for path in folder.glob("*.json")), reverse=True):
        try:
            with path.open("rb") as file:
                spec = json.loads(file.read(_LARGEST))
        except (OSError, ValueError):
            raise InvalidInput(f"{path} describes no devices: it is no JSON") from None
        if isinstance(spec, dict):
            yield spec


def _mounts(edits: dict[str, Any], name: str) -> Iterator[MountPoint]:
    if edits.get("hooks"):
        raise Unsupported(f"the device {name} wants programs to be run beside the step, which is not done here")
    for node in _list(edits, "deviceNodes", dict, name):
        place = _path(node.get("path"), name)
        here = _path(node.get("hostPath") or place, name)
        if not _is_device(here):
            raise NotFound(f"the device {name} is described as {here}, which is no device here")
        yield MountPoint(place, HostPath(here, device=True))
    for mount in _list(edits, "mounts", dict, name):
        source = HostPath(_path(mount.get("hostPath"), name), recursive="rbind" in (mount.get("options") or ()))
        yield MountPoint(_path(mount.get("containerPath"), name), source, readonly="ro" in (mount.get("options") or ()))


def _is_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _list(value: dict[str, Any], key: str, kind: type, name: str) -> list[Any]:
    items = value.get(key) or []
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        raise InvalidInput(f"the description of device {name} is malformed at {key}")
    return items


def _path(value: Any, name: str) -> str:
    if not isinstance(value, str) or not os.path.isabs(value):
        raise InvalidInput(f"the description of device {name} has a path that is not absolute")
    return value
