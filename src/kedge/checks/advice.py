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
        system = _system(files) if fault.elf else ""
        return _Has(stage, found, tuple(libraries), system)


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
        if has or len(fault.files) > 1:
            return "COPY it from there" if has else ""
        return ""
    static = "CGO_ENABLED=0" if elf.is_go else "-static"
    if not fault.files:
        return "COPY them from there, or install their packages" if has else "Install their packages in the final stage"
    musl = "ld-musl" in elf.interpreter
    libc, base = ("musl", "alpine") if musl else ("glibc", "debian:bookworm-slim")
    base = (has and (has.system or has.stage.base)) or base
    other = _other_libc(files, musl)
    clash = f"The final image has {other}, the program was linked with {libc}. " if other else ""
    return f"{clash}Use a base with {libc}, such as {base}, or link the program statically ({static})"


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
