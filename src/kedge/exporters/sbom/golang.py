"""What Go's linker wrote into a program: its modules (debug/buildinfo).

Owns finding and reading the build info in ELF files: the inline form of Go 1.18 and later, and the pointers of those
before. Reads pieces of the file, never all of it.
"""

import os
import struct
from collections.abc import Iterator
from typing import Final

from kedge.exporters.sbom.files import Files, Found, text_of
from kedge.exporters.sbom.package import Package, believable
from kedge.model.value import dataclass

_MAGIC: Final = b"\xff Go buildinf:"
_SMALLEST: Final = 4096  # bytes; no Go program is as small
_MOST_SEGMENTS: Final = 256
_SEARCHED: Final = 1 << 20  # bytes of the data segment in which the linker puts it first
_LONGEST: Final = 16 << 20  # bytes of the module list
_SENTINEL: Final = 16  # bytes around it


@dataclass(frozen=True, slots=True)
class Segment:
    """A loaded part of the file: where it is, and at which address."""

    offset: int
    address: int
    size: int
    writable: bool


def may_be_go(found: Found) -> bool:
    return found.executable and found.size >= _SMALLEST


def golang(files: Files, found: Found) -> Iterator[Package]:
    """The program's own module and all it was linked with; nothing if it is no Go program."""
    fd = files.open(found.path)
    if fd is None:
        return
    try:
        version, modules = _build_info(fd)
    finally:
        os.close(fd)
    if version:
        yield Package("golang", "stdlib", version.removeprefix("go").split()[0], found.path)
    yield from _modules(modules, found.path)


def _modules(text: str, path: str) -> Iterator[Package]:
    last: list[str] = []
    for line in [*text.split("\n"), "end"]:
        words = line.split("\t")
        if words[0] == "=>" and len(words) > 2:
            last = words  # replaces the module of the line before
            continue
        if last and (package := _module(last, path)):
            yield package
        last = words if words[0] in ("mod", "dep") and len(words) > 2 else []


def _module(words: list[str], path: str) -> Package | None:
    module, version = believable(words[1]), believable(words[2])
    if not module:
        return None
    namespace, _, name = module.rpartition("/")
    checksum = words[3] if len(words) > 3 and words[3].startswith("h1:") else ""
    return Package(
        "golang", name, version if version != "(devel)" else "", path, namespace, checksum=believable(checksum)
    )


# ---- ELF -------------------------------------------------------------------------------------------------------------


def _build_info(fd: int) -> tuple[str, str]:
    """(Go's version, the list of modules); empty if there is none."""
    head = os.pread(fd, 64, 0)
    if len(head) < 64 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return "", ""
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    segments = _segments(fd, head, wide, order)
    for segment in sorted(segments, key=lambda one: not one.writable):
        data = os.pread(fd, min(segment.size, _SEARCHED), segment.offset)
        at = data.find(_MAGIC)
        while at >= 0 and at % 16:
            at = data.find(_MAGIC, at + 1)
        if at >= 0:
            return _strings(fd, segment.offset + at, segments, order)
    return "", ""


def _segments(fd: int, head: bytes, wide: bool, order: str) -> list[Segment]:
    place = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
    if size < (56 if wide else 32) or count > _MOST_SEGMENTS or place > 1 << 40:
        return []
    found = []
    table = os.pread(fd, size * count, place)
    for at in range(0, len(table) - size + 1, size):
        if wide:
            kind, flags, offset, address, _, length = struct.unpack_from(order + "IIQQQQ", table, at)
        else:
            kind, offset, address, _, length, _, flags = struct.unpack_from(order + "IIIIIII", table, at)
        if kind == 1 and offset < 1 << 48:  # PT_LOAD
            found.append(Segment(offset, address, length, bool(flags & 2)))
    return found


def _strings(fd: int, at: int, segments: list[Segment], order: str) -> tuple[str, str]:
    info = os.pread(fd, 32, at)
    if len(info) < 32:
        return "", ""
    if info[15] & 2:
        version, after = _inline(fd, at + 32)
        modules, _ = _inline(fd, after)
    else:
        size = info[14]
        if size not in (4, 8):
            return "", ""
        order = ">" if info[15] & 1 else "<"
        word = order + ("Q" if size == 8 else "I")
        version, modules = (
            _pointed(fd, struct.unpack_from(word, info, 16 + n * size)[0], segments, word) for n in (0, 1)
        )
    if len(modules) >= 2 * _SENTINEL + 1 and modules[-_SENTINEL - 1 : -_SENTINEL] == b"\n":
        modules = modules[_SENTINEL:-_SENTINEL]
    else:
        modules = b""
    return believable(text_of(version)), text_of(modules)


def _inline(fd: int, at: int) -> tuple[bytes, int]:
    """A string after its length as a varint, and where it ends."""
    head, length, shift = os.pread(fd, 10, at), 0, 0
    for index, byte in enumerate(head):
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            if length > _LONGEST:
                break
            return os.pread(fd, length, at + index + 1), at + index + 1 + length
    return b"", at


def _pointed(fd: int, address: int, segments: list[Segment], word: str) -> bytes:
    """The string behind the address of a Go string header."""
    size = struct.calcsize(word)
    header = _at(fd, address, 2 * size, segments)
    if len(header) < 2 * size:
        return b""
    data, length = struct.unpack(word + word[1], header)
    return _at(fd, data, length, segments) if length <= _LONGEST else b""


def _at(fd: int, address: int, size: int, segments: list[Segment]) -> bytes:
    for segment in segments:
        if segment.address <= address < segment.address + segment.size:
            return os.pread(
                fd, min(size, segment.address + segment.size - address), segment.offset + address - segment.address
            )
    return b""
