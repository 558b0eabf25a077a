"""Local archives that ADD unpacks.

Owns telling an archive from a file and unpacking it at a destination. Does not know where the file came from.
"""

from typing import BinaryIO

from kedge.model.errors import IntegrityError
from kedge.storage.compression import decompressed
from kedge.storage.ownership import Ids
from kedge.storage.tar_read import Unpacked, unpack
from kedge.storage.tar_reader import Limits, TarReader


def is_archive(file: BinaryIO) -> bool:
    """Whether `file`, after decompression, starts with a tar header. Leaves it at its start; False for a bad archive.

    An archive without any entry is none, as for Docker: it is copied.
    """
    try:
        return next(iter(TarReader(decompressed(file), Limits())), None) is not None
    except IntegrityError:
        return False
    finally:
        file.seek(0)


def unpack_archive(file: BinaryIO, directory_fd: int, owner: Ids | None = None) -> Unpacked:
    """Decompress and unpack `file` into the directory as ADD does. Raises IntegrityError, StoreError."""
    return unpack(decompressed(file), directory_fd, layer=False, owner=owner)
