"""Local archives that ADD unpacks.

Owns telling an archive from a file and unpacking it at a destination. Does not know where the file came from.
"""

from typing import BinaryIO

from kedge.storage.ownership import Ids
from kedge.storage.tar_read import Unpacked


def is_archive(file: BinaryIO) -> bool:
    """Whether `file`, after decompression, starts with a tar header. Leaves it at its start. False for a bad archive."""
    raise NotImplementedError


def unpack_archive(file: BinaryIO, directory_fd: int, owner: Ids | None = None) -> Unpacked:
    """Decompress and unpack `file` into the directory as ADD does. Raises IntegrityError, StoreError."""
    raise NotImplementedError
