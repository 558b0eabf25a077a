"""Messages in a stream of bytes as gRPC has them, five bytes before each ("gRPC over HTTP2", Length-Prefixed-Message).

Owns those five bytes. Does not know what a message is.
"""

import struct
import zlib
from collections import deque
from typing import Final

_PREFIX: Final = struct.Struct(">BI")  # is it compressed, length


class Unreadable(Exception):
    """What came cannot be taken apart; says why."""


class TooLarge(Unreadable):
    """A message has more bytes than are taken."""


def framed(data: bytes) -> bytes:
    """A message as it travels."""
    return _PREFIX.pack(0, len(data)) + data


class Unframer:
    """Takes messages of at most `most` bytes out of pieces of any size; `ready` has those that are whole."""

    def __init__(self, most: int) -> None:
        self.ready: deque[bytes] = deque()
        self.encoding = "identity"  # how compressed ones are compressed: the header grpc-encoding
        self._most, self._rest = most, b""

    @property
    def is_between(self) -> bool:
        """Has nothing of a further message come?"""
        return not self._rest

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises Unreadable."""
        buffer = self._rest + data if self._rest else data
        at, end = 0, len(buffer)
        while end - at >= 5:
            compressed, length = _PREFIX.unpack_from(buffer, at)
            if length > self._most:
                raise TooLarge(f"a message of {length} bytes is larger than {self._most}")
            if end - at - 5 < length:
                break
            message = buffer[at + 5 : at + 5 + length]
            self.ready.append(self._expanded(message) if compressed else message)
            at += 5 + length
        self._rest = buffer[at:]

    def _expanded(self, message: bytes) -> bytes:
        if self.encoding != "gzip":
            raise Unreadable(f"a message is compressed by {self.encoding[:40]}")
        expander = zlib.decompressobj(wbits=31)
        try:
            found = expander.decompress(message, self._most)
        except zlib.error:
            raise Unreadable("a compressed message is damaged") from None
        if not expander.eof:
            raise TooLarge(f"a compressed message has more than {self._most} bytes, or is cut off")
        return found
