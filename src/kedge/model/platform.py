"""Platforms: which machine an image is for, spelled and compared as containerd does.

Owns syntax, normal form and matching order. Does not know which machine this is: `of_machine` is told.
"""

import re

from kedge.model.errors import InvalidPlatform
from kedge.model.suggest import did_you_mean, nearest
from kedge.model.value import dataclass

_PART = r"[A-Za-z0-9_.-]+"
_VERSIONED = r"([A-Za-z0-9_.-]+)\(([A-Za-z0-9_.-]*)(?:\+[A-Za-z0-9_.+-]*)?\)"  # features are not kept
_ARCHITECTURES = {  # other names in use -> GOARCH, variant (containerd platforms, database.go; uname -m)
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", ""),
}
# The same database's words, the usual ones first, and what images of WebAssembly and attestations say.
_KNOWN = (
    "amd64 arm64 arm 386 riscv64 ppc64le s390x loong64 mips64le mips64 mipsle mips ppc64 wasm amd64p32 armbe arm64be "
    "mips64p32 mips64p32le ppc riscv s390 sparc sparc64"
).split()
_SYSTEMS = (
    "linux windows darwin freebsd netbsd openbsd solaris wasip1 wasi unknown aix android dragonfly hurd illumos ios js "
    "nacl plan9 zos"
).split()


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """`os/architecture[/variant]` in normal form: GOOS and GOARCH words; arm64's v8 and amd64's v1 are left out."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @property
    def full(self) -> str:
        """With the system's version, as containerd writes it: `windows(10.0.20348.1006)/amd64`."""
        return str(self).replace("/", f"({self.os_version})/", 1) if self.os_version else str(self)


def normalize(os: str, architecture: str, variant: str = "", os_version: str = "") -> Platform:
    """The normal form of the given words."""
    os, architecture, variant = os.lower(), architecture.lower(), variant.lower()
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = variant or implied
    if os == "macos":
        os = "darwin"
    if architecture == "arm":
        variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    elif (architecture == "arm64" and variant in ("8", "v8")) or (architecture == "amd64" and variant == "v1"):
        variant = ""
    return Platform(os, architecture, variant, os_version)


def parse_platform(text: str, default: Platform | None = None) -> Platform:
    """The platform that `text` spells: `os`, `architecture`, `os/architecture` or `os/architecture/variant`.

    A missing part comes from `default` (linux/amd64 if None). The system may have its version behind it, as in
    `windows(10.0.20348)/amd64`. Raises InvalidPlatform.
    """
    default = default or Platform("linux", "amd64")
    parts, version = text.strip().split("/"), ""
    if found := re.fullmatch(_VERSIONED, parts[0]):
        parts[0], version = found.groups()
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(_PART, part) for part in parts):
        raise InvalidPlatform(f"invalid platform {text[:100]!r}: expected os/architecture, such as linux/arm64")
    if len(parts) > 1:
        return normalize(parts[0], parts[1], parts[2] if len(parts) == 3 else "", version)
    word = parts[0].lower()
    if word in _SYSTEMS or word == "macos":
        same = word == default.os
        return normalize(word, default.architecture, default.variant if same else "", version)
    if word in _KNOWN or word in _ARCHITECTURES:
        return normalize(default.os, word)
    raise InvalidPlatform(
        f"invalid platform {text[:100]!r}: neither an operating system nor an architecture",
        hint=did_you_mean(word, (*_KNOWN, *_SYSTEMS)),
    )


def meant_by(platform: Platform) -> str | None:
    """None for a platform of known words, else the one that was probably meant, "" if none is near.

    The others are platforms, too (containerd asks no more of them than letters), and mostly slips.
    """
    if platform.os in _SYSTEMS and platform.architecture in (*_KNOWN, "unknown"):
        return None
    os = platform.os if platform.os in _SYSTEMS else nearest(platform.os, _SYSTEMS)
    architecture = platform.architecture if platform.architecture in _KNOWN else nearest(platform.architecture, _KNOWN)
    return str(normalize(os, architecture, platform.variant)) if os and architecture else ""


def of_machine(machine: str, system: str = "linux") -> Platform:
    """The platform of a machine by its `uname -m` word."""
    return normalize(system, machine)


def runnable_on(host: Platform) -> tuple[Platform, ...]:
    """What images for `host` may be, best first: the host's own, then the older variants it also runs."""
    if host.architecture == "arm64" and host.variant in ("", "v8"):
        arm = tuple(Platform(host.os, "arm", f"v{n}") for n in (8, 7, 6, 5))
        return (Platform(host.os, "arm64"), *arm)
    if host.architecture == "arm" and host.variant[1:].isdigit():
        return tuple(Platform(host.os, "arm", f"v{n}") for n in range(int(host.variant[1:]), 4, -1))
    if host.architecture == "amd64":
        level = int(host.variant[1:] or 1) if host.variant[1:].isdigit() or not host.variant else 1
        higher = tuple(Platform(host.os, "amd64", f"v{n}") for n in range(level, 1, -1))
        return (*higher, Platform(host.os, "amd64"), Platform(host.os, "386"))
    return (host,)


def best_match(wanted: Platform, offered: list[Platform]) -> int | None:
    """The index of the offered platform that suits `wanted` best, None when none does."""
    for candidate in runnable_on(wanted):
        words = (candidate.os, candidate.architecture, candidate.variant)
        fit = [i for i, one in enumerate(offered) if (one.os, one.architecture, one.variant) == words]
        if fit:
            return min(fit, key=lambda index: _distance(wanted.os_version, offered[index].os_version))
    return None


def _distance(wanted: str, offered: str) -> int:
    """0 for the version of a system that was asked for, 1 for another revision of its build, 2 for any other."""
    if not wanted or wanted == offered:
        return 0
    return 1 if wanted.split(".")[:3] == offered.split(".")[:3] else 2
