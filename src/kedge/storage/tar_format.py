"""The tar format's words: an entry, its types, and the numbers' and records' encodings.

Owns what reader and writer share. Does not read or write streams. Sources: POSIX pax(1), "ustar Interchange Format" and
"pax Header Block"; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
"""

from dataclasses import dataclass, field

BLOCK = 512


@dataclass(slots=True)
class Entry:
    """One member of an archive, its extended headers applied. Names are bytes, exactly as in the archive.

    `kind` is one of the ustar type flags `0` (file), `1` (hard link), `2` (symlink), `3`, `4` (devices), `5` (directory),
    `6` (FIFO). `size` counts the bytes the file has when unpacked, `stored` those in the archive; they differ only with
    `sparse`, the (offset, length) of each piece of data. `mtime` is in nanoseconds since the epoch.
    """

    name: bytes
    kind: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    stored: int = 0
    mtime: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[int, int]] | None = None
