"""Berkeley DB's hash files, as far as the values in one are read: rpm's `Packages` of RHEL 7, Amazon Linux 2 and older.

Owns the format (Berkeley DB's dbinc/db_page.h, hash versions 8 and 9, in both byte orders): pages of entries, of which
each even one is a key and the next its value, and chains of overflow pages that long values are in. Follows no bucket:
every page of the file is looked at once, so that nothing in it can send the reader in a circle. Does not know what a
value is.
"""

import os
import struct
from collections.abc import Iterator
from typing import Final

from kedge.model.value import dataclass

_HASH: Final = 0x061561
_VERSIONS: Final = (8, 9)
_IS_HASH_METADATA, _OVERFLOW = 8, 7  # page types
_ENTRIES: Final = (2, 13)  # page types: hash entries, unsorted and sorted
_ON_PAGE, _OFF_PAGE = 1, 3  # entry types
_HEADER: Final = 26  # bytes before a page's entries
_SMALLEST, _LARGEST = 512, 65536  # bytes of a page


@dataclass(frozen=True, slots=True)
class _Book:
    fd: int
    order: str  # struct's word for the byte order
    size: int  # bytes of a page
    last: int  # number of the last page

    def page(self, number: int) -> bytes:
        return os.pread(self.fd, self.size, number * self.size) if number <= self.last else b""

    def unpack(self, form: str, page: bytes, at: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + form, page, at)


def values(fd: int, longest: int) -> Iterator[bytes]:
    """The values of a hash file, none over `longest` bytes; nothing for any other file. Stops at what is damaged."""
    book = _opened(fd)
    if book is None:
        return
    left = 2 * os.fstat(fd).st_size  # bytes of long values: no two are in the same pages, but who knows
    for number in range(1, book.last + 1):
        page = book.page(number)
        if len(page) < book.size or page[25] not in _ENTRIES:
            continue
        for entry in _entries(book, page)[1::2]:
            if entry[:1] == bytes((_ON_PAGE,)):
                yield entry[1:]
            elif entry[:1] == bytes((_OFF_PAGE,)) and len(entry) >= 12:
                start, length = book.unpack("II", entry, 4)
                left -= length
                if left < 0:
                    return
                if length <= longest and len(value := _long(book, start, length)) == length:
                    yield value


def _opened(fd: int) -> _Book | None:
    head = os.pread(fd, 64, 0)
    for order in "<>":
        if len(head) < 64 or struct.unpack_from(order + "I", head, 12)[0] != _HASH:
            continue
        version, size, encryption, kind, flags = struct.unpack_from(order + "IIBBB", head, 16)
        plain = kind == _IS_HASH_METADATA and not encryption and not flags
        if version in _VERSIONS and plain and _SMALLEST <= size <= _LARGEST and size & (size - 1) == 0:
            pages = os.fstat(fd).st_size // size
            return _Book(fd, order, size, min(struct.unpack_from(order + "I", head, 32)[0], pages - 1))
    return None


def _entries(book: _Book, page: bytes) -> list[bytes]:
    """A page's entries, which stand from its end backwards; none if they overlap, or lie outside."""
    (count,) = book.unpack("H", page, 20)
    first = _HEADER + 2 * count
    if first > book.size:
        return []
    found, end = [], book.size
    for start in book.unpack(f"{count}H", page, _HEADER):
        if not first <= start < end:
            return []
        found.append(page[start:end])
        end = start
    return found


def _long(book: _Book, number: int, length: int) -> bytes:
    """A value from its chain of pages; less than all of it if the chain is broken. Every page brings it nearer."""
    parts, left = [], length
    while left > 0:
        page = book.page(number)
        if len(page) < book.size or page[25] != _OVERFLOW:
            break
        following, here = book.unpack("I", page, 16)[0], book.unpack("H", page, 22)[0]
        part = page[_HEADER : _HEADER + min(here, left)]
        if not part:
            break
        parts.append(part)
        left, number = left - len(part), following
    return b"".join(parts)
