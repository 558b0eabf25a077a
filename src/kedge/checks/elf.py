"""What a loader reads of an ELF file: which machine it is for, its interpreter, the libraries it names.

Owns the format (System V ABI, gABI 4.1 chapters 4 and 5) as far as elf(5) and ld.so(8) use it. Bounded: a hostile file
costs a few reads of fixed size. Does not know where libraries are looked for.
"""

import struct
from collections.abc import Callable
from typing import Final

from kedge.model.errors import IntegrityError
from kedge.model.platform import Platform
from kedge.model.value import dataclass

Read = Callable[[int, int], bytes]  # (offset, at most so many bytes) -> bytes

MAGIC: Final = b"\x7fELF"
_MOST_HEADERS = 512
_MOST_DYNAMIC = 4096
_LONGEST = 4096  # bytes of a path or name
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE = 1, 2, 3, 4
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 14, 15, 29
_MACHINES: Final = {  # GOARCH -> (e_machine, bits, little-endian), the platform's own first
    "386": ((3, 32, True),),
    "amd64": ((62, 64, True), (62, 32, True), (3, 32, True)),
    "arm": ((40, 32, True),),
    "arm64": ((183, 64, True), (40, 32, True)),
    "loong64": ((258, 64, True),),
    "mips": ((8, 32, False),),
    "mipsle": ((8, 32, True),),
    "mips64": ((8, 64, False),),
    "mips64le": ((8, 64, True),),
    "ppc64": ((21, 64, False),),
    "ppc64le": ((21, 64, True),),
    "riscv64": ((243, 64, True),),
    "s390x": ((22, 64, False),),
}


@dataclass(frozen=True, slots=True)
class Elf:
    """The head of a program or library. `rpath` and `runpath` are the raw texts' parts, empty ones left out.

    `interpreter` is empty for a static program and most libraries. `is_go`: Go's linker wrote it.
    """

    machine: int
    bits: int
    little: bool
    interpreter: str = ""
    needed: tuple[str, ...] = ()
    soname: str = ""
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    is_go: bool = False

    @property
    def abi(self) -> tuple[int, int, bool]:
        """What must be equal for two files to be loaded together."""
        return (self.machine, self.bits, self.little)

    def runs_on(self, platform: Platform) -> bool:
        """Whether the platform's machines run it; True for platforms nobody here knows."""
        known = _MACHINES.get(platform.architecture)
        return known is None or self.abi in known

    @property
    def architecture(self) -> str:
        """The machine's GOARCH word, or its number."""
        for name, forms in _MACHINES.items():
            if forms[0] == self.abi:
                return name
        return f"machine {self.machine}, {self.bits} bits"


def read_elf(read: Read) -> Elf | None:
    """The ELF file behind `read`; None when it is none. Raises IntegrityError for a malformed one."""
    head = read(0, 64)
    if head[:4] != MAGIC:
        return None
    if len(head) < 52 or head[4] not in (1, 2) or head[5] not in (1, 2):
        raise IntegrityError("malformed ELF header")
    try:
        return _Parser(read, head).elf()
    except struct.error:
        raise IntegrityError("the ELF file is cut off") from None


class _Parser:
    """One file being read."""

    def __init__(self, read: Read, head: bytes) -> None:
        self._read = read
        self._wide, self._order = head[4] == 2, "<" if head[5] == 1 else ">"
        self._head = head

    def elf(self) -> Elf:
        machine = self._unpack("H", self._head, 18)[0]
        headers = self._program_headers()
        segments: dict[int, list[tuple[int, int, int]]] = {}
        for kind, offset, address, size in headers:
            segments.setdefault(kind, []).append((offset, address, size))
        interpreter = ""
        for offset, _, size in segments.get(_PT_INTERP, ())[:1]:
            interpreter = _text(self._read(offset, min(size, _LONGEST)))
        is_go = any(
            b"Go\0\0" in self._read(offset, min(size, 512)) for offset, _, size in segments.get(_PT_NOTE, ())[:8]
        )
        linked = self._dynamic(segments)
        return Elf(
            machine,
            64 if self._wide else 32,
            self._order == "<",
            interpreter,
            needed=linked(_DT_NEEDED),
            soname="".join(linked(_DT_SONAME)[:1]),
            rpath=_parts(linked(_DT_RPATH)),
            runpath=_parts(linked(_DT_RUNPATH)),
            is_go=is_go,
        )

    def _unpack(self, form: str, data: bytes, offset: int = 0) -> tuple[int, ...]:
        return struct.unpack_from(self._order + form, data, offset)

    def _program_headers(self) -> list[tuple[int, int, int, int]]:
        """(type, file offset, address, size in the file) of each segment."""
        if self._wide:
            (start,), (size, count) = self._unpack("Q", self._head, 32), self._unpack("HH", self._head, 54)
            form, least = "IIQQQQ", 56
        else:
            (start,), (size, count) = self._unpack("I", self._head, 28), self._unpack("HH", self._head, 42)
            form, least = "IIIII", 32
        if not count:
            return []
        if size < least or size > 256 or count > _MOST_HEADERS:
            raise IntegrityError("malformed ELF program headers")
        data = self._read(start, size * count)
        rows = [self._unpack(form, data, at * size) for at in range(count)]
        if self._wide:
            return [(kind, offset, address, length) for kind, _, offset, address, _, length in rows]
        return [(kind, offset, address, length) for kind, offset, address, _, length in rows]

    def _dynamic(self, segments: dict[int, list[tuple[int, int, int]]]) -> Callable[[int], tuple[str, ...]]:
        """What gives the texts of a tag of the dynamic section."""
        found: dict[int, list[int]] = {}
        for offset, _, size in segments.get(_PT_DYNAMIC, ())[:1]:
            form, step = ("QQ", 16) if self._wide else ("II", 8)
            data = self._read(offset, min(size, _MOST_DYNAMIC * step))
            for at in range(0, len(data) - step + 1, step):
                tag, value = self._unpack(form, data, at)
                if tag == _DT_NULL:
                    break
                found.setdefault(tag, []).append(value)
        if _DT_STRTAB not in found:
            return lambda tag: ()
        table = _file_offset(found[_DT_STRTAB][0], segments.get(_PT_LOAD, []))

        def texts(tag: int) -> tuple[str, ...]:
            return tuple(_text(self._read(table + at, _LONGEST)) for at in found.get(tag, ()))

        return texts


def _file_offset(address: int, loads: list[tuple[int, int, int]]) -> int:
    for offset, start, size in loads:
        if start <= address < start + size:
            return address - start + offset
    raise IntegrityError("malformed ELF file: its strings are nowhere")


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _parts(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for text in texts for part in text.split(":") if part)
