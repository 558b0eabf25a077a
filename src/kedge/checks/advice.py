"""What to do about a process that cannot start: which stage has what is missing, which base image would do.

Owns the search in other stages, as far as their files are here, and the words. Does not know how a fault was found.
"""

import posixpath
from collections.abc import Iterable
from contextlib import ExitStack

from kedge.checks.files import Files
from kedge.checks.loader import Loader
from kedge.checks.start import Fault, listed
from kedge.model.graph import Snapshot
from kedge.model.suggest import nearest
from kedge.model.value import dataclass
from kedge.storage.layers import LayerStore

_BASES = {  # ID of os-release -> the base image, with what of os-release is its tag
    "debian": ("debian", "VERSION_CODENAME", "-slim"),
    "ubuntu": ("ubuntu", "VERSION_ID", ""),
    "fedora": ("fedora", "VERSION_ID", ""),
    "alpine": ("alpine", "VERSION_ID", ""),
    "wolfi": ("cgr.dev/chainguard/glibc-dynamic", "", ""),
    "rocky": ("rockylinux", "VERSION_ID", "-minimal"),
    "almalinux": ("almalinux", "VERSION_ID", "-minimal"),
}
_SHELLS = {"sh": "busybox", "ash": "busybox", "dash": "debian:bookworm-slim", "bash": "debian:bookworm-slim"}
_INTERPRETERS = {
    "python": "python:3-slim",
    "python3": "python:3-slim",
    "node": "node:22-slim",
    "npm": "node:22-slim",
    "perl": "perl:slim",
    "ruby": "ruby:slim",
    "php": "php:cli",
    "java": "eclipse-temurin:21-jre",
    "dotnet": "mcr.microsoft.com/dotnet/runtime:8.0",
    "deno": "denoland/deno",
    "bun": "oven/bun:slim",
}


@dataclass(frozen=True, slots=True)
class StageFiles:
    """Another stage of the build whose files are here. `base` is the image it stands on, as the Dockerfile names it."""

    name: str
    snapshot: Snapshot
    base: str = ""


@dataclass(frozen=True, slots=True)
class _Has:
    stage: StageFiles
    files: tuple[str, ...]
    libraries: tuple[tuple[str, str], ...]  # name, path
    system: str


def advice(layers: LayerStore, fault: Fault, files: Files, stages: Iterable[StageFiles]) -> str:
    """One sentence or two without a full stop at the end; empty when there is nothing to say."""
    if fault.hint:
        return fault.hint
    if unknown := _unknown_to_cache(fault, files):
        return f"{unknown} is there, but ld.so.cache does not know it: RUN ldconfig, or set LD_LIBRARY_PATH"
    has = _best([_search(layers, fault, stage) for stage in stages])
    sentences = [_who_has(fault, has)] if has else []
    sentences.append(_remedy(fault, files, has))
    return ". ".join(sentence for sentence in sentences if sentence)


def _search(layers: LayerStore, fault: Fault, stage: StageFiles) -> _Has | None:
    """What of the missing a stage has."""
    with ExitStack() as stack:
        files = Files(stack.enter_context(layers.mounted(stage.snapshot)))
        found = tuple(path for path in fault.files if files.is_file(path))
        libraries: list[tuple[str, str]] = []
        if fault.elf:
            loader = Loader(files)
            for one in fault.libraries:
                if path := loader.locate(one.name, fault.path, fault.elf):
                    libraries.append((one.name, path))
        if not found and not libraries:
            return None
        return _Has(stage, found, tuple(libraries), _system(files))


def _best(found: list[_Has | None]) -> _Has | None:
    return max((one for one in found if one), key=lambda one: len(one.files) + len(one.libraries), default=None)


def _who_has(fault: Fault, has: _Has) -> str:
    if fault.elf is None:
        return f"Stage {has.stage.name} has {has.files[0]}"
    missing = len(fault.files) + len(fault.libraries)
    if len(has.files) + len(has.libraries) == missing:
        return f"Stage {has.stage.name} has {'them' if missing > 1 else 'it'}{_places(has)}"
    names = [*has.files, *(name for name, _ in has.libraries)]
    return f"Stage {has.stage.name} has {listed(names, 6)}"


def _places(has: _Has) -> str:
    """Where a few libraries are, to be copied."""
    if has.files or len(has.libraries) > 3:
        return ""
    return f" ({', '.join(path for _, path in has.libraries)})"


def _remedy(fault: Fault, files: Files, has: _Has | None) -> str:
    elf = fault.elf
    if elf is None:
        return _remedy_for_file(fault, files, has)
    static = "CGO_ENABLED=0" if elf.is_go else "-static"
    if not fault.files:
        it, package = ("it", "its package") if len(fault.libraries) == 1 else ("them", "their packages")
        return f"COPY {it} from there, or install {package}" if has else f"Install {package} in the final stage"
    musl = "ld-musl" in elf.interpreter
    libc, base = ("musl", "alpine") if musl else ("glibc", "debian:bookworm-slim")
    base = (has and (has.system or has.stage.base)) or base
    other = _other_libc(files, musl)
    clash = f"The final image has {other}, the program was linked with {libc}. " if other else ""
    return f"{clash}Use a base with {libc}, such as {base}, or link the program statically ({static})"


def _remedy_for_file(fault: Fault, files: Files, has: _Has | None) -> str:
    """For a program or interpreter that is missing as a whole."""
    if not fault.files:
        return ""
    path = has.files[0] if has else fault.files[0]
    name = posixpath.basename(path)
    if name in _SHELLS:
        return f"Use a base that has it, such as {(has and has.system) or _SHELLS[name]}"
    if base := _INTERPRETERS.get(name):
        return f"Use a base that has it, such as {base}"
    if has:
        return f"COPY --from={has.stage.name} {path} {path}"
    beside = nearest(name, files.names(posixpath.dirname(path))) if len(fault.files) == 1 else None
    return f"Did you mean {posixpath.join(posixpath.dirname(path), beside)}?" if beside else ""


def _other_libc(files: Files, musl: bool) -> str:
    if musl:
        return "glibc" if any(map(files.is_file, ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"))) else ""
    known = ("x86_64", "aarch64", "armhf", "i386", "riscv64", "powerpc64le", "s390x")
    return "musl" if any(files.is_file(f"/lib/ld-musl-{word}.so.1") for word in known) else ""


def _system(files: Files) -> str:
    """The base image for what os-release(5) says of a tree; empty for systems that have none of a known name."""
    text = files.read("/etc/os-release", 16 << 10) or files.read("/usr/lib/os-release", 16 << 10)
    pairs = (line.partition("=") for line in text.decode("utf-8", "replace").split("\n"))
    fields = {key: value.strip().strip("\"'") for key, _, value in pairs}
    image, tag, suffix = _BASES.get(fields.get("ID", ""), ("", "", ""))
    version = fields.get(tag, "")
    if image == "alpine":
        version = ".".join(version.split(".")[:2])
    return f"{image}:{version}{suffix}" if image and version else image


def _unknown_to_cache(fault: Fault, files: Files) -> str:
    """A missing library that stands in a directory of ld.so.conf, where only ldconfig would find it."""
    if fault.elf is None or fault.files:
        return ""
    for one in fault.libraries:
        for directory in ("/usr/local/lib", "/usr/local/lib64", "/opt/lib", posixpath.dirname(fault.path)):
            if files.is_file(f"{directory}/{one.name}"):
                return f"{directory}/{one.name}"
    return ""
