"""A client's words for what is mounted into a container: Binds, Mounts, Tmpfs and Volumes (Docker Engine API).

Owns the reading of these fields. Touches no file: what is not there is found when the container is made or started.
"""

import posixpath
from pathlib import Path
from typing import Final

from kedge.containers.request import TmpfsMount, Volume, VolumeMount
from kedge.daemon.engine.fields import Fields
from kedge.model.errors import InvalidInput, Unsupported
from kedge.model.value import dataclass

_HARMLESS: Final = {"rw", "z", "Z", "rprivate", "private", "delegated", "cached", "consistent", ""}
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Mounts:
    """All of them: host paths, volumes, tmpfs."""

    volumes: tuple[Volume, ...]
    named: tuple[VolumeMount, ...]
    tmpfs: tuple[TmpfsMount, ...]


def read_mounts(body: Fields) -> Mounts:
    """What Config and HostConfig ask for. Raises InvalidInput, Unsupported."""
    host = body.object("HostConfig")
    found: list[Volume | VolumeMount | TmpfsMount] = [_bind(text) for text in host.texts("Binds") or ()]
    found += [_tmpfs(_absolute(path), options) for path, options in host.mapping("Tmpfs").items()]
    found += [_mount(each) for each in host.objects("Mounts")]
    taken = {each.dest for each in found}
    if len(taken) < len(found):
        dests = [each.dest for each in found]
        twice = next(dest for dest in dests if dests.count(dest) > 1)
        raise InvalidInput(f"Duplicate mount point: {twice[:200]}")
    asked = [_absolute(path) for path in body.object("Volumes").raw]
    found += [VolumeMount("", path) for path in asked if path not in taken]
    return Mounts(
        tuple(each for each in found if isinstance(each, Volume)),
        tuple(each for each in found if isinstance(each, VolumeMount)),
        tuple(each for each in found if isinstance(each, TmpfsMount)),
    )


def _bind(text: str) -> Volume | VolumeMount:
    """`SOURCE:TARGET[:OPTIONS]`: a path of this machine, or a volume's name."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0]:
        raise InvalidInput(f"invalid volume specification: {text[:200]!r}")
    source, target = parts[0], _absolute(parts[1])
    options = set(parts[2].split(",")) if len(parts) == 3 else set()
    if unknown := options - _HARMLESS - {"ro", "nocopy"}:
        raise Unsupported(f"the volume option {sorted(unknown)[0][:40]!r} is not supported")
    if source.startswith("/"):
        return Volume(Path(posixpath.normpath(source)), target, "ro" in options, made=True)
    return VolumeMount(source, target, "ro" in options, copied="nocopy" not in options)


def _mount(mount: Fields) -> Volume | VolumeMount | TmpfsMount:
    kind, source, target = mount.text("Type"), mount.text("Source"), _absolute(mount.text("Target"))
    readonly = mount.flag("ReadOnly")
    if kind == "bind":
        bind = mount.object("BindOptions")
        if bind.text("Propagation") not in ("", "rprivate", "private"):
            raise Unsupported("mount propagation is not supported: there is rprivate")
        return Volume(Path(_absolute(source)), target, readonly, made=bind.flag("CreateMountpoint"))
    if kind == "volume":
        options = mount.object("VolumeOptions")
        driver = options.object("DriverConfig")
        if driver.text("Name") not in ("", "local") or driver.mapping("Options"):
            raise Unsupported("volume drivers and their options are not supported: there is local")
        labels = tuple(sorted(options.mapping("Labels").items()))
        return VolumeMount(source, target, readonly, not options.flag("NoCopy"), options.text("Subpath"), labels)
    if kind == "tmpfs":
        tmpfs = mount.object("TmpfsOptions")
        mode = tmpfs.number("Mode")
        return TmpfsMount(target, max(0, tmpfs.number("SizeBytes")), mode & 0o7777 if mode > 0 else None)
    raise Unsupported(f"mounts of type {kind[:20]!r} are not supported: there are bind, volume and tmpfs")


def _tmpfs(dest: str, options: str) -> TmpfsMount:
    """`size=64m,mode=1777`; other options change nothing that Kedge would allow."""
    given = dict(o.partition("=")[::2] for o in options.split(","))
    mode = given.get("mode", "")
    if mode and (not mode.isascii() or not mode.isdecimal() or set(mode) & {"8", "9"} or len(mode) > 5):
        raise InvalidInput(f"invalid tmpfs mode {mode[:20]!r}")
    return TmpfsMount(dest, _size(given.get("size", "")), int(mode, 8) & 0o7777 if mode else None)


def _size(text: str) -> int:
    if not text:
        return 0
    number = text.lower().rstrip("kmgb")
    unit = text.lower()[len(number) :].rstrip("b")
    if not (number.isascii() and number.isdecimal()) or len(number) > 15 or unit not in _UNITS:
        raise InvalidInput(f"invalid tmpfs size {text[:20]!r}")
    return int(number) * _UNITS[unit]


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidInput(f"invalid mount path: {path[:200]!r} must be absolute")
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise InvalidInput("invalid mount path: destination can't be '/'")
    return clean
