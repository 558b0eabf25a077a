"""Where the dynamic loaders of glibc and musl look for a program's libraries, and what they would not find.

Owns the search orders: ld.so(8) with the cache of ldconfig(8) for glibc; musl's ldso/dynlink.c behaviour with its path
file. In doubt a library counts as found: a warning must be right. Does not know what a program is for.
"""

import posixpath
import struct
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Final

from kedge.checks.elf import Elf, read_elf
from kedge.checks.files import Files
from kedge.model.errors import IntegrityError
from kedge.model.value import dataclass

_MOST_LIBRARIES = 1024
_MOST_LOOKS = 10_000  # files looked for in one check: a hostile program may name millions of places
_LARGEST_CACHE = 8 << 20  # bytes of /etc/ld.so.cache
_TRIPLETS: Final = {  # (e_machine, bits, little-endian) -> Debian's multiarch directory
    (3, 32, True): "i386-linux-gnu",
    (62, 64, True): "x86_64-linux-gnu",
    (62, 32, True): "x86_64-linux-gnux32",
    (40, 32, True): "arm-linux-gnueabihf",
    (183, 64, True): "aarch64-linux-gnu",
    (21, 64, True): "powerpc64le-linux-gnu",
    (243, 64, True): "riscv64-linux-gnu",
    (22, 64, False): "s390x-linux-gnu",
    (258, 64, True): "loongarch64-linux-gnu",
}
_PLATFORMS: Final = {62: "x86_64", 3: "i686", 183: "aarch64", 40: "v7l", 21: "power8", 243: "riscv64", 22: "z900"}
# Names that musl's loader answers itself, whatever follows the dot.
_MUSL_OWN: Final = tuple(f"lib{name}." for name in ("c", "pthread", "rt", "m", "dl", "util", "xnet"))


@dataclass(frozen=True, slots=True)
class Library:
    """A loaded object, and who asked for it (None for the program): RPATHs are inherited along that line."""

    path: str
    elf: Elf
    parent: "Library | None" = None

    def line(self) -> Iterator["Library"]:
        """This object, its parent, and so on up to the program."""
        one: Library | None = self
        while one:
            yield one
            one = one.parent


@dataclass(frozen=True, slots=True)
class Missing:
    """A library that would not be found, and the path of the object that names it."""

    name: str
    wanted_by: str


class Loader:
    """Finds libraries in one tree. `search` are the directories of LD_LIBRARY_PATH, `cwd` the working directory."""

    def __init__(self, files: Files, search: Iterable[str] = (), cwd: str = "/") -> None:
        self._files, self._search, self._cwd = files, tuple(search), cwd
        self._looks = 0

    def missing(self, path: str, elf: Elf) -> list[Missing]:
        """The libraries that a program would look for in vain, its libraries' libraries included.

        `path` is the program's, without symlinks. The interpreter itself is not looked for here. [] for a program that
        names so many places that nobody can say.
        """
        musl = self.is_musl(elf)
        loaded = {posixpath.basename(elf.interpreter)}
        missing: dict[str, Missing] = {}
        todo = [Library(path, elf)]
        for one in todo:  # grows: breadth first, as loaders go
            for name in one.elf.needed:
                if name in loaded or name in missing or (musl and name.startswith(_MUSL_OWN)):
                    continue
                found = self._find(name, one, musl)
                if self._looks > _MOST_LOOKS:
                    return []
                if found is None:
                    missing[name] = Missing(name, one.path)
                elif len(todo) < _MOST_LIBRARIES:
                    todo.append(found)
                    loaded |= {name, found.elf.soname}
        return list(missing.values())

    def is_musl(self, elf: Elf) -> bool:
        """Whether the loader that would be started is musl's, perhaps in the place of glibc's (Alpine's gcompat)."""
        if not elf.interpreter or "ld-musl" in elf.interpreter:
            return bool(elf.interpreter)
        real = posixpath.basename(self._files.resolved(posixpath.join(self._cwd, elf.interpreter)))
        return "musl" in real or "gcompat" in real

    def locate(self, name: str, path: str, elf: Elf) -> str | None:
        """Where the library `name` of the program at `path` would be found."""
        found = self._find(name, Library(path, elf), self.is_musl(elf))
        return found.path if found else None

    def _find(self, name: str, by: Library, musl: bool) -> Library | None:
        if "/" in name:
            candidates: Iterable[str] = (name,)
        else:
            candidates = self._of_musl(name, by) if musl else self._of_glibc(name, by)
        for candidate in candidates:
            if found := self._load(posixpath.join(self._cwd, candidate), by):
                return found
            if self._looks > _MOST_LOOKS:
                break
        return None

    def _load(self, path: str, by: Library) -> Library | None:
        """The library at `path` if it can be loaded beside `by`: others of that name are passed over."""
        self._looks += 1
        with self._files.reading(path) as reader:
            if reader is None:
                return None
            try:
                elf = read_elf(reader)
            except IntegrityError:
                return None
        return Library(path, elf, by) if elf and elf.abi == by.elf.abi else None

    # ---- search orders ----------------------------------------------------------------------------------------------

    def _of_glibc(self, name: str, by: Library) -> Iterator[str]:
        """The paths where glibc's loader looks for a name, in its order."""
        first: list[str] = []
        if not by.elf.runpath:
            for one in by.line():
                first += [] if one.elf.runpath else self._expanded(one.elf.rpath, one)
        first += [*self._search, *self._expanded(by.elf.runpath, by)]
        yield from (f"{directory}/{name}" for directory in first)
        yield from self.cache(by.elf.little).get(name, ())
        triplet = _TRIPLETS.get(by.elf.abi)
        last = [f"/lib/{triplet}", f"/usr/lib/{triplet}"] if triplet else []
        last += ["/lib64", "/usr/lib64"] if by.elf.bits == 64 else ["/lib32", "/usr/lib32"]
        yield from (f"{directory}/{name}" for directory in (*last, "/lib", "/usr/lib"))

    def _of_musl(self, name: str, by: Library) -> Iterator[str]:
        """The paths where musl's loader looks for a name, in its order."""
        directories = list(self._search)
        for one in by.line():
            directories += self._expanded(one.elf.runpath or one.elf.rpath, one)
        program = list(by.line())[-1]
        directories += self._musl_path(program.elf.interpreter)
        yield from (f"{directory}/{name}" for directory in directories)

    def _musl_path(self, interpreter: str) -> list[str]:
        """The directories of /etc/ld-musl-ARCH.path, which stands beside the loader's own `lib`."""
        name = posixpath.basename(interpreter).partition(".so")[0]
        text = self._files.read(f"/etc/{name}.path", 64 << 10).decode("utf-8", "surrogateescape")
        words = [word for line in text.split("\n") for word in line.split(":") if word]
        return words or ["/lib", "/usr/local/lib", "/usr/lib"]

    def _expanded(self, directories: Iterable[str], of: Library) -> Iterator[str]:
        """RPATH's parts with ld.so(8)'s tokens replaced; $LIB is tried in each of its meanings."""
        for directory in directories:
            text = directory.replace("${", "$").replace("}", "") if "${" in directory else directory
            if "$ORIGIN" in text:
                text = text.replace("$ORIGIN", posixpath.dirname(of.path))
            text = text.replace("$PLATFORM", _PLATFORMS.get(of.elf.machine, ""))
            if "$LIB" not in text:
                yield text
                continue
            triplet = _TRIPLETS.get(of.elf.abi)
            for lib in ("lib64", "lib", *([f"lib/{triplet}"] if triplet else [])):
                yield text.replace("$LIB", lib)

    def cache(self, little: bool = True) -> dict[str, tuple[str, ...]]:
        """What /etc/ld.so.cache says: library name -> paths, in its order."""
        return self._cache if little else read_cache(self._cache_bytes, False)

    @cached_property
    def _cache(self) -> dict[str, tuple[str, ...]]:
        return read_cache(self._cache_bytes, True)

    @cached_property
    def _cache_bytes(self) -> bytes:
        return self._files.read("/etc/ld.so.cache", _LARGEST_CACHE)


_OLD, _NEW = b"ld.so-1.7.0\0", b"glibc-ld.so.cache1.1"


def read_cache(data: bytes, little: bool = True) -> dict[str, tuple[str, ...]]:
    """The entries of an ld.so.cache in glibc's new format, alone or behind the old one; {} for anything else."""
    order = "<" if little else ">"
    try:
        start = 0
        if data.startswith(_OLD):
            (count,) = struct.unpack_from(order + "I", data, 12)
            start = (16 + 12 * count + 7) & ~7
        if data[start : start + len(_NEW)] != _NEW:
            return {}
        (count,) = struct.unpack_from(order + "I", data, start + 20)
        if start + 48 + 24 * count > len(data):
            return {}
        found: dict[str, list[str]] = {}
        for at in range(count):
            _, key, value = struct.unpack_from(order + "iII", data, start + 48 + 24 * at)
            found.setdefault(_string(data, start + key), []).append(_string(data, start + value))
    except struct.error:
        return {}
    return {name: tuple(paths) for name, paths in found.items()}


def _string(data: bytes, at: int) -> str:
    end = data.find(b"\0", at, at + 4096)
    return data[at:end].decode("utf-8", "surrogateescape") if 0 <= at < len(data) and end > at else ""
