"""File modes on their way between client and builder: Go's os.FileMode in messages, stat's st_mode on disk.

Owns the two tables. Source: Go's io/fs documentation, inode(7).
"""

import stat

DIRECTORY, SYMLINK, DEVICE, PIPE, SOCKET, CHARACTER, IRREGULAR = (
    1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24, 1 << 21, 1 << 19,
)  # fmt: skip
TYPE = DIRECTORY | SYMLINK | DEVICE | PIPE | SOCKET | CHARACTER | IRREGULAR
_SPECIAL = ((1 << 23, stat.S_ISUID), (1 << 22, stat.S_ISGID), (1 << 20, stat.S_ISVTX))
_TYPES = (
    (DIRECTORY, stat.S_IFDIR),
    (SYMLINK, stat.S_IFLNK),
    (DEVICE | CHARACTER, stat.S_IFCHR),
    (DEVICE, stat.S_IFBLK),
    (PIPE, stat.S_IFIFO),
    (SOCKET, stat.S_IFSOCK),
    (0, stat.S_IFREG),
)


def to_stat(mode: int) -> int | None:
    """st_mode of a Go mode, None for a type that no file here can have."""
    kind = next((ours for theirs, ours in _TYPES if mode & TYPE == theirs), None)
    if kind is None:
        return None
    return kind | (mode & 0o777) | sum(ours for theirs, ours in _SPECIAL if mode & theirs)


def to_go(mode: int) -> int:
    """The Go mode of an st_mode."""
    kind = next(theirs for theirs, ours in _TYPES if stat.S_IFMT(mode) == ours)
    return kind | (mode & 0o777) | sum(theirs for theirs, ours in _SPECIAL if mode & ours)
