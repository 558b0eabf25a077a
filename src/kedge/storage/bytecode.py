"""Python's cached bytecode, whose header remembers when its source was changed.

Owns that header (PEP 552) and what becomes of it when a layer's times are lowered: bytecode that remembers the old time
would be taken for stale, compiled anew at every start of the program, and differ from build to build. Compiles nothing.
"""

import os
import struct

_HEADER = struct.Struct("<4sIII")  # magic, flags, mtime and size of the source, the latter two modulo 2**32
HEADER_SIZE = _HEADER.size
_BY_TIME = 0  # flags: otherwise the header holds a hash of the source, and no time


def is_bytecode(path: bytes) -> bool:
    """Is it named like cached bytecode of a source beside its `__pycache__`?"""
    return path.endswith(b".pyc") and b"__pycache__/" in path


def source_of(path: bytes) -> bytes:
    """Where the source of `…/__pycache__/name.tag.pyc` is: `…/name.py`."""
    folder, _, name = path.rpartition(b"/")
    return os.path.join(os.path.dirname(folder), name.split(b".", 1)[0] + b".py")


def lowered(header: bytes, source_mtime: int, limit: int) -> bytes:
    """The header for a source whose time, in seconds, is lowered from `source_mtime` to `limit`.

    A header that is not by time, or that does not match its source as it is, comes back unchanged.
    """
    if len(header) < HEADER_SIZE or source_mtime <= limit:
        return header
    magic, flags, mtime, size = _HEADER.unpack_from(header)
    if flags != _BY_TIME or mtime != source_mtime & 0xFFFFFFFF:
        return header
    return _HEADER.pack(magic, flags, limit & 0xFFFFFFFF, size)
