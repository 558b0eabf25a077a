"""Copying one regular file's bytes the cheapest way the kernel allows, holes kept.

Owns reflinks, copy_file_range(2) and the loop below them. Does not know names or metadata.
"""

import errno
import os

from kedge.kernel import syscalls

_SMALL = 1 << 16
_CHUNK = 1 << 20
_NOT_HERE = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EIO, errno.EBADF)


def copy_bytes(source: int, dest: int, size: int, blocks: int) -> None:
    """Fill the empty file `dest` with `size` bytes of `source`; `blocks` is its st_blocks. Raises OSError."""
    if size <= _SMALL:
        _copy_plainly(source, dest, size)
        return
    if syscalls.reflink(source, dest):
        return
    if blocks * 512 < size:
        _copy_pieces(source, dest, size)
    else:
        _copy_range(source, dest, 0, size)


def _copy_pieces(source: int, dest: int, size: int) -> None:
    """Copy only where there is data: lseek(2), SEEK_DATA."""
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = min(os.lseek(source, start, os.SEEK_HOLE), size)
        _copy_range(source, dest, start, at - start)
    os.ftruncate(dest, size)


def _copy_range(source: int, dest: int, start: int, length: int) -> None:
    done = 0
    while done < length:
        try:
            count = os.copy_file_range(source, dest, length - done, start + done, start + done)
        except OSError as error:
            if done or error.errno not in _NOT_HERE:
                raise
            count = 0
        if not count:  # not between these file systems, or a file of a kind that says 0 (proc(5))
            os.lseek(source, start + done, os.SEEK_SET)
            os.lseek(dest, start + done, os.SEEK_SET)
            _copy_plainly(source, dest, length - done)
            return
        done += count


def _copy_plainly(source: int, dest: int, size: int) -> None:
    while size > 0 and (data := os.read(source, min(size, _CHUNK))):
        size -= len(data)
        while data:
            data = data[os.write(dest, data) :]
